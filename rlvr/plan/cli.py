"""`rlvr plan RECIPE.toml`: what a recipe needs, how long it takes, and what binds."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlvr.common.errors import ConfigError
from rlvr.config.toml import load_recipe
from rlvr.config.train import TrainRecipe
from rlvr.plan.calibrate import calibrate, rates_path, recorded
from rlvr.plan.hardware import GPUS, Gpu, Shape, parse_cluster, shape_of
from rlvr.plan.memory import engine_memory, num_sequences, peak_memory, trainer_memory
from rlvr.plan.rates import Rates, roofline
from rlvr.plan.simulate import Workload, best_split, log_normal_lengths, step_time
from rlvr.warm_start.policy_path import model_path

SCALES = (1, 8, 64, 256, 1024)


def main(words: Sequence[str]) -> int:
    """Prints the plan."""
    # what is left over are settings of the recipe, as --section.key value
    args, settings = _parser().parse_known_args(list(words))
    recipe = load_recipe(args.recipe, settings, TrainRecipe)
    count, gpu = parse_cluster(args.gpus)
    shape = shape_of(recipe, model_path(recipe, Path(args.recipe)))
    if args.calibrate:
        modelled = sum(trainer_memory(recipe, shape).values())
        modelled += sum(engine_memory(recipe, shape, None, colocated=True).values())
        calibrate(recipe, Path(args.recipe), modelled).save(rates_path())
        print(f"measured rates are in {rates_path()}")
    plan = make_plan(recipe, shape, count, gpu, args)
    if args.json:
        print(json.dumps(plan, indent=1))
    else:
        _print(plan)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rlvr plan", description="Memory, time and cost of a recipe on a cluster."
    )
    parser.add_argument("recipe")
    parser.add_argument(
        "--gpus", default="cpu", help=f"COUNTxNAME of {', '.join(GPUS)}, or cpu: this machine"
    )
    parser.add_argument("--shards", type=int, default=1, help="devices that share the weights")
    parser.add_argument(
        "--lengths", help="MEDIAN,SIGMA of log-normal response lengths (default: a fifth, 1)"
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
        lengths, tokens_per_row = known["lengths"], known["tokens_per_row"]
        frac = known["informative_frac"] if recipe.sampling.dynamic else 1.0
    else:
        median, sigma = (longest / 5, 1.0)
        if args.lengths:
            median, sigma = map(float, args.lengths.split(","))
        lengths = log_normal_lengths(median, sigma, longest)
    groups = recipe.rollout.prompts_per_step
    size = recipe.rollout.group_size
    width = recipe.rollout.tensor_parallel_size
    return Workload(groups, size, args.prompt_len, lengths, 1 / frac, tokens_per_row, width)


def make_plan(
    recipe: TrainRecipe, shape: Shape, count: int, gpu: Gpu | None, args: Any
) -> dict[str, Any]:
    """Everything that is printed, JSON-ready. Raises: ConfigError."""
    shared = recipe.rollout.tensor_parallel_size
    if count < shared or count % recipe.rollout.ranks_per_engine:
        raise ConfigError(
            f"--gpus: {count} cannot form groups of rollout.tensor_parallel_size = {shared}; give a"
            " multiple of it, or set it to 1"
        )
    work = workload(recipe, args)
    rates = rates_of(recipe, shape, gpu, work)
    memory = trainer_memory(recipe, shape, args.shards)
    engine = engine_memory(recipe, shape, gpu, colocated=True)
    peak = peak_memory(memory, engine, recipe.rollout.sleep) + rates.runtime_gib
    memory |= engine | {"runtime": rates.runtime_gib}
    slots = num_sequences(recipe, shape, engine["key-value cache"], work.prompt_len + work.mean_len)
    now = step_time(work, rates, shape, gpu, count, slots)
    split = best_split(work, rates, shape, gpu, count, slots)
    best = split[1].step_s if split else now.step_s
    hours = recipe.train.steps * min(now.step_s, best) / 3600  # by the faster of the two ways
    plan = {
        "devices": count,
        "device": gpu.name if gpu else "this machine",
        "rates": rates.origin,
        "memory_gib": memory | {"total": peak},
        "device_memory_gib": gpu.memory_gib if gpu else None,
        "sequences_per_engine": slots,
        "tokens_per_step": round(work.num_rollouts * work.mean_len),
        "sync": asdict(now),
        "async": {"generating": split[0], **asdict(split[1])} if split else None,
        "steps": recipe.train.steps,
        "hours": hours,
        "cost": hours * count * args.price if args.price else None,
    }
    if gpu:
        plan["scaling"] = {
            str(n): asdict(step_time(work, rates, shape, gpu, n, slots))
            for n in SCALES
            if n >= work.engine_devices
        }
    return plan


def rates_of(recipe: TrainRecipe, shape: Shape, gpu: Gpu | None, work: Workload) -> Rates:
    """Measured rates where there are some, else the data sheet's. Raises: ConfigError."""
    stored = rates_path(gpu.name if gpu else None)
    if stored.exists():
        return Rates.load(stored)
    if gpu is None:
        raise ConfigError("--gpus cpu: this machine has no measured rates yet; add --calibrate")
    full = recipe.adapter.method.startswith("full")
    recomputes = bool(recipe.train.activation_checkpointing)
    return roofline(gpu, shape, full, recomputes, work.prompt_len, work.mean_len)


def _print(plan: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(f"{plan['devices']} x {plan['device']}; rates: {plan['rates']}")
    memory = Table("part", "GiB per device", title="memory")
    for name, size in plan["memory_gib"].items():
        memory.add_row(name, f"{size:.2f}")
    console.print(memory)
    held = plan["device_memory_gib"]
    if held and plan["memory_gib"]["total"] > held:
        console.print(
            f"does not fit {held:g} GiB: shard the weights (--shards), lower"
            " train.tokens_per_microbatch or rollout.gpu_memory_utilization, or turn on"
            " train.activation_checkpointing"
        )
    console.print(_step_table(plan))
    if "scaling" in plan:
        scaling = Table("devices", "s per step", "speed-up", "binds", title="the same step on more")
        least = next(iter(plan["scaling"].values()))["step_s"]
        for count, step in plan["scaling"].items():
            gain = f"{least / step['step_s']:.1f}x"
            scaling.add_row(count, f"{step['step_s']:.1f}", gain, step["binds"])
        console.print(scaling)
    cost = f", {plan['cost']:,.0f} in all" if plan["cost"] else ""
    console.print(f"{plan['steps']} steps: {plan['hours']:.2f} hours{cost}")


def _step_table(plan: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table("", "generate", "verify", "update", "sync", "step", "binds", title="s per step")
    modes = [("all generate, then all train", plan["sync"])]
    if plan["async"]:
        modes.append((f"{plan['async']['generating']} generate, the rest train", plan["async"]))
    for name, step in modes:
        update = step["update_s"] + step["all_reduce_s"]
        values = (step["rollout_s"], step["verify_s"], update, step["sync_s"], step["step_s"])
        table.add_row(name, *(f"{value:.2f}" for value in values), step["binds"])
    return table
