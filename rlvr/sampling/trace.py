"""What ran in an engine while a step went on: when each response began and when it ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

COLUMNS = tuple("group place begin_s end_s begin_step end_step begun_len new_len state".split())
"""Of the rows that `Trace.take` gives."""
PHASES = {"update": "train", "sync": "sync"}
"""Phases of a step that are kept, and their names in its timer."""


@dataclass(slots=True)
class Row:
    """One response in an engine, from when it was asked for there to when it ended.

    group, place: number of the group in its stream, and place in it. begin_s, end_s:
    perf_counter. begin_step, end_step: decoding steps that the stream had made. begun_len: tokens
    that earlier weights had sampled; new_len: those that were added. state: "running", "ended",
    "paused" or "aborted".
    """

    group: int
    place: int
    begin_s: float
    begin_step: int
    begun_len: int
    end_s: float | None = None
    end_step: int | None = None
    new_len: int = 0
    state: str = "running"

    def end(self, state: str, step: int, new_len: int = 0) -> None:
        """The response leaves the engine after so many decoding steps."""
        self.end_s, self.end_step = time.perf_counter(), step
        self.state, self.new_len = state, new_len

    def values(self, start: float) -> list[Any]:
        """By COLUMNS, seconds counted from `start`; None for what has not ended."""
        begin_s = round(self.begin_s - start, 4)
        end_s = None if self.end_s is None else round(self.end_s - start, 4)
        seconds_and_steps = (begin_s, end_s, self.begin_step, self.end_step)
        return [
            *(self.group, self.place, *seconds_and_steps),
            *(self.begun_len, self.new_len, self.state),
        ]


class Trace:
    """Rows and ticks of this rank's streams since the last `take`; streams of other threads too."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: list[Row] = []
        self._ticks: list[tuple[float, int]] = []

    def begin(self, group: int, place: int, step: int, begun_len: int) -> Row:
        """A response that begins now; whoever asked for it ends the row."""
        row = Row(group, place, time.perf_counter(), step, begun_len)
        with self._lock:
            self._rows.append(row)
        return row

    def tick(self, step: int) -> None:
        """Groups are taken now, after so many decoding steps of their stream."""
        with self._lock:
            self._ticks.append((time.perf_counter(), step))

    def take(self, spans: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
        """JSON-ready: what was running in the step, and what is kept no longer.

        spans: (begin, end) by perf_counter of the phases of a step, by name; "step" is all of it.
        Seconds are counted from its begin. A row that has not ended is in the next step's too.
        """
        with self._lock:
            rows, ticks = self._rows, self._ticks
            self._rows, self._ticks = [row for row in rows if row.end_s is None], []
        start, end = spans["step"]
        phases = {name: spans[key] for name, key in PHASES.items() if key in spans}
        return {
            "seconds": round(end - start, 4),
            "phases": {name: [round(t - start, 4) for t in span] for name, span in phases.items()},
            "ticks": [[round(t - start, 4), step] for t, step in ticks],
            "columns": list(COLUMNS),
            "rows": [row.values(start) for row in rows],
        }
