"""Where runs go: this process, worker processes, a Ray cluster, a Slurm job array."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console

from rlvr.common.log import of_run
from rlvr.compare.execution.task import OUTCOME, Outcome, Task, execute, settled
from rlvr.config.compare import ExecutorConfig

Run = Callable[[Sequence[Task]], list[Outcome]]
"""Brings tasks to where they say; their outcomes, in the order given."""


@contextlib.contextmanager
def open_executor(
    config: ExecutorConfig, folder: Path, console: Console, retry_failed: bool = False
) -> Iterator[Run]:
    """The executor that the recipe names. Settled tasks cost nothing; equal tasks run once.

    folder: the comparison's, for logs and job files. retry_failed: failed runs are tried again.
    """
    with _KINDS[config.kind](config, folder, console) as run:

        def run_open(tasks: Sequence[Task]) -> list[Outcome]:
            known = {task.folder: settled(task, retry_failed) for task in tasks}
            left = {task.folder: task for task in tasks if known[task.folder] is None}
            for path in left:
                (path / OUTCOME).unlink(missing_ok=True)
            known |= dict(zip(left, run(list(left.values())), strict=True)) if left else {}
            outcomes = [known[task.folder] for task in tasks]
            return [outcome for outcome in outcomes if outcome is not None]

        yield run_open


@contextlib.contextmanager
def _local(config: ExecutorConfig, folder: Path, console: Console) -> Iterator[Run]:
    """One run after another in this process, with one warm engine; or several processes."""
    if config.parallel > 1:
        from rlvr.compare.execution.workers import open_workers

        with open_workers(config.parallel, folder, console) as run:
            yield run
        return
    from rlvr.compare.execution.warm_engine import WarmEngine

    warm = WarmEngine()

    def run_here(tasks: Sequence[Task]) -> list[Outcome]:
        outcomes = []
        for number, task in enumerate(tasks, start=1):
            outcomes.append(run_logged(task, warm, folder))
            console.print(describe(number, len(tasks), task, outcomes[-1]), soft_wrap=True)
            if outcomes[-1].status == "failed":
                warm.close()  # whatever went wrong, the next run starts with a new engine
        return outcomes

    try:
        yield run_here
    finally:
        warm.close()


@contextlib.contextmanager
def _ray(config: ExecutorConfig, folder: Path, console: Console) -> Iterator[Run]:
    from rlvr.compare.execution.ray_executor import open_ray

    with open_ray(config, folder, console) as run:
        yield run


@contextlib.contextmanager
def _slurm(config: ExecutorConfig, folder: Path, console: Console) -> Iterator[Run]:
    from rlvr.compare.execution.slurm import submit

    yield lambda tasks: submit(tasks, config, folder, console)


_KINDS = {"local": _local, "ray": _ray, "slurm": _slurm}


def run_logged(task: Task, warm: Callable, folder: Path) -> Outcome:
    """`execute` with everything that the run prints in logs/<run>.log of the comparison."""
    path = folder / "logs" / f"{task.folder.name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    name = task.folder.name
    with path.open("a", encoding="utf-8") as log, of_run(name, one_of_several=True):
        return execute(task, warm, Console(file=log, width=100))


def describe(number: int, total: int, task: Task, outcome: Outcome) -> str:
    """One line about a run that has come to where it should, or not."""
    place = f"{task.label} lr {task.lr:.4g} seed {task.seed}"
    reason = f": {outcome.reason}" if outcome.reason else ""
    return f"run {number}/{total}  {place}  {outcome.status} at step {outcome.steps}{reason}"
