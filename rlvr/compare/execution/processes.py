"""Several runs at a time on this machine, in processes that share its GPUs or cores."""

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

from rlvr.compare.execution.task import Executor, RunOutcome, RunTask, lost
from rlvr.config.compare import ExecutorConfig


class RunProcess:
    """A process that keeps its engine warm from task to task; started again when it dies."""

    def __init__(self, index: int, count: int, folder: Path) -> None:
        self._index, self._count, self._folder = index, count, folder
        self._process: subprocess.Popen[str] | None = None

    def run(self, task: RunTask) -> RunOutcome:
        """The task's outcome; failed, with the exit code, when the process died over it."""
        process = self._process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # died since its last task; readline says so
            process.stdin.write(json.dumps(task.to_json()) + "\n")
            process.stdin.flush()
        answer = process.stdout.readline()
        if answer:  # an empty line is the pipe's end
            return RunOutcome(**json.loads(answer))
        code, self._process = process.wait(), None
        return lost(task, f"its process ended with code {code}; see logs/{task.folder.name}.log")

    def _start(self) -> subprocess.Popen[str]:
        cores = sorted(os.sched_getaffinity(0))
        share = cores[self._index :: self._count] or cores  # more processes than cores: all
        return subprocess.Popen(
            [sys.executable, "-m", "rlvr.compare.execution.worker", str(self._folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | self._devices(),
            # torch counts the cores it may use when it is imported: before that, not from inside
            preexec_fn=lambda: os.sched_setaffinity(0, share),
        )

    def _devices(self) -> dict[str, str]:
        """The one GPU of this process; processes share GPUs when there are fewer."""
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


@contextlib.contextmanager
def open_processes(config: ExecutorConfig, folder: Path) -> Iterator[Executor]:
    """`config.parallel` processes that take tasks as they become free."""
    count = config.parallel
    processes = [RunProcess(index, count, folder) for index in range(count)]
    free: queue.Queue[RunProcess] = queue.Queue()
    for process in processes:
        free.put(process)

    def run_one(task: RunTask) -> RunOutcome:
        process = free.get()
        try:
            return process.run(task)
        finally:
            free.put(process)

    def run(tasks: Sequence[RunTask]) -> Iterator[RunOutcome]:
        with ThreadPoolExecutor(count) as pool:  # threads that only wait for their process
            yield from pool.map(run_one, tasks)

    try:
        yield run
    finally:
        for process in processes:
            process.close()
