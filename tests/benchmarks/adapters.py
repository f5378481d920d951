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
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


from rlvr.adapters import METHODS
from rlvr.compare.execution.warm_engine import WarmEngine
from rlvr.config.toml import load_recipe
from rlvr.config.train import TrainRecipe
from rlvr.sampling.collector import NoSignalError
from rlvr.training.build import build
from rlvr.training.step import train_step
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
    "geora": 6e-4,
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
    warm = WarmEngine()
    for method in args.methods:
        if method in done or time.perf_counter() - start > args.seconds:
            continue
        recipe = _recipe(args.recipe, method, args.steps)
        rows.append(measure(recipe, Path(args.recipe), warm))
        print(json.dumps(rows[-1]), flush=True)
        args.json.write_text(json.dumps({"results": rows}, indent=1))
    warm.close()


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
    # the same way into the engine for every method that has it
    rollout = {"sync": "merged"} if METHODS[method].merges else {"engine": "transformers"}
    tree["rollout"] = tree.get("rollout", {}) | rollout
    return TrainRecipe.model_validate(tree)


def measure(recipe: TrainRecipe, recipe_path: Path, warm: WarmEngine) -> dict[str, Any]:
    """Trains one method; the mean reward of the first 3 and the last 5 steps, and its costs.

    collapsed_at: the step in which no group carried a signal any more, or None.
    """
    training = build(recipe, model_path(recipe, recipe_path), warm)
    rewards: list[float] = []
    seconds: list[float] = []
    num_bytes, collapsed = 0.0, None
    training.engine.syncer.sync()
    for step in range(recipe.train.steps):
        try:
            metrics = train_step(training, step).metrics
        except NoSignalError:
            collapsed = step
            break
        if "reward/mean" in metrics:
            rewards.append(metrics["reward/mean"])
        seconds.append(metrics["time/step_s"])
        num_bytes = metrics["sync/bytes"]
    training.close()
    return {
        "method": recipe.adapter.method,
        "engine": training.engine.name,
        "lr": recipe.optim.lr,
        "reward_first": round(sum(rewards[:3]) / 3, 3),
        "reward_last": round(sum(rewards[-5:]) / 5, 3),
        "collapsed_at": collapsed,
        "s_per_step": round(statistics.median(seconds), 2),
        "parameters": sum(p.numel() for p in training.policy.trainable),
        "sync_bytes": int(num_bytes),
    }


if __name__ == "__main__":
    main()
