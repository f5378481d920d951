"""Brings one run of a comparison to where its task says, and writes down how far it came."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from rlvr.common.errors import first_line
from rlvr.common.log import of_run
from rlvr.common.signals import Stopped
from rlvr.compare.execution.end_rules import PolicySize, diverged, used
from rlvr.compare.execution.task import OUTCOME, RunOutcome, RunTask, is_current, run_key, settled
from rlvr.runs.reader import read_manifest, read_metrics

if TYPE_CHECKING:
    from rlvr.training.build import StartEngine


ShowStep = Callable[[int, dict[str, float]], None]
"""Told of every step: (steps finished, its metrics)."""


def _show_nothing(_step: int, _metrics: dict[str, float]) -> None:
    """Where nobody watches."""


class StopCheck:
    """Ends a run where its task says; remembers by which rule. rows: of the steps before. show: is
    told of every step."""

    def __init__(self, task: RunTask, rows: list[dict[str, float]], show: ShowStep) -> None:
        self._task, self._rows, self._show = task, rows, show
        self.stopped: str | None = None
        self.budget_used = False

    def __call__(self, step: int, metrics: dict[str, float]) -> bool:
        self._rows.append(metrics)
        self._show(step, metrics)
        return self.done()

    def done(self) -> bool:
        """Whether the run is where its task says, by the steps so far."""
        task, steps = self._task, len(self._rows)
        if not steps:
            return False
        if task.rules is not None:
            self.stopped = diverged(self._rows, task.rules)
        self.budget_used = used(self._rows, task.budget, self._size) >= task.budget.amount
        paused = task.until is not None and steps >= task.until
        return bool(self.stopped) or self.budget_used or paused

    @functools.cached_property
    def _size(self) -> PolicySize:
        # the manifest is written before the first step, and only there is the rank matched
        facts = read_manifest(self._task.folder)
        return PolicySize(facts["total_parameters"], facts["trainable_parameters"])


def execute_logged(
    task: RunTask, start_engine: StartEngine, folder: Path, show: ShowStep = _show_nothing
) -> RunOutcome:
    """`execute` with everything that the run prints in logs/<run>.log of the comparison."""
    name = task.folder.name
    path = folder / "logs" / f"{name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as log, of_run(name, one_of_several=True):
        return execute(task, start_engine, Console(file=log, width=100), show)


def execute(
    task: RunTask, start_engine: StartEngine, console: Console, show: ShowStep = _show_nothing
) -> RunOutcome:
    """Brings the run to where its task says, resuming what is there; the outcome, also on disk.

    A run that cannot go on is an outcome, not an error. Raises: Stopped when a signal came.
    """
    done = settled(task)
    if done is not None:
        return done
    _free_memory()
    try:
        outcome = _advance(task, start_engine, console, show)
    except Stopped:
        raise
    except Exception as error:  # whatever ends a run, the others go on
        console.print_exception()
        reason = first_line(error)
        outcome = _failure(task, reason)
    task.folder.mkdir(parents=True, exist_ok=True)
    (task.folder / OUTCOME).write_text(json.dumps(asdict(outcome)))
    return outcome


def _free_memory() -> None:
    """Frees what the run before left, so that peak memory is this run's own."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _advance(
    task: RunTask, start_engine: StartEngine, console: Console, show: ShowStep
) -> RunOutcome:
    from rlvr.report.page import page_of
    from rlvr.runs.checkpoint import intact_checkpoints
    from rlvr.training import loop

    folder = task.folder
    # checkpoints made with another default would go on as a run that no recipe describes
    checkpoints = intact_checkpoints(folder) if is_current(task) else []
    if checkpoints:
        step = int(checkpoints[-1].name.removeprefix("step_"))
        # the log may go on beyond the checkpoint: those steps are done again
        check = StopCheck(task, read_metrics(folder)[:step], show)
        if not check.done():  # else it was killed after its last checkpoint
            loop.resume(folder, console, start_engine, check, page_of=page_of)
    else:
        shutil.rmtree(folder, ignore_errors=True)  # no checkpoint yet, or other settings
        check = StopCheck(task, [], show)
        loop.train(task.recipe, folder, console, start_engine, check, page_of=page_of)
    return _outcome(task, check)


def _outcome(task: RunTask, check: StopCheck) -> RunOutcome:
    steps = len(read_metrics(task.folder))
    status, reason = "paused", f"after {steps} steps"
    if check.stopped:
        status, reason = "diverged", f"rule {check.stopped} at step {steps}"
    elif check.budget_used or steps >= task.recipe.train.steps:
        short = "" if check.budget_used else "budget.max_steps came before the budget"
        status, reason = "finished", short
    key = run_key(task.recipe, task.budget)
    return RunOutcome(key, task.label, status, steps, check.stopped, reason)


def _failure(task: RunTask, reason: str) -> RunOutcome:
    """A run that stops itself under the rules of a short run has diverged; else it has failed."""
    # without rules a run that breaks is a failure to look at, not a rate that is too high
    rule = rule_behind(reason) if task.rules is not None else None
    key, steps = run_key(task.recipe, task.budget), len(read_metrics(task.folder))
    return RunOutcome(key, task.label, "diverged" if rule else "failed", steps, rule, reason)


def rule_behind(reason: str) -> str | None:
    """The rule that a trainer's own stop amounts to when a rate is far too high, or None."""
    signs = {"was not finite in": "grad_norm", "no group carried a signal": "reward"}
    return next((rule for words, rule in signs.items() if words in reason), None)
