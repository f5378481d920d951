"""`rlvr plan` of a comparison: hours and GPU hours of all its runs, with several on one engine."""

from __future__ import annotations

import heapq
import json
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from eval.reports.tables import Table, render
from rlvr.common.errors import ConfigError
from rlvr.common.gpus import Gpu
from rlvr.compare.resolve import Comparison, open_comparison
from rlvr.plan.cli import main as plan_main
from rlvr.plan.cli import parser, rates_of, workload
from rlvr.plan.hardware import parse_cluster, shape_of
from rlvr.plan.header import read_header
from rlvr.plan.memory import serves_adapter
from rlvr.plan.rates import FAST, SLOW, USUAL
from rlvr.plan.shared import SharedPlan, shared_plan

RUNS_PER_ENGINE = (1, 4, 8)
BOUNDS = ("fast", "usual", "slow")
"""Rates of which a plan makes a range."""


def main(words: Sequence[str]) -> int:
    """Prints the plan of a recipe of `rlvr train`, or of a comparison."""
    args, settings = parser().parse_known_args(list(words))
    path = args.recipe
    if not path.is_file() or "compare" not in tomllib.loads(path.read_text()):
        return plan_main(words)
    header = read_header(path)
    args.lengths = args.lengths or header.lengths
    count, gpu = parse_cluster(args.gpus or header.hardware or "cpu")
    study = plan_study(open_comparison(path, settings), count, gpu, args)
    if args.json:
        print(json.dumps(study, indent=1))
    else:
        _print(study)
    return 0


@dataclass(frozen=True, slots=True)
class _Method:
    """plan: of so many runs on one engine. run_steps: the length of every run, searches too."""

    shares: bool
    plan: Callable[[int], SharedPlan]
    run_steps: list[int]


def plan_study(comparison: Comparison, count: int, gpu: Gpu | None, args: Any) -> dict[str, Any]:
    """Everything that is printed, JSON-ready. Raises: ConfigError."""
    if comparison.recipe.budget.steps is None:
        raise ConfigError("budget: only steps say how long runs are; give budget.steps to plan")
    methods = {label: _method(comparison, label, gpu, args) for label in comparison.recipe.methods}
    shared = [label for label, one in methods.items() if one.shares]
    return {
        "devices": count,
        "device": gpu.name if gpu else "this machine",
        "runs": sum(len(one.run_steps) for one in methods.values()),
        "share": shared,
        "alone": [label for label in methods if label not in shared],
        "runs_per_engine": {str(n): _row(methods, n, count) for n in RUNS_PER_ENGINE},
    }


def _method(comparison: Comparison, label: str, gpu: Gpu | None, args: Any) -> _Method:
    recipe = comparison.resolve(label, 0, None)
    if recipe.rollout.tensor_parallel_size > 1:
        raise ConfigError(
            f"rollout.tensor_parallel_size = {recipe.rollout.tensor_parallel_size}: a comparison is"
            " planned with a run on each device; set it to 1"
        )
    shape = shape_of(recipe, str(recipe.model.path))
    work = workload(recipe, args)
    rates = tuple(rates_of(recipe, shape, gpu, work, one) for one in (FAST, USUAL, SLOW))
    find, budget = comparison.recipe.find, comparison.recipe.budget
    assert budget.steps is not None
    run_steps = [budget.steps] * len(comparison.seeds(label))
    if comparison.recipe.methods[label].lr == "find":
        # twice the first grid, as `rlvr compare --plan` takes it
        run_steps += [find.steps or budget.steps] * (2 * find.num_points)

    def plan(runs: int) -> SharedPlan:
        return shared_plan(recipe, shape, gpu, work, rates, runs)

    # cached: every row and every bound asks for the same plans
    return _Method(serves_adapter(recipe), cache(plan), run_steps)


def _row(methods: dict[str, _Method], runs: int, count: int) -> dict[str, Any]:
    """Of the whole study with so many runs on an engine, where methods can share one."""
    used = [one.plan(runs if one.shares else 1) for one in methods.values()]
    row: dict[str, Any] = {
        "memory_gib": max(plan.gib for plan in used),
        "sequences": min(plan.sequences for plan in used),
        "fits": all(plan.fits for plan in used),
    }
    for i, bound in enumerate(BOUNDS):
        loads = [s / 3600 for s in _loads(list(methods.values()), runs, i)]
        row[bound] = {"hours": _makespan(loads, count), "gpu_hours": sum(loads)}
    return row


def _loads(methods: Sequence[_Method], runs: int, bound: int) -> list[float]:
    """Seconds of each engine's work: runs of one length together, or one that shares with none."""
    together = sorted(
        ((steps, one) for one in methods if one.shares for steps in one.run_steps),
        # sorted, so that runs of one length stand together
        key=lambda pair: -pair[0],
    )
    loads, at = [], 0
    while at < len(together):
        part = [p for p in together[at : at + runs] if p[0] == together[at][0]]
        loads.append(sum(steps * one.plan(len(part)).step_s[bound] for steps, one in part))
        at += len(part)
    alone = [one for one in methods if not one.shares]
    return loads + [steps * one.plan(1).step_s[bound] for one in alone for steps in one.run_steps]


def _makespan(loads: Sequence[float], count: int) -> float:
    """Until all are done on so many devices, the longest first."""
    ends = [0.0] * count
    for load in sorted(loads, reverse=True):
        # to the device that is free first
        heapq.heapreplace(ends, ends[0] + load)
    return max(ends)


def _print(study: dict[str, Any]) -> None:
    title = f"{study['runs']} runs on {study['devices']} x {study['device']}"
    rows = []
    for runs, row in study["runs_per_engine"].items():
        hours, total = (
            f"{row['fast'][key]:,.0f} to {row['slow'][key]:,.0f}" for key in ("hours", "gpu_hours")
        )
        size = f"{row['memory_gib']:.0f}" + ("" if row["fits"] else ", too much")
        rows.append((runs, hours, total, size, str(row["sequences"])))
    columns = ("runs per engine", "hours", "GPU hours", "GiB", "sequences")
    print(render([Table(title, columns, tuple(rows))], "text") + "\n")
    print(f"share an engine: {', '.join(study['share']) or 'none'}")
    if study["alone"]:
        print(f"generate alone (not served as a LoRA): {', '.join(study['alone'])}")
    print("searches of rates taken as twice their first grid; evaluations not counted")
