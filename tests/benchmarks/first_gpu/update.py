"""The update on random rows: tokens per second, MFU, padding and memory, here and in trl."""

from __future__ import annotations

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
from rlvr.policy.flops import peak_flops
from rlvr.policy.policy import Policy
from rlvr.sampling.rollouts import Group
from rlvr.training.batch import UpdateConfig, make_batch
from rlvr.training.update import update
from tests.benchmarks.first_gpu.case import (
    CASES,
    DEVICE,
    TINY,
    Case,
    make_groups,
    make_model,
    needed_flops,
    num_tokens,
    peak_memory,
    timed,
)
from tests.benchmarks.first_gpu.report import Report, Skip, need

STEPS = {"ours": 2, "trl": 1}
"""Updates measured, after one that is not."""


def run(
    report: Report,
    tiny: bool,
    case: str = "1.5b",
    method: str = "lora",
    side: str = "ours",
    compiled: str = "",
) -> None:
    """Measures one method on one side."""
    if side == "trl":
        need("trl", "datasets")
    if DEVICE.type == "cpu" and not tiny:
        raise Skip("no CUDA device")
    report(**measure(TINY if tiny else CASES[case], method, side, bool(compiled)))


def measure(case: Case, method: str, side: str, compiled: bool = False) -> dict[str, Any]:
    """tokens_per_s, mfu, padding_frac, peak_gib and seconds of each update, with a headline."""
    groups = make_groups(case)
    if side == "trl":
        from tests.benchmarks.first_gpu.trl_update import measure_trl

        found = measure_trl(case, method, groups, STEPS[side])
    else:
        found = measure_ours(case, method, groups, compiled)
    seconds = statistics.median(found["seconds"])
    speed, peak = num_tokens(groups) / seconds, peak_flops(DEVICE, getattr(torch, case.dtype))
    mfu = needed_flops(case, groups, method) / seconds / peak if peak else None
    text = f"{speed:,.0f} tokens/s, padding {found['padding_frac']:.3f}"
    text += "" if mfu is None else f", MFU {mfu:.1%}"
    text += "" if found["peak_gib"] is None else f", peak {found['peak_gib']:.1f} GiB"
    facts = {"tokens_per_s": speed, "mfu": mfu, "case": asdict(case), "headline": text}
    return facts | {"recomputes": case.recomputes} | found


def make_recipe(case: Case, method: str, compiled: bool) -> TrainRecipe:
    """DAPO, on-policy; LoRA on all seven modules, or all weights."""
    tree = {
        "model": {"path": "random", "dtype": case.dtype, "max_len": 2 * case.max_len},
        "data": {"path": "random.jsonl"},
        "rollout": {
            "prompts_per_step": case.num_groups,
            "group_size": case.group_size,
            "max_response_len": case.max_len,
        },
        "algorithm": {"preset": "dapo"},
        "adapter": {"method": method} | ({} if method == "full" else {"rank": case.rank}),
        "optim": {"lr": 1e-6},
        "train": {
            "steps": 1,
            "tokens_per_microbatch": case.max_tokens,
            "activation_checkpointing": case.recomputes,
            "compile": compiled,
        },
    }
    return validate(tree, TrainRecipe)


def measure_ours(
    case: Case, method: str, groups: Sequence[Group], compiled: bool
) -> dict[str, Any]:
    """Seconds of each update by this project, padding and peak memory."""
    recipe = make_recipe(case, method, compiled)
    found, dtype = get_method(recipe.adapter), getattr(torch, case.dtype)
    base = make_model(case, dtype)
    use_packing(base)
    model = found.apply(base, Setup(recipe.adapter, seed=0)).eval()
    policy = Policy(model, None, dtype, DEVICE, "random", found, recipe.adapter)
    policy.set_checkpointing(recipe.train.activation_checkpointing)
    if compiled:
        policy.compile_layers()
    optimizer = found.optimizer(model, recipe.adapter, recipe.optim)
    config = UpdateConfig.of(recipe)
    batch, control = make_batch(groups, policy, config), EntropyControl(recipe.algorithm)
    stats: dict[str, float] = {}

    def step() -> None:
        stats.update(update(policy, optimizer, batch, config, 0, control).metrics)

    seconds = timed(step, STEPS["ours"])
    return {"seconds": seconds, "padding_frac": stats["train/padding_frac"]} | peak_memory()
