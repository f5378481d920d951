"""Does reward rise? Every method on the quickstart's policy, one engine for all of them.

    python tests/benchmarks/adapters.py recipes/quickstart.toml --steps 20 --json adapters.json

Learning rates are guesses per family, one seed, few steps: this shows that a method learns, not how
good it is. Methods that are already in the JSON file are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from rewards import Verifier
from rlvr.adapters import METHODS
from rlvr.algorithm.entropy_control import EntropyControl
from rlvr.config.toml import load_recipe
from rlvr.config.train import AdapterConfig, TrainRecipe
from rlvr.data.problems import encode_prompts, load_problems
from rlvr.engines.transformers import TransformersEngine
from rlvr.engines.vllm_local import VllmEngine
from rlvr.engines.weights.sync import Syncer
from rlvr.policy.policy import load_policy
from rlvr.sampling.sampler import NoSignalError, Sampler
from rlvr.training.build import Session
from rlvr.training.loop import Run, one_step
from rlvr.warm_start.policy_path import model_path

LRS = {
    "full": 1e-4,
    "full_frozen_embeddings": 1e-4,
    "galore": 4e-4,
    "apollo": 1e-4,
    "pissa": 2e-4,
    "olora": 2e-4,
    "lora_ga": 2e-4,
    "corda": 2e-4,
    "milora": 6e-4,
    "lora_plus": 1e-4,
    "eva": 2e-4,
    "orthogonal": 2e-4,
    "hra": 2e-4,
    "oft": 3e-4,
    "boft": 3e-4,
    "rslora": 3.5e-4,
    "init_ab": 2e-4,
    "adalora": 2e-2,
    "orthogeolora": 2e-2,
    "miss": 3e-4,
    "vera": 2e-2,
    "ia3": 1e-2,
    "ln_tuning": 5e-3,
    "bitfit": 5e-3,
    "tinylora": 1e-3,
    "fourierft": 1e-3,
    "prompt_tuning": 1e-2,
    "prefix_tuning": 1e-2,
}
DEFAULT_LR = 2e-3


def main() -> None:
    """Appends one object per method to the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--seconds", type=float, default=1e9, help="start none after this long")
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    start = time.perf_counter()
    rows = json.loads(args.json.read_text())["results"] if args.json.exists() else []
    done = {row["method"] for row in rows}
    shared: dict[str, Any] = {}
    for method in args.methods:
        if method in done or time.perf_counter() - start > args.seconds:
            continue
        recipe = _recipe(args.recipe, method, args.steps)
        rows.append(measure(recipe, Path(args.recipe), shared))
        print(json.dumps(rows[-1]), flush=True)
        args.json.write_text(json.dumps({"results": rows}, indent=1))


def _recipe(path: str, method: str, steps: int) -> TrainRecipe:
    tree = load_recipe(path, [], TrainRecipe).model_dump(exclude_unset=True)
    adapter: dict[str, Any] = {"method": method}
    if "rank" in METHODS[method].options:
        adapter["rank"] = 32
    if method == "boft" or method == "oft":
        adapter[method] = {"block_size": 32}
    tree |= {"adapter": adapter, "track": {"wandb": "disabled"}}
    tree["optim"] = tree["optim"] | {"lr": LRS.get(method, DEFAULT_LR)}
    tree["train"] = tree["train"] | {"steps": steps}
    return TrainRecipe.model_validate(tree)


def measure(recipe: TrainRecipe, recipe_path: Path, shared: dict[str, Any]) -> dict[str, Any]:
    """Trains one method; the mean reward of the first 3 and the last 5 steps, and its costs.

    collapsed_at: the step in which no group carried a signal any more, or None.
    """
    session = _session(recipe, model_path(recipe, recipe_path), shared)
    rewards: list[float] = []
    seconds: list[float] = []
    num_bytes, collapsed = 0.0, None
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), "benchmark")
        session.syncer.sync()
        for step in range(recipe.train.steps):
            run.next_step = step
            try:
                metrics = one_step(session, run, lambda: None)
            except NoSignalError:
                collapsed = step
                break
            if "reward/mean" in metrics:
                rewards.append(metrics["reward/mean"])
            seconds.append(metrics["time/step_s"])
            num_bytes = metrics["sync/bytes"]
    return {
        "method": recipe.adapter.method,
        "engine": session.engine.name,
        "lr": recipe.optim.lr,
        "reward_first": round(sum(rewards[:3]) / 3, 3),
        "reward_last": round(sum(rewards[-5:]) / 5, 3),
        "collapsed_at": collapsed,
        "s_per_step": round(statistics.median(seconds), 2),
        "parameters": sum(p.numel() for p in session.policy.trainable),
        "sync_bytes": int(num_bytes),
    }


def _session(recipe: TrainRecipe, path: str, shared: dict[str, Any]) -> Session:
    if "verifier" not in shared:
        shared["verifier"] = Verifier(answer_mode="boxed", timeout_s=1.0, num_workers=2)
        shared["data"] = load_problems(recipe.data)
    limit = recipe.model.max_len - recipe.rollout.max_response_len

    def encode_rows(tokenizer: Any) -> list[list[int]]:
        return encode_prompts(shared["data"], tokenizer, recipe.data, limit)[1][:64]

    policy = load_policy(
        recipe.model,
        recipe.adapter,
        path,
        recipe.train.seed,
        keep_reference=False,
        num_updates=recipe.train.steps,
        encode_rows=encode_rows,
    )
    data, prompts = encode_prompts(shared["data"], policy.tokenizer, recipe.data, limit)
    engine: Any = TransformersEngine(policy)
    if policy.method.merges:
        if "engine" not in shared:
            shared["engine"] = VllmEngine(recipe.model, recipe.rollout, path, None)
        engine = shared["engine"]
        base = load_policy(recipe.model, AdapterConfig(method="full"), path, 0, False)
        engine.load_weights(base.engine_weights())
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    session = Session(
        recipe,
        policy,
        policy.method.optimizer(policy.model, policy.adapter, recipe.optim),
        EntropyControl(recipe.algorithm),
        engine,
        Syncer(
            recipe.rollout, policy, engine, "merged" if policy.method.merges else "none", prompts
        ),
        shared["verifier"],
        Sampler(recipe, data.problems, prompts, lambda ids: session.decode(ids)),
        data,
        (),
    )
    return session


if __name__ == "__main__":
    main()
