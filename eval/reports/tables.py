"""Tables of what commands print, as text that fits the terminal, Markdown, CSV, LaTeX or JSON."""

import csv
import io
import json
import re
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

FORMATS = ("text", "md", "csv", "latex", "json")

_NUMBER = re.compile(r"[-+]?[\d.]")
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
    """A grid; on a terminal that is too narrow for it, a paragraph per row. No word is broken."""
    columns = list(zip(table.columns, *table.rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    terminal = shutil.get_terminal_size((0, 0)).columns  # 0: a log, which has room for any line
    excess = sum(widths) + 3 * len(widths) + 1 - terminal
    if not terminal or excess <= 0:
        return _grid(table, widths)
    widest = widths.index(max(widths))
    longest_word = max(len(word) for cell in columns[widest] for word in cell.split() or [""])
    if widths[widest] - excess < max(longest_word, widths[widest] / 2):
        return _paragraphs(table, terminal)
    widths[widest] -= excess
    return _grid(table, widths)


def _grid(table: Table, widths: Sequence[int]) -> str:
    """Rows of cells; one that is longer than its column goes on in the next line."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as RichTable

    grid = RichTable(box=SIMPLE_HEAD)
    for i, (column, width) in enumerate(zip(table.columns, widths, strict=True)):
        cells = [row[i] for row in table.rows if row[i] not in ("", "-")]
        numbers = i > 0 and all(map(_NUMBER.match, cells))
        grid.add_column(column, justify="right" if numbers else "left", width=width)
    for row in table.rows:
        grid.add_row(*row)
    # a name in square brackets is no markup
    console = Console(file=io.StringIO(), width=sum(widths) + 3 * len(widths) + 1, markup=False)
    with console.capture() as capture:
        console.print(grid)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    # not the grid's title, which rich would break where the grid ends
    return "\n".join([*_title(table), *lines, *table.notes]).rstrip()


def _title(table: Table) -> list[str]:
    return [table.title] if table.title else []


def _paragraphs(table: Table, width: int) -> str:
    """Per row its first cell, and below it the others with their columns' names; empty ones not."""
    lines = [*_title(table), ""]
    for first, *cells in table.rows:
        named = zip(table.columns[1:], cells, strict=True)
        lines += [first, *_filled([f"{name}: {cell}" for name, cell in named if cell], width)]
    return "\n".join([*lines, *table.notes]).rstrip()


def _filled(items: Sequence[str], width: int) -> list[str]:
    """Indented lines of as many items as each has room for; a longer item goes on in the next."""
    filled = [""]
    for item in items:
        if len(filled[-1]) + 3 + len(item) <= width:
            filled[-1] += f"   {item}" if filled[-1] else f"  {item}"
        else:
            filled.append(f"  {item}")
    return [
        part
        for line in filled
        for part in textwrap.wrap(
            line, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
        )
    ]


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
