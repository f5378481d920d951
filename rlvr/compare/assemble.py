"""The tree of comparison.json: what every method and pair of a comparison came to."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from eval.intervals import Interval, mean_over_problems
from rlvr.common.errors import RunError
from rlvr.compare.fairness import Fairness
from rlvr.compare.learning_rate.search import rank_of, read_finds
from rlvr.compare.resolve import Comparison
from rlvr.compare.results import RunResult
from rlvr.compare.statistics import Pair, compare_pairs, gain, summarise
from rlvr.compare.text import pair_sentence, sentences
from rlvr.runs.reader import read_manifest


@dataclass(frozen=True)
class Pruned:
    """One run that successive halving ended. value: its method's mean accuracy at the rung."""

    label: str
    seed: int
    rung: int
    steps: int
    value: float | None


def assemble(
    comparison: Comparison,
    fairness: Fairness,
    rates: Mapping[str, float],
    results: Mapping[str, Sequence[RunResult]],
    pruned: Sequence[Pruned],
) -> dict[str, Any]:
    """The tree of comparison.json. Only finished runs count in accuracies and pairs.

    Raises: RunError where runs were scored on different problems.
    """
    recipe, sets = comparison.recipe, _sets(results)
    sizes = tuple(sets.values())
    after, before = _fractions(results, "after"), _fractions(results, "before")
    # a method whose every run failed has nothing to pair
    pairs = compare_pairs({label: values for label, values in after.items() if values}, sizes)
    gains = {label: gain(before[label], after[label], sizes) for label in results}
    tree = {
        "name": recipe.compare.name,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "rlvr_commit": _commit(results),
        "recipe": comparison.path.read_text(),
        "metric": "eval/accuracy_mean" if len(sets) > 1 else "eval/accuracy",
        "sets": sets,
        "budget": {recipe.budget.unit: recipe.budget.amount},
        "matched": list(fairness.matched),
        "unmatched": list(fairness.unmatched),
        "unfair": list(fairness.unfair),
        "allow_unmatched": recipe.compare.allow_unmatched,
        "methods": [
            _method(comparison, label, rates[label], results[label])
            | {"accuracy": interval_json(summarise(after[label], sizes))}
            | {"accuracy_by_set": _by_set(after[label], sets)}
            | {"gain": interval_json(gains[label])}
            for label in recipe.methods
            if label in results  # a method without a rate has no runs
        ],
        "pairs": [_pair(pair) for pair in pairs],
        "lr_finds": list(read_finds(comparison, list(recipe.methods)).values()),
        "pruned": [asdict(row) for row in pruned],
        "without_rate": [label for label in recipe.methods if label not in rates],
    }
    known = {label: (g, len(after[label])) for label, g in gains.items() if g is not None}
    # last, since the sentences are written from the tree
    return tree | {"sentences": sentences(tree, pairs, known)}


def _sets(results: Mapping[str, Sequence[RunResult]]) -> dict[str, int]:
    """Problems of each evaluation set, the same for all finished runs. Raises: RunError."""
    found: dict[str, int] = {}
    for runs in results.values():
        for run in runs:
            for scores in (run.before, run.after):
                if run.status != "finished" or scores is None:
                    continue
                sizes = {name: len(values) for name, values in scores.items()}
                found = found or sizes
                if sizes != found:
                    raise RunError(
                        f"{run.folder} was evaluated on {_counts(sizes)}, others on"
                        f" {_counts(found)}: an older version kept the first set only; delete its"
                        " folder and start the comparison again"
                    )
    return found


def _counts(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{count} problems of {name}" for name, count in sizes.items())


def _fractions(
    results: Mapping[str, Sequence[RunResult]], which: str
) -> dict[str, dict[int, list[float]]]:
    """label -> seed -> correct fraction of each problem, set after set, of the finished runs that
    have it."""
    return {
        label: {
            run.seed: [value for values in scores.values() for value in values]
            for run in runs
            if run.status == "finished" and (scores := getattr(run, which)) is not None
        }
        for label, runs in results.items()
    }


def _by_set(after: Mapping[int, Sequence[float]], sets: Mapping[str, int]) -> dict[str, Any]:
    """The accuracy on each set alone, with its interval."""
    found, start = {}, 0
    for name, size in sets.items():
        # `_fractions` puts the sets one after another, in this order
        part = {seed: values[start : start + size] for seed, values in after.items()}
        found[name] = interval_json(summarise(part))
        start += size
    return found


def _pair(pair: Pair) -> dict[str, Any]:
    difference = interval_json(pair.difference)
    return asdict(pair) | {"difference": difference, "text": pair_sentence(pair)}


def _method(
    comparison: Comparison, label: str, lr: float, results: Sequence[RunResult]
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
        "runs": [result.to_json(comparison.folder) for result in results],
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
    return mean_over_problems(found) if len(found) > 1 else None


def interval_json(interval: Interval | None) -> dict[str, Any] | None:
    """{"value", "ci95", "over"}, or None."""
    if interval is None:
        return None
    return {"value": interval.value, "ci95": interval.bounds, "over": interval.over}


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else 0.0


def _commit(results: Mapping[str, Sequence[RunResult]]) -> str | None:
    """The git commit that the first run was made with."""
    manifests = (read_manifest(run.folder) for runs in results.values() for run in runs)
    return next((facts["git_commit"] for facts in manifests if facts), None)
