"""Where a run's numbers go: metrics.jsonl, rollouts/, trace/, and the trackers that work.

A disk that cannot take them never stops a run: lines wait for room, with a warning.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.common.files import write_lines, write_whole
from rlvr.common.log import get_logger
from rlvr.runs.metrics import is_known
from rlvr.runs.reader import read_metrics
from rlvr.runs.services import Service, start_services

if TYPE_CHECKING:
    from rlvr.config.train import TrainRecipe

logger = get_logger(__name__)


REPORT = "report.html"


class Tracker:
    """Appends every step to metrics.jsonl first, then to the trackers of track.to. A tracker's
    failure never stops a run."""

    def __init__(self, recipe: TrainRecipe, run_dir: Path, run_id: str, resumed_step: int) -> None:
        self._path = run_dir / "metrics.jsonl"
        self._forget_after(resumed_step)
        # unbuffered: a killed run keeps every step that was logged
        self._file = self._path.open("ab", buffering=0)
        self._size = self._path.stat().st_size
        self._waiting: dict[int, bytes] = {}
        self._services = start_services(recipe, run_dir, run_id, resumed_step)

    def _forget_after(self, step: int) -> None:
        """Drops the lines of steps that a resumed run does again, and half-written ones."""
        if self._path.exists():
            kept = [row for row in read_metrics(self._path.parent) if row["step"] <= step]
            write_whole(self._path, "".join(json.dumps(row) + "\n" for row in kept))

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Writes one step. Names are those of METRICS and EVAL_METRICS."""
        unknown = [name for name in metrics if not is_known(name)]
        assert not unknown, f"{unknown}: not in METRICS"
        self._waiting[step] = (json.dumps({"step": step, **metrics}) + "\n").encode()
        self._append()
        self._tell(lambda service: service.log(step, metrics))

    def _tell(self, action: Callable[[Service], None]) -> None:
        """Does it with every tracker; one that raises gets nothing more."""
        for service in list(self._services):
            try:
                action(service)
            except Exception as error:  # a client of a service raises anything, and costs no run
                logger.warning(f"{service.title} stopped: {error}; metrics.jsonl goes on")
                self._services.remove(service)

    def _append(self) -> None:
        """Writes the waiting lines: all of them, or none with a warning."""
        lines = b"".join(self._waiting.values())
        try:
            while lines:
                lines = lines[self._file.write(lines) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            # a line cut by a full disk would join the next one, and both were lost
            if self._path.stat().st_size > self._size:
                os.ftruncate(self._file.fileno(), self._size)
            first = min(self._waiting)
            logger.warning(f"{self._path} lacks steps from {first} on: {error}; make room")
        else:
            self._size += sum(map(len, self._waiting.values()))
            self._waiting.clear()

    def attach_report(self, page_of: Callable[[Path], str]) -> None:
        """Writes report.html where a tracker takes it, and hands it over. page_of: the report about
        a run folder, as HTML."""
        if not any(service.takes_report for service in self._services):
            return
        path = self._path.with_name(REPORT)
        try:
            write_whole(path, page_of(path.parent))
        except Exception as error:  # the run is done, whatever its folder lacks for a page
            logger.warning(f"{path} is missing: {error}")
            return
        self._tell(lambda service: service.attach(path))

    def close(self) -> None:
        """Finishes the files and the trackers."""
        if self._waiting:
            self._append()
        self._file.close()
        for service in self._services:
            try:
                service.finish()
            except Exception as error:  # as in _tell: the run is done
                logger.warning(f"{service.title} did not finish: {error}")


def write_rollouts(run_dir: Path, step: int, rollouts: Sequence[dict[str, Any]]) -> None:
    """rollouts/step_N.jsonl.gz: prompt, response, reward, advantage, reason of each."""
    write_lines(run_dir / "rollouts" / f"step_{step}.jsonl.gz", rollouts)


def write_trace(run_dir: Path, step: int, trace: dict[str, Any]) -> None:
    """trace/step_N.json: when the step's responses began and ended. Only of some steps."""
    if not is_traced(step):
        return
    path = run_dir / "trace" / f"step_{step}.json"
    try:
        path.parent.mkdir(exist_ok=True)
        write_whole(path, json.dumps(trace, separators=(",", ":")))
    except OSError as error:
        logger.warning(f"{path} is missing: {error}")


def is_traced(step: int) -> bool:
    """Whether a trace of the step is kept: of 1 to 9, 10, 20, ... 90, 100, 200, ..., so that there
    are nine for every power of ten."""
    return step > 0 and not str(step)[1:].strip("0")
