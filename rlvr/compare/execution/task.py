"""One run of a comparison: its key, where it stands, and bringing it to its end."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.common.signals import Stopped
from rlvr.compare.execution.end_rules import Size, diverged, used
from rlvr.config.compare import BudgetConfig, RulesConfig
from rlvr.config.needs import resolved
from rlvr.config.toml import validate
from rlvr.config.train import TrainRecipe
from rlvr.data.absolute_paths import absolute_tree
from rlvr.runs.metrics import read_metrics

if TYPE_CHECKING:
    from rich.console import Console

    from rlvr.training.build import StartEngine

OUTCOME = "outcome.json"
"""File in a run folder that says how far the run came, written after every attempt."""


@dataclass(frozen=True)
class Task:
    """A run and how far it should go.

    recipe: resolved, with run.dir and run.name. until: pause after this many steps; None goes to
    the end of the budget. rules: end when it diverges; None never does.
    """

    label: str
    recipe: TrainRecipe
    budget: BudgetConfig
    until: int | None = None
    rules: RulesConfig | None = None

    @property
    def folder(self) -> Path:
        return Path(self.recipe.run.dir) / str(self.recipe.run.name)

    @property
    def seed(self) -> int:
        return self.recipe.train.seed

    @property
    def lr(self) -> float:
        return self.recipe.optim.lr

    def to_json(self) -> dict[str, Any]:
        """Plain values that `from_json` reads back to an equal task."""
        return {
            "label": self.label,
            "recipe": resolved(self.recipe),
            "budget": self.budget.model_dump(mode="json"),
            "until": self.until,
            "rules": self.rules and self.rules.model_dump(mode="json"),
        }

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> Task:
        return cls(
            tree["label"],
            validate(tree["recipe"], TrainRecipe),
            validate(tree["budget"], BudgetConfig),
            tree["until"],
            tree["rules"] and validate(tree["rules"], RulesConfig),
        )


@dataclass(frozen=True)
class Outcome:
    """Where a run stands. status: finished, paused, diverged or failed. reason: why, in words.

    steps: finished steps. stopped: the rule that ended it, or None.
    """

    key: str
    label: str
    status: str
    steps: int
    stopped: str | None = None
    reason: str = ""


def run_key(recipe: TrainRecipe, budget: BudgetConfig) -> str:
    """12 hex digits of everything that decides the run's numbers; not its folder or trackers.

    Settings at their defaults are left out, so that a new setting leaves the keys of old runs as
    they are; `is_current` notices a default that has changed. A warm-started model counts by its
    folder's name, which holds the hash of its own recipe.
    """
    tree = recipe.model_dump(mode="json", exclude={"run", "track"}, exclude_defaults=True)
    path = Path(str(tree["model"]["path"]))
    if (path / "sft_recipe.json").is_file():
        tree["model"]["path"] = path.name
    text = json.dumps([tree, {budget.unit: budget.amount}], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def is_current(task: Task) -> bool:
    """Whether the resolved recipe in the run's folder, if any, says what the task's says."""
    path = task.folder / "config.toml"
    if not path.exists():
        return True
    then = absolute_tree(tomllib.loads(path.read_text()))
    now = absolute_tree(task.recipe.model_dump(mode="json"))
    return all(
        value == now[section].get(name, value)
        for section, values in then.items()
        if section in now and section not in ("run", "track", "model")
        for name, value in values.items()
    )


def read_outcome(task: Task) -> Outcome | None:
    """What an earlier attempt at this very run left, or None."""
    path = task.folder / OUTCOME
    if not path.exists() or not is_current(task):
        return None
    return Outcome(**json.loads(path.read_text()))


def settled(task: Task, retry_failed: bool = False) -> Outcome | None:
    """The outcome where nothing is left to do for the task, else None."""
    outcome = read_outcome(task)
    if outcome is None or (outcome.status == "failed" and retry_failed):
        return None
    if outcome.status == "paused" and (task.until is None or outcome.steps < task.until):
        return None
    return None if outcome.status == "diverged" and task.rules is None else outcome


class Watch:
    """Ends a run where its task says; remembers by which rule. rows: of the steps before."""

    def __init__(self, task: Task, rows: list[dict[str, float]]) -> None:
        self._task, self._rows = task, rows
        self.stopped: str | None = None
        self.budget_used = False

    def __call__(self, step: int, metrics: dict[str, float]) -> bool:
        self._rows.append(metrics)
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
    def _size(self) -> Size:
        return policy_size(self._task.folder)


def execute(
    task: Task, start_engine: StartEngine, console: Console, retry_failed: bool = False
) -> Outcome:
    """Brings the run to where its task says, resuming what is there; the outcome, also on disk.

    A run that cannot go on is an outcome, not an error. Raises: Stopped when a signal came.
    """
    done = settled(task, retry_failed)
    if done is not None:
        return done
    _free_memory()
    try:
        outcome = _advance(task, start_engine, console)
    except Stopped:
        raise
    except Exception as error:  # whatever ends a run, the others go on
        console.print_exception()
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        outcome = _failure(task, reason)
    task.folder.mkdir(parents=True, exist_ok=True)
    (task.folder / OUTCOME).write_text(json.dumps(asdict(outcome)))
    return outcome


def _free_memory() -> None:
    """Lets go of the run before, and counts the GPU's peak memory anew."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _failure(task: Task, reason: str) -> Outcome:
    """A run that stops itself under the rules of a short run has diverged; else it has failed."""
    key, steps, rule = run_key(task.recipe, task.budget), len(read_metrics(task.folder)), None
    if task.rules is not None:
        rule = rule_behind(reason)
    return Outcome(key, task.label, "diverged" if rule else "failed", steps, rule, reason)


def rule_behind(reason: str) -> str | None:
    """The rule that a trainer's own stop amounts to when a rate is far too high, or None."""
    signs = {"was not finite in": "grad_norm", "no group carried a signal": "reward"}
    return next((rule for words, rule in signs.items() if words in reason), None)


def _advance(task: Task, start_engine: StartEngine, console: Console) -> Outcome:
    from rlvr.runs.checkpoint import intact_checkpoints
    from rlvr.training import loop as train

    folder = task.folder
    checkpoints = intact_checkpoints(folder) if is_current(task) else []
    if checkpoints:
        step = int(checkpoints[-1].name.removeprefix("step_"))
        watch = Watch(task, read_metrics(folder)[:step])
        if not watch.done():  # else it was killed after its last checkpoint
            train.resume(folder, console, start_engine, watch)
    else:
        shutil.rmtree(folder, ignore_errors=True)  # no checkpoint yet, or other settings
        watch = Watch(task, [])
        train.train(task.recipe, folder, console, start_engine, watch)
    return _outcome(task, watch)


def _outcome(task: Task, watch: Watch) -> Outcome:
    steps = len(read_metrics(task.folder))
    status, reason = "paused", f"after {steps} steps"
    if watch.stopped:
        status, reason = "diverged", f"rule {watch.stopped} at step {steps}"
    elif watch.budget_used or steps >= task.recipe.train.steps:
        short = "" if watch.budget_used else "budget.max_steps came before the budget"
        status, reason = "finished", short
    return Outcome(
        run_key(task.recipe, task.budget), task.label, status, steps, watch.stopped, reason
    )


def policy_size(folder: Path) -> Size:
    """Parameters of the run's policy, from its manifest."""
    facts = json.loads((folder / "manifest.json").read_text())
    return Size(facts["total_parameters"], facts["trainable_parameters"])
