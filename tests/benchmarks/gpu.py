"""The update on a GPU: tokens per second, MFU, padding and memory, against trl's GRPOTrainer.

Needs no network and no files: a random Qwen2 of DeepSeek-R1-Distill-Qwen-1.5B's shape in bfloat16,
random tokens, log-normal response lengths. Run: python -m tests.benchmarks.gpu [--json FILE]
[--methods lora full] [--checkpointing 0] [--compile] [--no-trl]; --tiny is a test of the script
itself, on any machine.

FLOPs are those that the rows need, each prompt of a group once, nothing recomputed or padded:
6 x (weights of the layers) x tokens + 6 x (weights of the head) x response tokens
+ 6 x layers x hidden size x sum over rows of length^2 (causal attention), the prompt's square once
per group. With adapters 4 replaces the first two 6: frozen weights get no gradient. MFU is that
over the seconds and the GPU's dense bfloat16 peak.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from rlvr.adapters import get_method
from rlvr.adapters.base import Setup
from rlvr.algorithm.entropy_control import EntropyControl
from rlvr.config.toml import validate
from rlvr.config.train import TrainRecipe
from rlvr.policy.attention import use_packing
from rlvr.policy.policy import Policy
from rlvr.sampling.rollouts import Group
from rlvr.training.batch import UpdateConfig, make_batch
from rlvr.training.update import update
from tests.benchmarks.gpu_case import (
    DEVICE,
    TINY,
    Case,
    clear,
    make_groups,
    make_model,
    needed_flops,
    peak_memory,
    timed,
)

PEAK_FLOPS = {"H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12}
"""Dense bfloat16 FLOP/s by a part of the GPU's name, from the vendor's data sheets."""


def make_recipe(case: Case, method: str, args: argparse.Namespace) -> TrainRecipe:
    """DAPO, on-policy; LoRA of rank 32 on all seven modules, or all weights."""
    tree = {
        "model": {"path": "random", "dtype": case.dtype, "max_len": 2 * case.max_len},
        "data": {"path": "random.jsonl"},
        "rollout": {
            "prompts_per_step": case.num_groups,
            "group_size": case.group_size,
            "max_response_len": case.max_len,
        },
        "algorithm": {"preset": "dapo"},
        "adapter": {"method": method},
        "optim": {"lr": 1e-6},
        "train": {
            "steps": 1,
            "tokens_per_microbatch": case.max_tokens,
            "activation_checkpointing": args.checkpointing,
            "compile": args.compile,
        },
    }
    return validate(tree, TrainRecipe)


def measure_ours(
    case: Case, method: str, groups: Sequence[Group], args: argparse.Namespace
) -> dict[str, Any]:
    """Seconds of each update by this project, padding and peak memory."""
    recipe = make_recipe(case, method, args)
    found = get_method(recipe.adapter)
    base = make_model(case, getattr(torch, case.dtype))
    use_packing(base)
    model = found.apply(base, Setup(recipe.adapter, seed=0)).eval()
    dtype = getattr(torch, case.dtype)
    policy = Policy(model, None, dtype, DEVICE, "random", found, recipe.adapter)
    policy.set_checkpointing(recipe.train.activation_checkpointing)
    if recipe.train.compile:
        policy.compile_layers()
    optimizer = found.optimizer(model, recipe.adapter, recipe.optim)
    batch = make_batch(groups, policy, UpdateConfig.of(recipe))
    control = EntropyControl(recipe.algorithm)
    stats: dict[str, float] = {}

    def step() -> None:
        stats.update(update(policy, optimizer, batch, UpdateConfig.of(recipe), 0, control).metrics)

    seconds = timed(step, args.steps)
    return {"seconds": seconds, "padding_frac": stats["train/padding_frac"]} | peak_memory()


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table and writes it to --json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="file for the results")
    parser.add_argument("--methods", nargs="+", default=["full", "lora"], choices=["full", "lora"])
    parser.add_argument("--steps", type=int, default=3, help="updates measured")
    parser.add_argument(
        "--checkpointing", type=int, help="recompute every n-th layer; default: by GPU memory"
    )
    parser.add_argument("--compile", action="store_true", help="compile our decoder layers")
    parser.add_argument("--no-trl", action="store_true", help="measure ours only")
    parser.add_argument("--tiny", action="store_true", help="sizes for a test of this script")
    args = parser.parse_args(argv)
    if DEVICE.type == "cpu" and not args.tiny:
        parser.error("needs a CUDA device; --tiny runs anywhere")
    case, name = TINY if args.tiny else Case(), "CPU"
    if DEVICE.type == "cuda":
        properties = torch.cuda.get_device_properties(0)
        name = properties.name
        if args.checkpointing is None:
            args.checkpointing = int(properties.total_memory < 120 * 2**30)
    args.checkpointing = args.checkpointing or 0
    report(case, name, args)


def report(case: Case, name: str, args: argparse.Namespace) -> None:
    """Measures every method on both sides, and prints and writes what came out."""
    groups = make_groups(case)
    real = sum(len(g.prompt_ids) + len(r.token_ids) for g in groups for r in g.responses)
    sides = {"ours": measure_ours}
    if not args.no_trl:
        try:
            from tests.benchmarks.gpu_trl import measure_trl
        except ImportError as error:
            print(f"trl cannot be imported ({error}): measuring ours only")
        else:
            sides["trl"] = measure_trl
    print(f"{name}, torch {torch.__version__}, {real} real tokens in {len(groups)} groups")
    print("method  side   seconds  tokens/s   MFU  padding  peak GiB")
    peak = next((flops for part, flops in PEAK_FLOPS.items() if part in name), None)
    results = []
    for method in args.methods:
        for side, measure in sides.items():
            clear()
            found = measure(case, method, groups, args)
            seconds = statistics.median(found["seconds"])
            mfu = needed_flops(case, groups, method) / seconds / peak if peak else None
            row = {"method": method, "side": side, "tokens_per_s": real / seconds, "mfu": mfu}
            results.append(row | found)
            shown = [f"{x:5.2f}" if x is not None else "    -" for x in (mfu, found["peak_gib"])]
            print(
                f"{method:6}  {side:5} {seconds:8.3f} {real / seconds:9.0f} {shown[0]}"
                f"   {found['padding_frac']:6.3f}     {shown[1]}"
            )
    if args.json:
        settings = {"checkpointing": args.checkpointing, "compile": args.compile}
        facts = {"device": name, "torch": torch.__version__, "case": asdict(case)} | settings
        with open(args.json, "w") as file:
            json.dump(facts | {"results": results}, file, indent=1)


if __name__ == "__main__":
    main()
