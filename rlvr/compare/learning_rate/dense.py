"""A dense sweep: every method at every rate of a fixed grid, to judge the finder by."""

from __future__ import annotations

from collections.abc import Sequence

from rlvr.compare.execution.task import RunTask, settled
from rlvr.compare.learning_rate.grid import between
from rlvr.compare.resolve import Comparison
from rlvr.compare.results import RatePoint, read_point


def dense_tasks(comparison: Comparison, labels: Sequence[str]) -> list[RunTask]:
    """All runs of the sweep, so ordered that a sweep cut short is a coarser one: one seed after
    another, every second rate first. The rules of the short runs end those that diverge: a rate
    where a seed diverged is never the best."""
    recipe = comparison.recipe
    rates = between(recipe.dense.min_lr, recipe.dense.max_lr)
    return [
        comparison.short_task(label, seed, lr)
        for seed in recipe.dense.seeds
        for part in (rates[::2], rates[1::2])
        for label in labels
        for lr in part
    ]


def read_dense(comparison: Comparison, labels: Sequence[str]) -> dict[str, list[RatePoint]]:
    """Points of the sweep's finished runs, by label; reads a sweep that is still going."""
    points: dict[str, list[RatePoint]] = {label: [] for label in labels}
    for task in dense_tasks(comparison, labels):
        outcome = settled(task)
        point = outcome and read_point(task, outcome, comparison.recipe.find)
        if point is not None:
            points[task.label].append(point)
    return points
