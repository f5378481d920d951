"""The section on when responses ran, weights changed and the update went on, from traces."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from rlvr.report.blocks import Block, details, section
from rlvr.report.series import evenly
from rlvr.runs.reader import RunData, read_json, trace_files

INTRO = (
    "What the first rank's engine did during a step: a bar for each response, from when it was"
    " asked for to when it ended. With asynchronous rollouts those of later steps run beside the"
    " update."
)
MAX_ROWS = 320
"""Rows that are drawn; of more, evenly chosen ones."""
KINDS = ("ended", "continued and ended", "paused", "aborted", "running on")
"""What became of a response in the step: names of the colours."""


def timeline_section(run: RunData) -> Block | None:
    """The last traced step that generated; two earlier ones behind a line that opens them."""
    files = trace_files(run.folder) if run.folder else {}
    pictures = [timeline(step, path) for step, path in files.items()]
    drawn = [picture for picture in pictures if picture is not None and picture["rows"]]
    *earlier, last = evenly(drawn, 3) or [None]
    earlier.reverse()
    words = f"Earlier: {', '.join(picture['title'].lower() for picture in earlier)}"
    blocks = [last, details(words, earlier)]
    return section("timeline", "Timeline of a step", blocks, INTRO)


def timeline(step: int, path: Path) -> Block | None:
    """The picture of one trace; None where the file cannot be read."""
    trace = read_json(path) or {}
    try:
        return _picture(step, trace)
    except (ArithmeticError, KeyError, TypeError, ValueError):  # not as this version writes it
        return None


def _picture(step: int, trace: dict[str, Any]) -> Block:
    seconds = trace["seconds"]
    rows = [dict(zip(trace["columns"], row, strict=True)) for row in trace["rows"]]
    bars = [bar for row in rows if (bar := _bar(row, seconds))[1] > 0]
    # those asked for together are a few clock ticks apart
    bars.sort(key=lambda bar: (round(100 * bar[0] / seconds), bar[1]))
    counts = Counter(kind for _, _, kind in bars)
    said = [f"{counts[kind]} {name}" for kind, name in enumerate(KINDS) if counts[kind]]
    steps = max((row["end_step"] or 0 for row in rows), default=0)
    note = f"{len(bars)} responses: {', '.join(said)}; {steps} decoding steps."
    if len(bars) > MAX_ROWS:
        note += f" {MAX_ROWS} of them are drawn, evenly chosen."
    return {
        "type": "timeline",
        "title": f"Step {step}",
        "note": note,
        "seconds": seconds,
        "kinds": KINDS,
        "phases": [[name, max(0.0, a), b] for name, a, b in trace["phases"] if b > 0],
        "ticks": [at for at, _ in trace["ticks"] if 0 <= at <= seconds],
        "rows": evenly(bars, MAX_ROWS),
    }


def _bar(row: dict[str, Any], seconds: float) -> tuple[float, float, int]:
    """(begin, end, kind) of a response inside the step."""
    end = seconds if row["end_s"] is None else min(row["end_s"], seconds)
    kinds = {"ended": 1 if row["begun_len"] else 0, "paused": 2, "aborted": 3, "running": 4}
    return max(0.0, row["begin_s"]), end, kinds[row["state"]]
