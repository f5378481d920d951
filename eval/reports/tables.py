"""Tables of scores as text, Markdown, CSV, LaTeX or JSON."""

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

FORMATS = ("text", "md", "csv", "latex", "json")

_LATEX_SPECIAL = re.compile(r"([&%$#_{}])")


@dataclass(frozen=True, slots=True)
class Table:
    """A titled table of strings. notes: lines that belong below it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def render(tables: Sequence[Table], style: str, data: object = None) -> str:
    """The tables in one of FORMATS; for "json" the data behind them instead."""
    if style == "json":
        return json.dumps(data, indent=1, ensure_ascii=False)
    if style not in _WRITERS:
        raise ValueError(f"format {style!r}: choose one of {', '.join(FORMATS)}")
    return "\n\n".join(_WRITERS[style](table) for table in tables if table.rows)


def percent(metric: dict | None) -> str:
    """`43.3 [37.1, 49.8]` in percent, or a dash."""
    if metric is None:
        return "-"
    lo, hi = metric["ci95"]
    return f"{100 * metric['value']:.1f} [{100 * lo:.1f}, {100 * hi:.1f}]"


def _text(table: Table) -> str:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as RichTable

    grid = RichTable(title=table.title, box=SIMPLE_HEAD, title_justify="left")
    for i, column in enumerate(table.columns):
        grid.add_column(column, justify="left" if i == 0 else "right", no_wrap=True)
    for row in table.rows:
        grid.add_row(*row)
    # rich cuts cells to the terminal's width, and a log has none
    width = 8 + sum(
        3 + max(len(row[i]) for row in (table.columns, *table.rows))
        for i in range(len(table.columns))
    )
    # a name in square brackets is no markup
    console = Console(file=io.StringIO(), width=width, markup=False)
    with console.capture() as capture:
        console.print(grid)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    return "\n".join([*lines, *table.notes]).rstrip()


def _markdown(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = "| --- |" + " ---: |" * (len(table.columns) - 1)
    notes = [f"\n{note}" for note in table.notes]
    head = [f"**{table.title}**\n", line(table.columns), rule]
    return "\n".join([*head, *map(line, table.rows), *notes])


def _csv(table: Table) -> str:
    file = io.StringIO()
    # csv's own line end is \r\n
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(table.rows)
    return file.getvalue().rstrip("\n")


def _latex(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return " & ".join(_LATEX_SPECIAL.sub(r"\\\1", cell) for cell in cells) + r" \\"

    title = _LATEX_SPECIAL.sub(r"\\\1", table.title)
    return "\n".join(
        [
            f"% {title}",
            rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
            r"\toprule",
            line(table.columns),
            r"\midrule",
            *map(line, table.rows),
            r"\bottomrule",
            r"\end{tabular}",
            *(f"% {note}" for note in table.notes),
        ]
    )


_WRITERS = {"text": _text, "md": _markdown, "csv": _csv, "latex": _latex}
