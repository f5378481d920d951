"""The building blocks of the page as plain data; assets/blocks.js and chart.js draw them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rlvr.report.diagnosis.finding import Finding
from rlvr.report.series import Points, running_mean, thin, window_len

Block = dict[str, Any]
Blocks = list[Block | None]
"""None: a block without data, which the page leaves out."""

Column = tuple[str, str | Callable[[Any], object]]
"""Title of a table's column, and the key of a record or a function of it that gives the cell."""


def section(name: str, title: str, blocks: Iterable[Block | None], intro: str = "") -> Block | None:
    """A titled section, or None where no block has data."""
    there = [block for block in blocks if block is not None]
    return {"id": name, "title": title, "intro": intro, "blocks": there} if there else None


def text(words: str) -> Block:
    return {"type": "text", "text": words}


def facts(rows: Iterable[tuple[str, object]]) -> Block | None:
    """Names and values, one line each."""
    there = [[name, show(value)] for name, value in rows if value is not None]
    return {"type": "facts", "rows": there} if there else None


def tiles(rows: Iterable[tuple[str, object, str]]) -> Block | None:
    """A few large numbers: name, value, small print."""
    there = [[name, show(value), note] for name, value, note in rows if value is not None]
    return {"type": "tiles", "rows": there} if there else None


def table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Block | None:
    """A table whose first column names the row."""
    there = [[show(cell) for cell in row] for row in rows]
    if not there:
        return None
    return {"type": "table", "caption": caption, "columns": list(columns), "rows": there}


def record_table(caption: str, columns: Sequence[Column], records: Iterable[Any]) -> Block | None:
    """A table with one row for each record."""
    rows = [[r.get(c) if isinstance(c, str) else c(r) for _, c in columns] for r in records]
    return table(caption, [title for title, _ in columns], rows)


def details(summary: str, blocks: Iterable[Block | None]) -> Block | None:
    """Blocks behind a line that opens them."""
    there = [block for block in blocks if block is not None]
    return {"type": "details", "summary": summary, "blocks": there} if there else None


def findings_block(findings: Iterable[Finding]) -> Block | None:
    """Findings as cards, in the order given."""
    items = [asdict(finding) for finding in findings]
    return {"type": "findings", "items": items} if items else None


def line(
    name: str,
    points: Sequence[tuple[float, float]],
    *,
    style: int,
    band: Sequence[tuple[float, float, float]] = (),
    kind: str = "line",
) -> Block:
    """One series. band: (x, low, high). kind: "line", "dots" (faint), "marks" (with a line),
    "points" (markers alone), "bars" (markers with band as error bars). style: colour, dash and
    marker together."""
    return {
        "name": name,
        "style": style,
        "kind": kind,
        "points": [[_short(x), _short(y)] for x, y in points],
        "band": [[_short(x), _short(lo), _short(hi)] for x, lo, hi in band],
    }


def chart(
    title: str,
    x: str,
    y: str,
    series: Iterable[Block | None],
    *,
    note: str = "",
    log_x: bool = False,
    log_y: bool = False,
    from_zero: bool = False,
    percent: bool = False,
    marks: Sequence[Block] = (),
) -> Block | None:
    """A line chart, or None without a point. marks: vertical lines from `mark`."""
    there = [s for s in series if s is not None and s["points"]]
    if not there:
        return None
    return {
        "type": "chart",
        "title": title,
        "note": note,
        "x": {"label": x, "log": log_x},
        "y": {"label": y, "log": log_y, "zero": from_zero, "percent": percent},
        "series": there,
        "marks": list(marks),
    }


def mark(name: str, x: float, style: int, ci95: Sequence[float] = ()) -> Block:
    """A vertical line at x, with its interval where that is finite."""
    span = [_short(end) for end in ci95] if ci95 and all(map(math.isfinite, ci95)) else None
    return {"name": name, "x": _short(x), "style": style, "span": span}


def forest(
    title: str,
    x: str,
    rows: Iterable[tuple[str, Mapping[str, Any] | None, str, bool]],
    *,
    zero: bool = False,
    note: str = "",
) -> Block | None:
    """Intervals {"value", "ci95"} of fractions under each other, in percent: label, interval,
    remark, whether it is drawn filled. zero: draw a line there."""
    there = [
        [label, *(_short(100 * v) for v in (i["value"], *i["ci95"])), remark, filled]
        for label, i, remark, filled in rows
        # a mean over a single value has an interval without ends
        if i is not None and i.get("value") is not None and all(map(math.isfinite, i["ci95"]))
    ]
    if not there:
        return None
    return {"type": "forest", "title": title, "x": x, "rows": there, "zero": zero, "note": note}


def over_steps(name: str, points: Points, style: int, *, smooth: bool = False) -> list[Block]:
    """The series of one metric; smooth: its points faint, behind the running mean and its band."""
    if not points:
        return []
    # a mean over so few points is no trend: each is marked
    if not smooth or len(points) < 8:
        kind = "marks" if len(points) < 8 else "line"
        return [line(name, thin(points), style=style, kind=kind)]
    window = window_len(len(points))
    mean = running_mean(points, window)
    # the mean and its band are thinned at the same steps
    chosen = {x for x, _ in thin([(x, y) for x, y, _ in mean])}
    kept = [point for point in mean if point[0] in chosen]
    band = [(x, y - half, y + half) for x, y, half in kept]
    averaged = f"{name}, mean of {window} steps"
    return [
        line("each step", thin(points), style=style, kind="dots"),
        line(averaged, [(x, y) for x, y, _ in kept], style=style, band=band),
    ]


def show(value: object) -> str:
    """A value as the page writes it."""
    match value:
        case None:
            return "-"
        # before int, since True is an int
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float() if not math.isfinite(value):
            return str(value)
        case float():
            return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
        case list() | tuple():
            return ", ".join(map(show, value))
        case _:
            return str(value)


def percent_interval(value: Mapping[str, Any] | None, sign: str = "") -> str:
    """A fraction's `{"value", "ci95"}` in percent: `43.3 [37.1, 49.8]`, or a dash."""
    if not value or value.get("value") is None:
        return "-"
    middle, lo, hi = (f"{100 * x:{sign}.1f}" for x in (value["value"], *value["ci95"]))
    return f"{middle} [{lo}, {hi}]"


def _short(value: float) -> float | None:
    """Six digits are more than a screen shows; what is not finite has no place on it."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
