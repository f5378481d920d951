"""A whole comparison: rates, runs, pruning, statistics, files."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from eval.intervals import Interval
from rlvr.compare.execution.executors import RunTasks
from rlvr.compare.fairness import Fairness
from rlvr.compare.learning_rate.search import rank_of, read_finds, search
from rlvr.compare.resolve import Comparison
from rlvr.compare.results import RunResult, read_result
from rlvr.compare.statistics import Pair, compare_pairs, gain, mean_of, summarise
from rlvr.compare.text import (
    SCREEN_WIDTH,
    markdown,
    pair_sentence,
    screen_table,
    sentences,
)

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Pruned:
    """One run that successive halving ended. value: its method's mean accuracy at the rung."""

    label: str
    seed: int
    rung: int
    steps: int
    value: float | None


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
                console.print(f"pruned after {steps} steps: {label} at {_number(value)}")
                seeds = comparison.seeds(label)
                pruned += [Pruned(label, seed, number, steps, value) for seed in seeds]
        alive = kept
    return alive, pruned


def rung_values(results: Mapping[str, Sequence[RunResult]]) -> dict[str, float | None]:
    """Mean accuracy of each label's runs at the rung; where a run was not evaluated there, because
    nothing is held out or it had finished before there were rungs, all go by reward."""
    going = [r for runs in results.values() for r in runs if r.status != "failed"]
    by_accuracy = all(r.accuracy is not None for r in going)

    def mean(runs: Sequence[RunResult]) -> float | None:
        values = [r.accuracy if by_accuracy else r.reward_last for r in runs if r in going]
        known = [value for value in values if value is not None]
        return fmean(known) if known else None

    return {label: mean(runs) for label, runs in results.items()}


def survivors(values: Mapping[str, float | None], keep: float) -> list[str]:
    """The best fraction of labels, rounded up, in their order; those without a value go first."""
    known = {label: -1.0 if value is None else value for label, value in values.items()}
    best = sorted(known, key=lambda label: -known[label])
    chosen = set(best[: math.ceil(keep * len(values))])
    return [label for label in values if label in chosen]


def assemble(
    comparison: Comparison,
    fairness: Fairness,
    rates: Mapping[str, float],
    results: Mapping[str, Sequence[RunResult]],
    pruned: Sequence[Pruned],
) -> dict[str, Any]:
    """The tree of comparison.json. Only finished runs count in accuracies and pairs."""
    recipe = comparison.recipe
    after, before = _fractions(results, "after"), _fractions(results, "before")
    pairs = compare_pairs({label: values for label, values in after.items() if values})
    gains = {label: gain(before[label], after[label]) for label in results}
    tree = {
        "name": recipe.compare.name,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "rlvr_commit": _commit(results),
        "recipe": comparison.path.read_text(),
        "metric": "eval/accuracy",
        "budget": {recipe.budget.unit: recipe.budget.amount},
        "matched": list(fairness.matched),
        "unmatched": list(fairness.unmatched),
        "unfair": list(fairness.unfair),
        "allow_unmatched": recipe.compare.allow_unmatched,
        "methods": [
            _method(comparison, label, rates[label], results[label])
            | {
                "accuracy": interval_json(summarise(after[label])),
                "gain": interval_json(gains[label]),
            }
            for label in recipe.methods
            if label in results
        ],
        "pairs": [_pair(pair) for pair in pairs],
        "lr_finds": list(read_finds(comparison, list(recipe.methods)).values()),
        "pruned": [asdict(row) for row in pruned],
        "without_rate": [label for label in recipe.methods if label not in rates],
    }
    said = {label: (g, len(after[label])) for label, g in gains.items() if g is not None}
    return tree | {"sentences": sentences(tree, pairs, said)}


def _fractions(
    results: Mapping[str, Sequence[RunResult]], which: str
) -> dict[str, dict[int, list[float]]]:
    """label -> seed -> correct fraction of each problem, of the finished runs that have it."""
    return {
        label: {
            run.seed: getattr(run, which)
            for run in runs
            if run.status == "finished" and getattr(run, which) is not None
        }
        for label, runs in results.items()
    }


def _pair(pair: Pair) -> dict[str, Any]:
    return {
        "a": pair.a,
        "b": pair.b,
        "difference": interval_json(pair.difference),
        "p": pair.p,
        "p_holm": pair.p_holm,
        "seeds": list(pair.seeds),
        "text": pair_sentence(pair),
    }


def _method(
    comparison: Comparison,
    label: str,
    lr: float,
    results: Sequence[RunResult],
) -> dict[str, Any]:
    """One entry of "methods", without its intervals. Costs are means over finished runs."""
    done = [r for r in results if r.status == "finished"]
    config = comparison.recipe.methods[label]
    return {
        "label": label,
        "method": comparison.method_name(label),
        "rank": rank_of(comparison.resolve(label, 0, lr)) or None,
        "lr": lr,
        "lr_source": "find" if config.lr == "find" else "given",
        "num_params": max((r.num_params for r in results), default=0),
        "tokens": _mean([r.tokens for r in done]),
        "seconds": _mean([r.seconds for r in done]),
        "peak_gib": max((r.peak_gib for r in done), default=0.0),
        "sync_bytes": _mean([r.sync_bytes for r in done]),
        "forgetting": interval_json(forgetting([r.folder for r in done])),
        "runs": [
            {
                "seed": r.seed,
                "run": str(r.folder.relative_to(comparison.folder)),
                "accuracy": r.accuracy,
                "accuracy_before": r.accuracy_before,
                "reward_last": r.reward_last,
                "tokens": r.tokens,
                "seconds": r.seconds,
                "peak_gib": r.peak_gib,
                "sync_bytes": r.sync_bytes,
                "status": r.status,
                "steps": r.steps,
                "reason": r.reason,
            }
            for r in results
        ],
    }


def forgetting(folders: Sequence[Path]) -> Interval | None:
    """Mean change on the forgetting tasks over runs whose folder holds `rlvr analyze`'s
    analysis.json; None where fewer than two do."""
    found = []
    for folder in folders:
        path = folder / "analysis.json"
        tree = json.loads(path.read_text())["forgetting"] if path.exists() else None
        if tree is not None:
            before = tree["before"]["mean"]["value"] if "mean" in tree["before"] else 0.0
            found.append(tree["mean"]["value"] - before)
    return mean_of(found) if len(found) > 1 else None


def interval_json(interval: Interval | None) -> dict[str, Any] | None:
    """{"value", "ci95", "over"}, or None."""
    if interval is None:
        return None
    return {"value": interval.value, "ci95": interval.bounds, "over": interval.over}


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else 0.0


def _number(value: float | None) -> str:
    return "no value" if value is None else f"{value:.3f}"


def _commit(results: Mapping[str, Sequence[RunResult]]) -> str | None:
    """The git commit that the first run was made with."""
    for runs in results.values():
        for result in runs:
            path = result.folder / "manifest.json"
            if path.exists():
                return json.loads(path.read_text())["git_commit"]
    return None


def _show(tree: Mapping[str, Any], comparison: Comparison, console: Console) -> None:
    console.print(screen_table(tree), width=max(console.width, SCREEN_WIDTH), crop=False)
    for sentence in tree["sentences"]:
        console.print(sentence, soft_wrap=True, highlight=False, markup=False)
    console.print(f"comparison: {comparison.folder / 'comparison.md'}", soft_wrap=True)
