"""What a comparison will take: runs, hours and memory, and where each number comes from."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.common.errors import ConfigError
from rlvr.compare.execution.task import RunTask, settled
from rlvr.compare.fairness import Fairness
from rlvr.compare.resolve import Comparison
from rlvr.config.toml import load_recipe
from rlvr.config.train import TrainRecipe
from rlvr.data.absolute_paths import absolute_tree
from rlvr.runs.reader import read_metrics, read_summary

SHAPE = ("model", "rollout", "data")
"""Sections that decide, with the method, how long a step takes."""


@dataclass(frozen=True)
class RunCost:
    """step_s: seconds of a step; extra_s: of a run besides its steps. origin: in words."""

    step_s: float
    extra_s: float
    peak_gib: float
    origin: str


def planned_tasks(comparison: Comparison) -> list[RunTask]:
    """The final runs; rates still to be found stand at a placeholder."""
    methods = comparison.recipe.methods
    return [
        comparison.task(label, seed, given_lr(comparison, label))
        for label in methods
        for seed in comparison.seeds(label)
    ]


def given_lr(comparison: Comparison, label: str) -> float:
    """The label's rate, or its reference_lr where it is to be found."""
    lr = comparison.recipe.methods[label].lr
    return lr if isinstance(lr, float) else comparison.reference_lr(label)


def measured_cost(recipe: TrainRecipe, folders: Sequence[Path]) -> RunCost | None:
    """Medians over finished runs of the same shape and method, else of the same shape; or None."""
    same: dict[bool, list[tuple[float, float, float]]] = {True: [], False: []}
    for folder in folders:
        cost = _cost_of(folder)
        if cost is None:
            continue
        made = _recipe_of(folder)
        if made is not None and _shape(made) == _shape(recipe):
            same[made.adapter.method == recipe.adapter.method].append(cost)
    for own, words in ((True, "of this method"), (False, "of other methods")):
        if same[own]:
            step_s, extra_s, gib = (
                statistics.median(values) for values in zip(*same[own], strict=True)
            )
            origin = f"median of {len(same[own])} finished runs {words} with this shape"
            return RunCost(step_s, extra_s, gib, origin)
    return None


def _cost_of(folder: Path) -> tuple[float, float, float] | None:
    """(seconds per step, other seconds, peak GiB) of a finished run folder."""
    rows, summary = read_metrics(folder), read_summary(folder)
    if (
        not rows or summary is None or "time/step_s" not in rows[0]
    ):  # a supervised run has no such steps
        return None
    steps = [row["time/step_s"] for row in rows]
    return (
        statistics.fmean(steps),
        max(summary["seconds"] - sum(steps), 0.0),
        max(row["memory/peak_gib"] for row in rows),
    )


def _recipe_of(folder: Path) -> TrainRecipe | None:
    """The run's recipe; None where it is no longer a valid one."""
    try:
        return load_recipe(folder / "config.toml", [], TrainRecipe)
    except ConfigError:
        return None


def _shape(recipe: TrainRecipe) -> dict[str, Any]:
    # absolute: the same file may be named from two folders
    tree = absolute_tree(recipe.model_dump(mode="json"))
    return {name: tree[name] for name in SHAPE}


def run_folders(comparison: Comparison) -> list[Path]:
    """Folders of runs of this and of all other comparisons beside it, and single runs."""
    root = Path(comparison.recipe.compare.dir)
    found = [path.parent for path in root.glob("*/config.toml")]
    return found + [path.parent for path in root.glob("*/runs/*/config.toml")]


def memory_gib(comparison: Comparison, label: str) -> float:
    """The trainer's memory as `rlvr plan` counts it, without the engine's."""
    from rlvr.plan.hardware import shape_of
    from rlvr.plan.memory import trainer_memory

    # any seed and rate will do: neither changes a size
    recipe = comparison.resolve(label, 0, None)
    return sum(trainer_memory(recipe, shape_of(recipe, str(comparison.model_path))).values())


def plan_lines(comparison: Comparison, fairness: Fairness) -> list[str]:
    """The plan as text: runs, hours, memory, matched, unmatched."""
    recipe, folders = comparison.recipe, run_folders(comparison)
    budget = f"{recipe.budget.amount:g} {recipe.budget.unit} each"
    tasks = planned_tasks(comparison)
    lines = [f"{recipe.compare.name}: {len(tasks)} runs, {budget}, in {comparison.folder}"]
    hours, unknown = 0.0, []
    for label, method in recipe.methods.items():
        cost = measured_cost(comparison.resolve(label, 0, None), folders)
        # a budget in tokens, seconds or operations does not say how many steps it buys
        steps = recipe.budget.steps or 0
        own = [task for task in tasks if task.label == label]
        # a rate that is still to be found has no run folder yet
        left = [task for task in own if method.lr == "find" or settled(task) is None]
        lr = "lr to be found" if method.lr == "find" else f"lr {method.lr:g}"
        text = f"  {label}: {lr}, {len(own)} runs, {len(own) - len(left)} of them done"
        if cost is not None and steps:
            spent = len(left) * (cost.step_s * steps + cost.extra_s)
            spent += _search_seconds(comparison, cost) if method.lr == "find" else 0.0
            hours += spent / 3600
            text += f"; {spent / 3600:.2f} h, {cost.peak_gib:.1f} GiB ({cost.origin})"
        else:
            unknown.append(label)
            if label in fairness.num_params:
                text += f"; {memory_gib(comparison, label):.2f} GiB (counted, without the engine)"
        lines.append(text)
    if recipe.wants_find:
        lines.append(f"  searches: {_search_text(comparison)}")
    lines.append(_hours_line(comparison, hours, unknown))
    lines.append(f"matched: {', '.join(fairness.matched)}")
    lines.append(f"not matched: {'; '.join(fairness.unmatched) or 'nothing'}")
    return lines


def _search_seconds(comparison: Comparison, cost: RunCost) -> float:
    """Seconds of one search, taken as twice its first grid; `_search_text` gives the bounds."""
    find = comparison.recipe.find
    steps = find.steps or comparison.recipe.budget.steps or 0
    return 2 * find.num_points * (cost.step_s * steps + cost.extra_s)


def _search_text(comparison: Comparison) -> str:
    find, methods = comparison.recipe.find, comparison.recipe.methods.values()
    count = sum(method.lr == "find" for method in methods)
    runs = find.num_points
    most = find.max_points * len(find.seeds)
    steps = find.steps or comparison.recipe.budget.steps
    return f"{count} of {runs} to {most} runs of {steps} steps"


def _hours_line(comparison: Comparison, hours: float, unknown: Sequence[str]) -> str:
    if unknown:
        return (
            f"hours: not known for {', '.join(unknown)}: no finished run of this shape in"
            f" {comparison.recipe.compare.dir}; --calibrate measures 2 steps"
        )
    parallel = comparison.recipe.executor.parallel
    return f"hours: about {hours:.2f} in all, one after another" + (
        f", over {parallel} at a time" if parallel > 1 else ""
    )


def calibration_task(comparison: Comparison) -> RunTask:
    """Two steps of the first method, as a run of their own in the comparison's folder."""
    label = next(iter(comparison.recipe.methods))
    return comparison.task(label, 0, given_lr(comparison, label), steps=2)
