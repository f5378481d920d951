"""Several runs at a time on this machine: worker processes that share its GPUs or cores."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from rlvr.compare.execution.executors import Run, describe
from rlvr.compare.execution.task import Outcome, Task, run_key
from rlvr.runs.reader import read_metrics

if TYPE_CHECKING:
    from rich.console import Console


class Worker:
    """A process that keeps its engine warm from task to task; started again when it dies."""

    def __init__(self, index: int, count: int, folder: Path) -> None:
        self._index, self._count, self._folder = index, count, folder
        self._process: subprocess.Popen[str] | None = None

    def run(self, task: Task) -> Outcome:
        """The task's outcome; failed, with the exit code, when the process died over it."""
        process = self._process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(task.to_json()) + "\n")
            process.stdin.flush()
        answer = process.stdout.readline()
        if answer:
            return Outcome(**json.loads(answer))
        code, self._process = process.wait(), None
        return lost(task, f"its process ended with code {code}; see logs/{task.folder.name}.log")

    def _start(self) -> subprocess.Popen[str]:
        cores = sorted(os.sched_getaffinity(0))
        share = cores[self._index :: self._count] or cores
        return subprocess.Popen(
            [sys.executable, "-m", "rlvr.compare.execution.worker", str(self._folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | self._devices(),
            preexec_fn=lambda: os.sched_setaffinity(0, share),
        )

    def _devices(self) -> dict[str, str]:
        """The one GPU of this worker; workers share GPUs when there are fewer."""
        import torch

        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        devices = (
            visible.split(",") if visible else list(map(str, range(torch.cuda.device_count())))
        )
        return {"CUDA_VISIBLE_DEVICES": devices[self._index % len(devices)]} if devices else {}

    def close(self) -> None:
        """Ends the process after its task."""
        if self._process is not None:
            assert self._process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
            self._process.wait()


def lost(task: Task, reason: str) -> Outcome:
    """The outcome of a run whose process is gone. Not written down: a restart resumes the run."""
    key = run_key(task.recipe, task.budget)
    return Outcome(key, task.label, "failed", len(read_metrics(task.folder)), None, reason)


@contextlib.contextmanager
def open_workers(count: int, folder: Path, console: Console) -> Iterator[Run]:
    """`count` workers that take tasks as they become free."""
    workers = [Worker(index, count, folder) for index in range(count)]
    free: queue.Queue[Worker] = queue.Queue()
    for worker in workers:
        free.put(worker)

    def run_one(task: Task) -> Outcome:
        worker = free.get()
        try:
            return worker.run(task)
        finally:
            free.put(worker)

    def run(tasks: Sequence[Task]) -> list[Outcome]:
        outcomes = []
        with ThreadPoolExecutor(count) as pool:
            results = zip(tasks, pool.map(run_one, tasks), strict=True)
            for number, (task, outcome) in enumerate(results, start=1):
                console.print(describe(number, len(tasks), task, outcome), soft_wrap=True)
                outcomes.append(outcome)
        return outcomes

    try:
        yield run
    finally:
        for worker in workers:
            worker.close()
