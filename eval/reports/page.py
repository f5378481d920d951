"""One self-contained HTML page of a scored folder: tables, and a bar for every problem.

Every text is escaped; the page loads nothing and runs no script.
"""

from collections.abc import Sequence
from html import escape

from eval.intervals import wilson
from eval.reports.report import results_tables
from eval.reports.tables import Table

BAR, GAP, HEIGHT, PER_ROW = 9, 3, 70, 80
"""Bar width, gap and height in pixels, and bars in a row."""

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto;
  padding: 0 1rem; }
table { border-collapse: collapse; margin: .6rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .15rem .7rem; text-align: right; border-bottom: 1px solid #e3e3e3; }
th:first-child, td:first-child { text-align: left; }
.note { color: #666; font-size: 13px; margin: .2rem 0; }
.wide { overflow-x: auto; }
svg { display: block; margin: .5rem 0; }
.frame { fill: #f1f3f5; } .bar { fill: #1f5fa8; } .error { stroke: #c8501e; }
"""


def page(results: dict, problems: Sequence[dict], *, title: str) -> str:
    """The page of what `score_problems` returns."""
    parts = [_table(table) for table in results_tables(results) if table.rows]
    for name, result in results["benchmarks"].items():
        rows = [problem for problem in problems if problem["benchmark"] == name]
        parts += [f"<h2>{escape(name)}</h2>", _bars(rows), _table(_reasons(result))]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}'
        f"</title><style>{STYLE}</style></head><body><h1>{escape(title)}</h1>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n"
        for row in table.rows
    )
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in table.notes)
    return (
        f'<h3>{escape(table.title)}</h3><div class="wide"><table><tr>{head}</tr>\n{body}'
        f"</table></div>{notes}"
    )


def _reasons(result: dict) -> Table:
    rows = tuple(
        (reason, str(entry["count"]), f"{100 * entry['value']:.1f}")
        for reason, entry in result["reasons"].items()
    )
    return Table("Reasons", ("reason", "responses", "percent"), rows)


def _bars(problems: Sequence[dict]) -> str:
    """A bar per problem, in the order of the benchmark, with its name and numbers on hover."""
    drawn = []
    for number, problem in enumerate(problems):
        x = number % PER_ROW * (BAR + GAP)
        top = number // PER_ROW * (HEIGHT + 10)
        n, c = problem["n"], problem["c"]
        interval = wilson(c, n)
        # from the foot of the frame; SVG's y grows downwards
        tall, low, high = (HEIGHT * v for v in (c / n, interval.lo, interval.hi))
        middle = x + BAR / 2
        where = ", ".join(str(problem[p]) for p in ("subject", "level") if p in problem)
        # the title element is the tooltip: the page needs no script
        text = (
            f"{problem['id']}{f' ({where})' if where else ''}: {c} of {n} right"
            f" [{interval.lo:.2f}, {interval.hi:.2f}]"
        )
        drawn.append(
            f'<g><title>{escape(text)}</title><rect class="frame" x="{x}" y="{top}" width="{BAR}"'
            f' height="{HEIGHT}"/><rect class="bar" x="{x}" y="{top + HEIGHT - tall:.1f}"'
            f' width="{BAR}" height="{tall:.1f}"/><line class="error" x1="{middle}" x2="{middle}"'
            f' y1="{top + HEIGHT - high:.1f}" y2="{top + HEIGHT - low:.1f}"/></g>'
        )
    width = min(len(problems), PER_ROW) * (BAR + GAP)
    tall = -(-len(problems) // PER_ROW) * (HEIGHT + 10)
    note = "Share of right samples of each problem; lines: Wilson 95% intervals over its samples."
    return (
        f'<p class="note">{note}</p><div class="wide"><svg width="{width}" height="{tall}"'
        ' role="img" aria-label="share of right samples by problem">'
        + "\n".join(drawn)
        + "</svg></div>"
    )
