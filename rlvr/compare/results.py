"""What a run's folder says about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from eval.metrics import guess
from rlvr.compare.execution.end_rules import WINDOW, diverged, sampled_tokens, step_seconds
from rlvr.compare.execution.execute import rule_behind
from rlvr.compare.execution.task import RunOutcome, RunTask
from rlvr.config.compare import FindConfig
from rlvr.config.train import HELD_OUT
from rlvr.runs.reader import read_evaluation, read_manifest, read_metrics, top_answers

ENTRY = (
    "accuracy", "accuracy_before", "accuracies", "reward_last", "tokens", "seconds", "peak_gib",
    "sync_bytes", "status", "steps", "reason", "guesses",
)  # fmt: skip
"""What comparison.json says of a run besides its seed and folder."""


Scores = dict[str, list[float]]
"""Correct fraction of each held-out problem, by evaluation set."""


def accuracy_of(scores: Scores) -> float:
    """The unweighted mean of avg@k over the sets: a set of 30 problems weighs as one of 500."""
    return fmean(fmean(values) for values in scores.values())


@dataclass(frozen=True)
class RunResult:
    """Numbers of one run. after, before: None where the run was not evaluated there. guesses: what
    looks like guessing in the evaluation after it."""

    seed: int
    lr: float
    folder: Path
    status: str
    reason: str
    steps: int
    before: Scores | None
    after: Scores | None
    reward_last: float | None
    tokens: float
    seconds: float
    peak_gib: float
    sync_bytes: float
    num_params: int
    guesses: tuple[str, ...]

    @property
    def accuracy(self) -> float | None:
        return None if self.after is None else accuracy_of(self.after)

    @property
    def accuracy_before(self) -> float | None:
        return None if self.before is None else accuracy_of(self.before)

    @property
    def accuracies(self) -> dict[str, float] | None:
        """avg@k of each set after the run."""
        if self.after is None:
            return None
        return {name: fmean(values) for name, values in self.after.items()}

    def to_json(self, root: Path) -> dict[str, Any]:
        """The run's entry in comparison.json. root: what its folder is relative to."""
        place = {"seed": self.seed, "run": str(self.folder.relative_to(root))}
        return place | {name: getattr(self, name) for name in ENTRY}


def read_result(task: RunTask, outcome: RunOutcome) -> RunResult:
    """The numbers of a run that was attempted, at the step where its task pauses it even when it
    has gone further since; a run without a folder has none."""
    steps = outcome.steps if task.until is None else min(outcome.steps, task.until)
    rows = read_metrics(task.folder)[:steps]
    rewards = [row["reward/mean"] for row in rows if "reward/mean" in row]
    last = rows[-1] if rows else {}
    return RunResult(
        task.seed,
        task.lr,
        task.folder,
        outcome.status,
        outcome.reason,
        steps,
        read_scores(task.folder, 0),
        read_scores(task.folder, steps) if steps else None,
        fmean(rewards[-WINDOW:]) if rewards else None,
        sampled_tokens(rows),
        step_seconds(rows),
        max((row.get("memory/peak_gib", 0.0) for row in rows), default=0.0),
        last.get("sync/bytes", 0.0),
        read_manifest(task.folder).get("trainable_parameters", 0),
        read_guesses(task.folder, steps),
    )


def read_scores(folder: Path, step: int) -> Scores | None:
    """The evaluation after `step` steps, or None."""
    evaluation = read_evaluation(folder, step)
    if evaluation is None:
        return None
    # runs from before a comparison looked at all sets kept the problems of the first
    return evaluation.get("sets") or {HELD_OUT: evaluation["fractions"]}


def read_guesses(folder: Path, step: int) -> tuple[str, ...]:
    """What looks like guessing in the evaluation after `step` steps, by set."""
    tops = top_answers(read_evaluation(folder, step) or {})
    said = {name: guess(top) for name, top in tops.items()}
    return tuple(f"on {name} {text}" for name, text in said.items() if text is not None)


@dataclass(frozen=True)
class RatePoint:
    """One short run of a search. value: what find.signal says. stopped: the rule that ended it, or
    None. seconds: in steps."""

    lr: float
    seed: int
    value: float
    steps: int
    stopped: str | None
    seconds: float = 0.0


def read_point(task: RunTask, outcome: RunOutcome, config: FindConfig) -> RatePoint | None:
    """The point of a short run; None where the run failed for a reason that is not its rate's.

    A run from before that had no rules counts up to the step at which one would have ended it.
    """
    rows = read_metrics(task.folder)
    stopped, steps = outcome.stopped or rule_behind(outcome.reason), outcome.steps
    if outcome.status == "failed" and stopped is None:
        return None
    for step in range(1, len(rows) + 1):  # rules look at the newest step alone
        rule = diverged(rows[:step], config.rules)
        if rule is not None:
            stopped, steps = rule, step
            break
    value, seconds = _value(task, rows[:steps], config), step_seconds(rows[:steps])
    return RatePoint(task.lr, task.seed, value, steps, stopped, seconds)


def _value(task: RunTask, rows: Sequence[dict[str, Any]], config: FindConfig) -> float:
    """How good the policy became in these steps."""
    rewards = [row["reward/mean"] for row in rows if "reward/mean" in row]
    if config.signal == "reward":
        count = max(WINDOW, round(config.last_frac * len(rewards)))
        return fmean(rewards[-count:]) if rewards else 0.0
    scores = read_scores(task.folder, len(rows))
    if scores is not None:
        return accuracy_of(scores)
    return fmean(rewards[-WINDOW:]) if rewards else 0.0  # the recipe holds nothing out
