"""One run of a comparison: its key, where it should get to, and where it stands."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.config.compare import BudgetConfig, RulesConfig
from rlvr.config.needs import resolved
from rlvr.config.toml import validate
from rlvr.config.train import TrainRecipe
from rlvr.data.absolute_paths import absolute_tree
from rlvr.runs.reader import read_metrics

OUTCOME = "outcome.json"
"""File in a run folder that says how far the run came, written after every attempt."""


@dataclass(frozen=True)
class RunTask:
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
    def from_json(cls, tree: dict[str, Any]) -> RunTask:
        return cls(
            tree["label"],
            validate(tree["recipe"], TrainRecipe),
            validate(tree["budget"], BudgetConfig),
            tree["until"],
            tree["rules"] and validate(tree["rules"], RulesConfig),
        )


@dataclass(frozen=True)
class RunOutcome:
    """Where a run stands. status: finished, paused, diverged or failed. reason: why, in words.

    steps: finished steps. stopped: the rule that ended it, or None.
    """

    key: str
    label: str
    status: str
    steps: int
    stopped: str | None = None
    reason: str = ""


Executor = Callable[[Sequence[RunTask]], Iterable[RunOutcome]]
"""Runs unsettled tasks; yields each outcome, in the order given, as soon as it is known."""


def run_key(recipe: TrainRecipe, budget: BudgetConfig) -> str:
    """12 hex digits of everything that decides the run's numbers; not its folder or trackers.

    Settings at their defaults are left out, so that a new setting leaves the keys of old runs as
    they are; `is_current` notices a default that has changed. A warm-started model counts by its
    folder's name, which holds the hash of its own recipe.
    """
    tree = recipe.model_dump(mode="json", exclude={"run", "track"}, exclude_defaults=True)
    path = Path(str(tree["model"]["path"]))
    # the same warm start lies in another cache folder on another machine
    if (path / "sft_recipe.json").is_file():
        tree["model"]["path"] = path.name
    # the budget's other setting, max_steps, is in train.steps already
    text = json.dumps([tree, {budget.unit: budget.amount}], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def is_current(task: RunTask) -> bool:
    """Whether the resolved recipe in the run's folder, if any, says what the task's says."""
    path = task.folder / "config.toml"
    if not path.exists():
        return True
    then = absolute_tree(tomllib.loads(path.read_text()))
    now = absolute_tree(task.recipe.model_dump(mode="json"))
    stages = then.pop("stage", [])
    return stages == now["stage"] and all(
        value == now[section].get(name, value)  # a setting that no longer exists says nothing
        for section, values in then.items()
        if section in now and section not in ("run", "track", "model")
        for name, value in values.items()
    )


def read_outcome(task: RunTask) -> RunOutcome | None:
    """What an earlier attempt at this very run left, or None."""
    path = task.folder / OUTCOME
    if not path.exists() or not is_current(task):
        return None
    return RunOutcome(**json.loads(path.read_text()))


def settled(task: RunTask, retry_failed: bool = False) -> RunOutcome | None:
    """The outcome where nothing is left to do for the task, else None."""
    outcome = read_outcome(task)
    if outcome is None or (outcome.status == "failed" and retry_failed):
        return None
    if outcome.status == "paused" and (task.until is None or outcome.steps < task.until):
        return None
    # a search's rules may have ended a run that the comparison, without rules, goes on with
    return None if outcome.status == "diverged" and task.rules is None else outcome


def lost(task: RunTask, reason: str) -> RunOutcome:
    """The outcome of a run whose process is gone. Not written down: a restart resumes the run."""
    key = run_key(task.recipe, task.budget)
    return RunOutcome(key, task.label, "failed", len(read_metrics(task.folder)), None, reason)
