"""Carries out a whole comparison: rates, runs, pruning, and the two files of its result."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rlvr.compare.assemble import Pruned, assemble
from rlvr.compare.execution.executors import RunTasks
from rlvr.compare.fairness import Fairness
from rlvr.compare.learning_rate.search import search
from rlvr.compare.resolve import Comparison
from rlvr.compare.results import RunResult, read_result
from rlvr.compare.text import markdown, screen_table

if TYPE_CHECKING:
    from rich.console import Console


def run_comparison(
    comparison: Comparison, fairness: Fairness, run: RunTasks, console: Console
) -> dict[str, Any]:
    """The tree of comparison.json, written with comparison.md: rates found, runs done, pruned."""
    rates = find_missing_rates(comparison, run, console)
    alive, pruned = _halve(comparison, rates, run, console)
    results = _run_all(comparison, rates, alive, run, None)
    for row in pruned:
        task = comparison.task(row.label, row.seed, rates[row.label], until=row.steps)
        outcome = run([task])[0]  # settled: it was paused there
        # its own outcome is `paused`, which says nothing to a reader of the result
        status = "failed" if outcome.status == "failed" else "pruned"
        result = replace(read_result(task, outcome), status=status)
        results.setdefault(row.label, []).append(result)
    tree = assemble(comparison, fairness, rates, results, pruned)
    comparison.folder.mkdir(parents=True, exist_ok=True)
    (comparison.folder / "comparison.json").write_text(json.dumps(tree, indent=1))
    (comparison.folder / "comparison.md").write_text(markdown(tree))
    _show(tree, comparison, console)
    return tree


def find_missing_rates(comparison: Comparison, run: RunTasks, console: Console) -> dict[str, float]:
    """The rate of every label, as given or found now; none where every short run failed."""
    methods = comparison.recipe.methods
    missing = [label for label, method in methods.items() if method.lr == "find"]
    found = search(comparison, missing, run, console) if missing else {}
    return {
        label: found[label].chosen_lr if label in found else float(method.lr)
        for label, method in methods.items()
        if label in found or method.lr != "find"
    }


def _run_all(
    comparison: Comparison,
    rates: Mapping[str, float],
    labels: Sequence[str],
    run: RunTasks,
    until: int | None,
) -> dict[str, list[RunResult]]:
    """Results of the labels' runs, brought to `until` steps or to the end of the budget."""
    tasks = [
        comparison.task(label, seed, rates[label], until=until)
        for label in labels
        for seed in comparison.seeds(label)
    ]
    results: dict[str, list[RunResult]] = {label: [] for label in labels}
    for task, outcome in zip(tasks, run(tasks), strict=True):
        results[task.label].append(read_result(task, outcome))
    return results


def _halve(
    comparison: Comparison, rates: Mapping[str, float], run: RunTasks, console: Console
) -> tuple[list[str], list[Pruned]]:
    """(labels that go on to the end, runs that were pruned). Source: 1603.06560, one bracket."""
    prune, alive = comparison.recipe.prune, list(rates)
    pruned: list[Pruned] = []
    for number, steps in enumerate(prune.rungs if prune else (), start=1):
        assert prune is not None
        results = _run_all(comparison, rates, alive, run, steps)
        values = rung_values(results)
        kept = survivors(values, prune.keep)
        for label in alive:
            if label not in kept:
                value = values[label]
                shown = "no value" if value is None else f"{value:.3f}"
                console.print(f"pruned after {steps} steps: {label} at {shown}")
                seeds = comparison.seeds(label)
                pruned += [Pruned(label, seed, number, steps, value) for seed in seeds]
        alive = kept
    return alive, pruned


def rung_values(results: Mapping[str, Sequence[RunResult]]) -> dict[str, float | None]:
    """Mean accuracy of each label's runs at the rung; where a run was not evaluated there, because
    nothing is held out or it had finished before there were rungs, all go by reward."""
    going = [r for runs in results.values() for r in runs if r.status != "failed"]
    # accuracies and rewards cannot be ranked against each other
    by_accuracy = all(r.accuracy is not None for r in going)

    def mean(runs: Sequence[RunResult]) -> float | None:
        values = [r.accuracy if by_accuracy else r.reward_last for r in runs if r in going]
        known = [value for value in values if value is not None]
        return fmean(known) if known else None

    return {label: mean(runs) for label, runs in results.items()}


def survivors(values: Mapping[str, float | None], keep: float) -> list[str]:
    """The best fraction of labels, rounded up, in their order; those without a value go first."""
    known = {label: -math.inf if value is None else value for label, value in values.items()}
    # a stable sort: ties go to the methods that the recipe names first
    best = sorted(known, key=lambda label: -known[label])
    chosen = set(best[: math.ceil(keep * len(values))])
    return [label for label in values if label in chosen]


def _show(tree: Mapping[str, Any], comparison: Comparison, console: Console) -> None:
    for sentence in (screen_table(tree), *tree["sentences"]):
        console.print(sentence, soft_wrap=True, highlight=False, markup=False)
    console.print(f"comparison: {comparison.folder / 'comparison.md'}", soft_wrap=True)
