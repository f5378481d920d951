"""Bytes and milliseconds per sync to the real vLLM, by method: what changed against merge-all.

Merge-all is what trl does after every step: every adapter merged, and all weights of the model
sent. Each way of syncing has a process and an engine of its own, because one that serves adapters
keeps the original base. The policy is the quickstart's, its trained parameters moved a little;
milliseconds are medians and leave out the check on fixed tokens, which is given beside.

    python -m tests.benchmarks.sync --json sync.json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from rich.console import Console
from rich.table import Table

from rlvr.adapters import METHODS
from rlvr.config.toml import load_recipe
from rlvr.config.train import AdapterConfig, TrainRecipe
from tests.benchmarks.facts import facts

if TYPE_CHECKING:
    from rlvr.adapters.base import Sync
    from rlvr.engines.vllm_local import VllmEngine
    from rlvr.policy.policy import Policy

RECIPE = Path(__file__).resolve().parents[2] / "recipes/quickstart.toml"
MODES: tuple[Sync, ...] = ("merged", "adapter")
RANK = 32
SHIFT = 1e-3
"""Standard deviation of the noise that stands for an update."""
R = TypeVar("R")


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table and writes it to --json."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--repeats", type=int, default=7, help="syncs per median")
    parser.add_argument("--model", help="folder of another policy than the quickstart's")
    args = parser.parse_args(argv)
    path = args.model or _warmed_up()
    results: list[dict[str, Any]] = []
    for mode in MODES:
        methods = [name for name in args.methods if mode in METHODS[name].syncs]
        if methods:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                results += pool.submit(measure_all, mode, methods, path, args.repeats).result()
    everything = {row["method"]: row["merge_all"] for row in results if row["merge_all"]}
    results.sort(key=lambda row: args.methods.index(row["method"]))
    table = Table("method", "mode", "bytes", "of merge-all", "ms", "merge-all ms", "check ms")
    for row in results:
        row["merge_all"] = everything[row["method"]]
        share = f"{row['bytes'] / row['merge_all']['bytes']:.2f}"
        times = (f"{ms:.1f}" for ms in (row["ms"], row["merge_all"]["ms"], row["check_ms"]))
        table.add_row(row["method"], row["mode"], f"{row['bytes']:,}", share, *times)
    Console(width=100).print(table)
    if args.json:
        args.json.write_text(json.dumps({"results": results} | facts(argv), indent=1))


def _warmed_up() -> str:
    from rlvr.warm_start.policy_path import model_path

    return model_path(load_recipe(RECIPE, [], TrainRecipe), RECIPE)


def measure_all(
    mode: Sync, methods: Sequence[str], path: str, repeats: int
) -> list[dict[str, Any]]:
    """`measure` for every method, with one engine."""
    from rlvr.engines.vllm_local import VllmEngine

    recipe = load_recipe(RECIPE, [], TrainRecipe)
    # some methods hand over an equivalent adapter of twice the rank
    engine = VllmEngine(recipe.model, recipe.rollout, path, 2 * RANK if mode == "adapter" else None)
    try:
        return [measure(engine, mode, name, path, repeats) for name in methods]
    finally:
        engine.close()


def measure(engine: VllmEngine, mode: Sync, method: str, path: str, repeats: int) -> dict[str, Any]:
    """Bytes and median milliseconds of one method's sync, checked, and of merge-all (when merged).

    Raises: SyncError when the engine does not give the policy's probabilities.
    """
    from rlvr.adapters.merge import merged_weights
    from rlvr.engines.weights.sync import Syncer

    recipe, policy, prompts = moved_policy(method, path)
    everything = {}
    if mode == "merged":  # this also clears away what the method before has left
        sent = [
            _timed(lambda: engine.load_weights(merged_weights(policy.model, everything=True)))
            for _ in range(repeats)
        ]
        everything = {"bytes": sent[-1][0], "ms": _median_ms([seconds for _, seconds in sent])}
    syncer = Syncer(recipe.rollout, policy, engine, mode, prompts)
    checks: list[float] = []

    def check(inner: Callable[[], float] = syncer.check) -> float:
        error, seconds = _timed(inner)
        checks.append(seconds)
        return error

    syncer.check = check
    syncs = [_timed(syncer.sync) for _ in range(repeats)]
    sync_s = [total - checked for (_, total), checked in zip(syncs, checks, strict=True)]
    return {
        "method": method,
        "mode": mode,
        "bytes": syncs[-1][0].num_bytes,
        "ms": _median_ms(sync_s),
        "merge_all": everything,
        "check_ms": _median_ms(checks),
        "logprob_error": syncs[-1][0].logprob_error,
    }


def moved_policy(method: str, path: str) -> tuple[TrainRecipe, Policy, list[list[int]]]:
    """The recipe, the policy with `method` after a made-up update, and some prompts."""
    import torch

    from rlvr.data.problems import encode_prompts, load_problems
    from rlvr.policy.policy import load_policy

    recipe = load_recipe(RECIPE, ["--data.limit", "64"], TrainRecipe)
    problems = load_problems(recipe.data)
    limit = recipe.model.max_len - recipe.rollout.max_response_len

    def encode(tokenizer: Any) -> list[list[int]]:
        return encode_prompts(problems, tokenizer, recipe.data, limit)[1]

    adapter: dict[str, Any] = {"method": method}
    if "rank" in METHODS[method].options:
        adapter["rank"] = RANK
    if method in ("boft", "oft"):
        adapter[method] = {"block_size": 32}
    given = AdapterConfig.model_validate(adapter)
    policy = load_policy(recipe.model, given, path, 0, keep_reference=False, encode_rows=encode)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.trainable:
            parameter += SHIFT * torch.randn(parameter.shape, generator=generator)
    return recipe, policy, encode(policy.tokenizer)


def _timed(function: Callable[[], R]) -> tuple[R, float]:
    start = time.perf_counter()
    return function(), time.perf_counter() - start


def _median_ms(seconds: Sequence[float]) -> float:
    return round(1000 * statistics.median(seconds), 2)


if __name__ == "__main__":
    main(sys.argv[1:])
