"""Where runs go: this process, worker processes, a Ray cluster, a Slurm job array."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlvr.compare.execution.execute import execute_logged
from rlvr.compare.execution.processes import open_processes
from rlvr.compare.execution.ray_executor import open_ray
from rlvr.compare.execution.slurm import open_slurm
from rlvr.compare.execution.task import OUTCOME, Executor, RunOutcome, RunTask, settled
from rlvr.config.compare import ExecutorConfig

if TYPE_CHECKING:
    from rich.console import Console

RunTasks = Callable[[Sequence[RunTask]], list[RunOutcome]]
"""Brings tasks to where they say; their outcomes, in the order given."""


@contextlib.contextmanager
def open_executor(
    config: ExecutorConfig, folder: Path, console: Console, retry_failed: bool = False
) -> Iterator[RunTasks]:
    """The executor that the recipe names. Settled tasks cost nothing; equal tasks run once.

    folder: the comparison's, for logs and job files. retry_failed: failed runs are tried again.
    """
    with EXECUTORS[config.kind](config, folder, console) as run:

        def run_tasks(tasks: Sequence[RunTask]) -> list[RunOutcome]:
            known = {task.folder: settled(task, retry_failed) for task in tasks}
            left = {task.folder: task for task in tasks if known[task.folder] is None}
            for path in left:
                # an earlier attempt's would pass for that of a job that dies before it writes one
                (path / OUTCOME).unlink(missing_ok=True)
            outcomes = run(list(left.values())) if left else ()
            for number, (task, outcome) in enumerate(
                zip(left.values(), outcomes, strict=True), start=1
            ):
                known[task.folder] = outcome
                line = f"run {number}/{len(left)}  {_outcome_line(task, outcome)}"
                console.print(line, soft_wrap=True)
            return [outcome for task in tasks if (outcome := known[task.folder]) is not None]

        yield run_tasks


def _outcome_line(task: RunTask, outcome: RunOutcome) -> str:
    reason = f": {outcome.reason}" if outcome.reason else ""
    place = f"{task.label} lr {task.lr:.4g} seed {task.seed}"
    return f"{place}  {outcome.status} at step {outcome.steps}{reason}"


@contextlib.contextmanager
def _open_local(config: ExecutorConfig, folder: Path, _console: Console) -> Iterator[Executor]:
    """One run after another in this process, with one warm engine; or several processes."""
    if config.parallel > 1:
        with open_processes(config, folder) as run:
            yield run
        return
    from rlvr.compare.execution.warm_engine import WarmEngine

    with contextlib.closing(WarmEngine()) as warm:

        def run_here(tasks: Sequence[RunTask]) -> Iterator[RunOutcome]:
            for task in tasks:
                outcome = execute_logged(task, warm, folder)
                yield outcome
                if outcome.status == "failed":
                    warm.close()  # whatever went wrong, the next run starts with a new engine

        yield run_here


@contextlib.contextmanager
def _open_shared(config: ExecutorConfig, folder: Path, console: Console) -> Iterator[Executor]:
    from rlvr.compare.execution.shared import open_shared

    with open_shared(config, folder, console) as run:
        yield run


EXECUTORS = {"local": _open_local, "shared": _open_shared, "ray": open_ray, "slurm": open_slurm}
