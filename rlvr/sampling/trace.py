"""What ran in an engine while a step went on: when each response began and when it ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

COLUMNS = tuple("group place begin_s end_s begin_step end_step begun_len new_len state".split())
"""Of the rows that `Trace.take` gives."""


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
    """Rows, ticks and phases of this rank since the last `take`, those of other threads too."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: list[Row] = []
        self._ticks: list[tuple[float, int]] = []
        self._phases: list[tuple[str, float, float]] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Keeps when the block began and ended; one that raises is not kept."""
        begin = time.perf_counter()
        yield
        with self._lock:
            self._phases.append((name, begin, time.perf_counter()))

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

    def take(self, start: float) -> dict[str, Any]:
        """JSON-ready: what a step did that began at `start` (perf_counter) and ends now; seconds
        are counted from its begin. A row that has not ended is in the next step's too."""
        with self._lock:
            rows, ticks, phases = self._rows, self._ticks, self._phases
            self._rows = [row for row in rows if row.end_s is None]
            self._ticks, self._phases = [], []
            return {
                "seconds": round(time.perf_counter() - start, 4),
                "phases": [[name, *(round(t - start, 4) for t in span)] for name, *span in phases],
                "ticks": [[round(t - start, 4), step] for t, step in ticks],
                "columns": list(COLUMNS),
                "rows": [row.values(start) for row in rows],
            }
