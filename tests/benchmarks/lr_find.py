"""Does the finder find? Its rates against the best of a dense sweep, from runs on the disk.

    rlvr lr-find recipes/compare/quickstart_lr.toml --dense     # hours; go on with the same command
    rlvr lr-find recipes/compare/quickstart_lr.toml
    python tests/benchmarks/lr_find.py recipes/compare/quickstart_lr.toml --json lr_find.json

Goals: within a factor of 1.8 of the dense best for all but one method, at a third of the steps.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rlvr.compare.learning_rate.dense import read_dense
from rlvr.compare.learning_rate.find import FIT_WINDOW
from rlvr.compare.learning_rate.fit import fit_parabola, means_by_lr, near_best
from rlvr.compare.learning_rate.search import read_finds
from rlvr.compare.resolve import Comparison, open_comparison
from rlvr.compare.results import RatePoint

FACTOR, MOST_COST = 1.8, 1 / 3
PUBLISHED = {"dora": 1 / 1.8, "milora": 1 / 3.2, "pissa": 1 / 10, "lora": 1.0}
"""Best rate relative to LoRA's. Source: 2602.04998, supervised fine-tuning of Qwen3-0.6B."""


def main() -> None:
    """Prints a line per method and the two goals; writes the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--json", type=Path)
    args, rest = parser.parse_known_args()
    console = Console(width=120)
    comparison = open_comparison(args.recipe, rest)
    rows = evaluate(comparison)
    console.print(table(rows))
    found = [row for row in rows if row["factor"] is not None]
    within = sum(row["factor"] <= FACTOR for row in found)
    cost = sum(row["find_steps"] for row in found) / max(
        1, sum(row["dense_steps"] for row in found)
    )
    console.print(
        f"within {FACTOR:g}x of the dense best: {within} of {len(rows)} (goal: {len(rows) - 1});"
        f" steps of all searches / dense sweeps: {cost:.2f} (goal: {MOST_COST:.2f})"
    )
    if args.json:
        goals = {"within": within, "of": len(rows), "cost": cost}
        args.json.write_text(json.dumps({"results": rows, "goals": goals}, indent=1))


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A line per method."""
    made = Table("method", "dense best", "vertex", "prior", "found", "by", "factor", "steps",
                 "dense steps", "of LoRA's", "published")  # fmt: skip
    for row in rows:
        numbers = [row[name] for name in ("dense_best_measured", "dense_vertex", "prior", "found")]
        made.add_row(
            row["label"],
            *(_short(number) for number in numbers),
            row["found_by"] or "",
            _short(row["factor"]),
            str(row["find_steps"]),
            str(row["dense_steps"]),
            _short(row["relative_to_lora"]),
            _short(row["published_relative_to_lora"]),
        )
    return made


def _short(number: float | None) -> str:
    return "" if number is None else f"{number:.3g}"


def evaluate(comparison: Comparison) -> list[dict[str, Any]]:
    """One object per method: what the sweep and the search say, and how far they are apart.

    The sweep's best is the vertex of the same parabola where it has one, else the best rate
    measured; both are given.
    """
    labels = list(comparison.recipe.methods)
    dense, finds = read_dense(comparison, labels), read_finds(comparison, labels)
    bests = {label: _best(dense[label]) for label in labels}
    lora = bests.get("lora", {}).get("best")
    return [_row(label, dense[label], bests[label], finds.get(label), lora) for label in labels]


def _best(points: Sequence[RatePoint]) -> dict[str, float | None]:
    means = means_by_lr(points)
    fit = fit_parabola(near_best(points, FIT_WINDOW))
    measured = max(means, key=lambda lr: means[lr]) if means else None
    inside = fit is not None and means and min(means) <= fit.vertex_lr <= max(means)
    vertex = fit.vertex_lr if fit is not None and inside else None
    return {"measured": measured, "vertex": vertex, "best": vertex or measured}


def _row(
    label: str,
    points: Sequence[RatePoint],
    best: Mapping[str, float | None],
    find: Mapping[str, Any] | None,
    lora: float | None,
) -> dict[str, Any]:
    chosen, target = find and find["chosen_lr"], best["best"]
    factor = math.exp(abs(math.log(chosen / target))) if chosen and target else None
    measured = best["measured"]
    return {
        "label": label,
        "dense_runs": len(points),
        "dense_steps": sum(point.steps for point in points),
        "dense_best_measured": measured,
        "dense_vertex": best["vertex"],
        "found": chosen,
        "found_by": find and find["chosen_by"],
        "find_steps": find["cost"]["steps"] if find else 0,
        "prior": find["prior"]["lr"] if find and find["prior"] else None,
        "factor": factor,
        "factor_to_measured": math.exp(abs(math.log(chosen / measured)))
        if chosen and measured
        else None,
        "relative_to_lora": target / lora if target and lora else None,
        "published_relative_to_lora": PUBLISHED.get(label),
        "means": {f"{lr:.4g}": value for lr, value in means_by_lr(points).items()},
    }


if __name__ == "__main__":
    main()
