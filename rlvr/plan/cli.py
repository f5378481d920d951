"""`rlvr plan RECIPE.toml`: what a recipe needs, how long it takes, and what binds."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eval.reports.tables import Table, render
from rlvr.common.errors import ConfigError
from rlvr.common.gpus import GPUS, Gpu
from rlvr.config.recipes import find_recipe
from rlvr.config.toml import load_recipe
from rlvr.config.train import TrainRecipe
from rlvr.plan.calibrate import calibrate, rates_path, recorded
from rlvr.plan.generation import Workload, log_normal_lengths
from rlvr.plan.hardware import GPUS_PER_NODE, Shape, parse_cluster, shape_of
from rlvr.plan.header import read_header
from rlvr.plan.memory import (
    TIGHT,
    device_memory,
    engine_memory,
    host_memory,
    num_sequences,
    trainer_memory,
)
from rlvr.plan.rates import FAST, SLOW, USUAL, Rates, Reached, roofline
from rlvr.plan.simulate import best_split, step_time
from rlvr.warm_start.policy_path import model_path

SCALES = (1, 8, 64, 256, 1024)


def main(words: Sequence[str]) -> int:
    """Prints the plan."""
    # what is left over are settings of the recipe, as --section.key value
    args, settings = parser().parse_known_args(list(words))
    recipe = load_recipe(args.recipe, settings, TrainRecipe)
    header = read_header(args.recipe)
    args.lengths = args.lengths or header.lengths
    count, gpu = parse_cluster(args.gpus or header.hardware or "cpu")
    shape = shape_of(recipe, model_path(recipe, args.recipe))
    if args.calibrate:
        modelled = sum(trainer_memory(recipe, shape).values())
        modelled += sum(engine_memory(recipe, shape, gpu, colocated=True).values())
        calibrate(recipe, args.recipe, modelled).save(rates_path())
        print(f"measured rates are in {rates_path()}")
    plan = make_plan(recipe, shape, count, gpu, args)
    if args.json:
        print(json.dumps(plan, indent=1))
    else:
        _print(plan)
    return 0


def parser() -> argparse.ArgumentParser:
    """The arguments of `rlvr plan`; settings of the recipe are left over."""
    parser = argparse.ArgumentParser(
        prog="rlvr plan", description="Memory, time and cost of a recipe on a cluster."
    )
    parser.add_argument("recipe", type=find_recipe)
    parser.add_argument(
        "--gpus",
        help=f"COUNTxNAME of {', '.join(GPUS)}, or cpu: this machine (default: as the recipe's"
        " header says)",
    )
    parser.add_argument("--shards", type=int, default=1, help="devices that share the weights")
    parser.add_argument(
        "--lengths",
        help="MEDIAN,SIGMA of log-normal response lengths (default: as the recipe's header says,"
        " else a fifth of the longest, 1)",
    )
    parser.add_argument("--run", help="take lengths and informative groups from this run")
    parser.add_argument(
        "--informative-frac", type=float, default=0.5, help="informative groups (default: 0.5)"
    )
    parser.add_argument("--prompt-len", type=float, default=150, help="tokens (default: 150)")
    parser.add_argument("--price", type=float, help="of one device for one hour")
    parser.add_argument("--calibrate", action="store_true", help="measure this machine first")
    parser.add_argument("--json", action="store_true")
    return parser


def workload(recipe: TrainRecipe, args: Any) -> Workload:
    """The step's work by the recipe and by what is known or assumed of its responses."""
    longest, tokens_per_row = recipe.rollout.max_response_len, None
    # without refills a step generates its groups once, informative or not
    frac = args.informative_frac if recipe.sampling.dynamic else 1.0
    if args.run:
        known = recorded(Path(args.run))
        lengths, tokens_per_row = tuple(known["lengths"]), known["tokens_per_row"]
        frac = known["informative_frac"] if recipe.sampling.dynamic else 1.0
    else:
        median, sigma = (longest / 5, 1.0)
        if args.lengths:
            median, sigma = map(float, args.lengths.split(","))
        lengths = log_normal_lengths(median, sigma, longest)
    rollout = recipe.rollout
    return Workload(
        rollout.prompts_per_step,
        rollout.group_size,
        args.prompt_len,
        lengths,
        1 / frac,
        tokens_per_row,
        rollout.tensor_parallel_size,
        partial=rollout.partial,
        keeps_surplus=rollout.max_staleness > 0,
        by_clock=rollout.engine == "vllm_server",
        steps_ahead=rollout.steps_ahead,
    )


def make_plan(
    recipe: TrainRecipe, shape: Shape, count: int, gpu: Gpu | None, args: Any
) -> dict[str, Any]:
    """Everything that is printed, JSON-ready; of a run with stages the steps, hours and cost of all
    together, and the rest of the one that takes most memory. Raises: ConfigError."""
    ends = [stage.at_step for stage in recipe.stage] + [recipe.train.steps]
    steps = [end - begin for begin, end in zip([0, *ends], ends, strict=False)]
    recipes = [recipe.in_stage(number) for number in range(len(ends))]
    plans = [
        _plan_stage(one, num_steps, shape, count, gpu, args)
        for one, num_steps in zip(recipes, steps, strict=True)
    ]
    if len(plans) == 1:
        return plans[0]
    largest = max(plans, key=lambda plan: plan["memory_gib"]["total"])
    kept = ("steps", "hours", "hours_range", "tokens_per_step")
    return largest | {
        "steps": recipe.train.steps,
        "hours": sum(plan["hours"] for plan in plans),
        "hours_range": [sum(plan["hours_range"][i] for plan in plans) for i in (0, 1)],
        "cost": sum(plan["cost"] for plan in plans) if args.price else None,
        "stages": [{name: plan[name] for name in kept} for plan in plans],
    }


def _plan_stage(
    recipe: TrainRecipe, num_steps: int, shape: Shape, count: int, gpu: Gpu | None, args: Any
) -> dict[str, Any]:
    """The plan of so many steps by a recipe without stages."""
    shared = recipe.rollout.tensor_parallel_size
    if count < shared or count % recipe.rollout.ranks_per_engine:
        raise ConfigError(
            f"--gpus: {count} cannot form groups of rollout.tensor_parallel_size = {shared}; give a"
            " multiple of it, or set it to 1"
        )
    work = workload(recipe, args)
    usual, slow, fast = (rates_of(recipe, shape, gpu, work, one) for one in (USUAL, SLOW, FAST))
    memory = device_memory(recipe, shape, gpu, args.shards, usual.runtime_gib)
    cache_gib = memory["key-value cache"]
    slots = num_sequences(recipe, shape, cache_gib, work.prompt_len + work.mean_len)
    now = step_time(work, usual, shape, gpu, count, slots)
    split = best_split(work, usual, shape, gpu, count, slots)

    def hours(rates: Rates) -> float:
        """By the faster of the two ways."""
        steps = [step_time(work, rates, shape, gpu, count, slots)]
        if split:
            steps.append(step_time(work, rates, shape, gpu, count, slots, generating=split[0]))
        return num_steps * min(step.step_s for step in steps) / 3600

    plan = {
        "devices": count,
        "device": gpu.name if gpu else "this machine",
        "rates": usual.origin,
        "memory_gib": memory,
        "device_memory_gib": gpu.memory_gib if gpu else None,
        "fits": memory["total"] <= TIGHT * gpu.memory_gib if gpu else None,
        "host_memory_gib": host_memory(recipe, shape, min(count, GPUS_PER_NODE)),
        "sequences_per_engine": slots,
        "tokens_per_step": round(work.num_rollouts * work.mean_len),
        "prompts_per_step": work.num_groups,
        "late_frac": work.late_frac,
        "sync": asdict(now),
        "async": {"generating": split[0], **asdict(split[1])} if split else None,
        "steps": num_steps,
        "hours": hours(usual),
        "hours_range": [hours(fast), hours(slow)],
        "cost": hours(usual) * count * args.price if args.price else None,
    }
    if gpu:
        plan["scaling"] = {
            str(n): asdict(step_time(work, usual, shape, gpu, n, slots))
            for n in SCALES
            if n >= work.engine_devices
        }
    return plan


def rates_of(
    recipe: TrainRecipe, shape: Shape, gpu: Gpu | None, work: Workload, reached: Reached
) -> Rates:
    """Measured rates where there are some, else the data sheet's, of which so much is reached.

    Raises: ConfigError.
    """
    stored = rates_path(gpu.name if gpu else None)
    if stored.exists():
        return Rates.load(stored)
    if gpu is None:
        raise ConfigError("--gpus cpu: this machine has no measured rates yet; add --calibrate")
    return roofline(gpu, shape, recipe, work.prompt_len, work.lengths, reached)


def _print(plan: dict[str, Any]) -> None:
    print(f"{plan['devices']} x {plan['device']}; rates: {plan['rates']}\n")
    memory, steps = [], [_step_table(plan)]
    for title, parts in (
        ("memory of a device", plan["memory_gib"]),
        ("CPU memory of a machine", plan["host_memory_gib"]),
    ):
        rows = tuple((name, f"{size:.2f}") for name, size in parts.items())
        memory.append(Table(title, ("part", "GiB"), rows))
    print(render(memory, "text") + "\n")
    if plan["fits"] is False:
        print(_too_large(plan["memory_gib"]["total"], plan["device_memory_gib"]) + "\n")
    if "scaling" in plan:
        least = next(iter(plan["scaling"].values()))["step_s"]
        rows = tuple(
            (n, f"{step['step_s']:.1f}", f"{least / step['step_s']:.1f}x", step["binds"])
            for n, step in plan["scaling"].items()
        )
        columns = ("devices", "s per step", "speed-up", "binds")
        steps.append(Table("the same step on more", columns, rows))
    print(render(steps, "text") + "\n")
    if "stages" in plan:
        print(render([_stage_table(plan["stages"])], "text") + "\n")
    print(_summary(plan))


def _too_large(total: float, held: float) -> str:
    remedy = (
        "shard the weights (--shards), lower train.tokens_per_microbatch or"
        " rollout.gpu_memory_utilization, or turn on train.activation_checkpointing"
    )
    if total > held:
        return f"does not fit {held:g} GiB: {remedy}"
    return (
        f"warning: {total:.1f} of {held:g} GiB is above {TIGHT:.0%}, and fragments and library"
        f" buffers are not counted: {remedy}"
    )


def _summary(plan: dict[str, Any]) -> str:
    """Hours, and cost where a price is known: a range as long as nothing was measured."""
    low, high = plan["hours_range"]
    hours, note = f"{low:.2f} to {high:.2f}", " (no rate was measured: what is reached is assumed)"
    if low == high:
        hours, note = f"{low:.2f}", ""
    cost = ""
    if plan["cost"]:
        per_hour = plan["cost"] / plan["hours"]
        bounds = dict.fromkeys(f"{per_hour * bound:,.0f}" for bound in (low, high))
        cost = f", {' to '.join(bounds)} in all"
    prompts = f"{plan['prompts_per_step']:.0f} prompts a step"
    if plan["late_frac"]:
        prompts += f", asked for late in {plan['late_frac']:.0%} of the steps"
    return f"{plan['steps']} steps: {hours} hours{cost}, evaluations not counted; {prompts}{note}"


def _stage_table(stages: list[dict[str, Any]]) -> Table:
    rows = []
    for number, stage in enumerate(stages):
        low, high = stage["hours_range"]
        begin = sum(one["steps"] for one in stages[:number])
        row = (begin, begin + stage["steps"], stage["tokens_per_step"], f"{low:.2f} to {high:.2f}")
        rows.append(tuple(map(str, row)))
    return Table("stages", ("from step", "to", "tokens a step", "hours"), tuple(rows))


def _step_table(plan: dict[str, Any]) -> Table:
    rows = []
    modes = [("all generate, then all train", plan["sync"])]
    if plan["async"]:
        modes.append((f"{plan['async']['generating']} generate, the rest train", plan["async"]))
    for name, step in modes:
        update = step["update_s"] + step["all_reduce_s"]
        values = (step["rollout_s"], step["verify_s"], update, step["sync_s"], step["step_s"])
        rows.append((name, *(f"{value:.2f}" for value in values), step["binds"]))
    columns = ("", "generate", "verify", "update", "sync", "step", "binds")
    return Table("s per step", columns, tuple(rows))
