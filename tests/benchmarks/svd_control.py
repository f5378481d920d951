"""Does SVD initialisation fail in RLVR, or do its learning rate and an in-place bfloat16 merge?

    python -m tests.benchmarks.svd_control recipes/compare/svd_init_control.toml --json control.json

Runs every method of the comparison recipe with every seed, on a pristine base and on one that is
merged in place after every sync (see `inplace`), one engine for all of them, and writes rewards,
held-out accuracy, the drift of the base and the spectrum of what was learned. Restartable: runs
that are in the JSON file are left out. One seed of all methods comes before the next seed.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor

from rlvr.adapters.merge import merged_weights
from rlvr.analysis.spectrum import Svd, module_facts, svd, svd_of_update
from rlvr.analysis.stream import Update
from rlvr.compare.execution.warm_engine import WarmEngine
from rlvr.config.toml import load_recipe, validate
from rlvr.config.train import AdapterConfig, TrainRecipe
from rlvr.data.problems import encode_prompts, load_problems
from rlvr.policy.language_model import load_base
from rlvr.policy.policy import load_policy
from rlvr.sampling.collector import NoSignalError
from rlvr.training.build import Training, build
from rlvr.training.evaluate import sample_responses, score_responses
from rlvr.training.preflight import check
from rlvr.training.step import train_step
from rlvr.warm_start.policy_path import model_path
from tests.benchmarks.inplace import InplaceSyncer, base_weights

SERIES = {
    "reward": "reward/mean",
    "entropy": "policy/entropy",
    "kl_engine": "policy/kl_engine",
    "grad_norm": "optim/grad_norm",
    "truncated_frac": "rollout/truncated_frac",
}


@dataclass(frozen=True)
class Arm:
    """A run to make: the label of its method in the comparison with "_inplace" where the base is
    merged in place, its whole recipe."""

    label: str
    recipe: TrainRecipe
    inplace: bool

    @property
    def key(self) -> tuple[Any, ...]:
        """What makes two runs the same."""
        r = self.recipe
        return (self.label, r.adapter.method, r.optim.lr, self.inplace, r.train.steps, r.train.seed)


def main() -> None:
    """Appends one object per run to the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    parser.add_argument("--seeds", type=int, nargs="*", help="instead of the recipe's")
    parser.add_argument("--methods", nargs="*", help="only these labels")
    parser.add_argument("--seconds", type=float, default=1e9, help="start none after this long")
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    start = time.perf_counter()
    rows = json.loads(args.json.read_text())["results"] if args.json.exists() else []
    done = [tuple(row["key"]) for row in rows]
    bench = None
    for arm in arms(args.recipe, args.steps, args.seeds):
        chosen = args.methods is None or arm.label in args.methods
        if not chosen or arm.key in done or time.perf_counter() - start > args.seconds:
            continue
        bench = bench or Bench(arm.recipe, args.recipe)
        rows.append({"key": arm.key, "label": arm.label, **bench.measure(arm)})
        row = rows[-1]
        print(
            f"{arm.label} seed {arm.recipe.train.seed}: reward {row['reward_last']:.3f}, accuracy"
            f" {row['accuracy_after']['accuracy']['value']:.3f}, drift / update"
            f" {row['drift_over_update']:.3f}, {row['seconds']:.0f} s",
            flush=True,
        )
        partial = args.json.with_suffix(".partial")
        partial.write_text(json.dumps({"results": rows}, indent=1))
        partial.rename(args.json)


def arms(path: Path, steps: int | None, seeds: list[int] | None) -> Iterator[Arm]:
    """The runs of a comparison recipe, seed by seed."""
    comparison = tomllib.loads(path.read_text())
    base = load_recipe(path.parent / comparison["compare"]["base"], [], TrainRecipe)
    for seed in seeds or comparison["compare"]["seeds"]:
        for label, method in comparison["methods"].items():
            tree = base.model_dump(exclude_unset=True)
            tree["adapter"] = {"method": method["method"]}
            tree["optim"] = tree["optim"] | {"lr": method["lr"]}
            budget = {"seed": seed, "steps": steps or comparison["budget"]["steps"]}
            tree["train"] = tree["train"] | budget
            for settings in (comparison["settings"], method.get("settings", {})):
                for section, values in settings.items():
                    tree[section] = tree.get(section, {}) | values
            tree["rollout"] = tree.get("rollout", {}) | {"engine": "vllm", "sync": "merged"}
            recipe = validate(tree, TrainRecipe)
            check(recipe)
            yield Arm(label, recipe, inplace=False)
            yield Arm(f"{label}_inplace", recipe, inplace=True)


class Bench:
    """What all runs share: the base rounded to bfloat16, its decomposition, the engine."""

    def __init__(self, recipe: TrainRecipe, comparison: Path) -> None:
        base = tomllib.loads(comparison.read_text())["compare"]["base"]
        self.path = rounded_copy(recipe, model_path(recipe, comparison.parent / base))
        self.engine = WarmEngine()
        self.base = load_policy(recipe.model, AdapterConfig(method="full"), self.path, 0, False)
        self.decompositions: dict[str, Svd] = {}

    def measure(self, arm: Arm) -> dict[str, Any]:
        """Trains once; series over steps, accuracies, drift and spectra.

        collapsed_at: the step in which no group carried a signal any more, or None.
        """
        start, recipe = time.perf_counter(), arm.recipe
        training, pristine = self.training(arm)
        series: dict[str, list[float]] = {name: [] for name in SERIES}
        drift, collapsed = [drift_norm(training, pristine)], None
        training.engine.syncer.sync()
        before = self.evaluate(training)
        for step in range(recipe.train.steps):
            try:
                metrics = train_step(training, step).metrics
            except NoSignalError:
                collapsed = step
                break
            for name, metric in SERIES.items():
                series[name].append(metrics.get(metric, float("nan")))
            drift.append(drift_norm(training, pristine))
        after = self.evaluate(training)
        learned = learned_norm(training)
        training.close()
        rewards = [r for r in series["reward"][-5:] if r == r]
        return {
            "method": recipe.adapter.method,
            "lr": recipe.optim.lr,
            "inplace": arm.inplace,
            "seed": recipe.train.seed,
            "collapsed_at": collapsed,
            "series": series,
            "reward_last": sum(rewards) / len(rewards) if rewards else 0.0,
            "accuracy_before": before,
            "accuracy_after": after,
            "drift": drift,
            "learned_norm": learned,
            "drift_over_update": drift[-1] / learned,
            "modules": self.spectra(training),
            "seconds": time.perf_counter() - start,
        }

    def training(self, arm: Arm) -> tuple[Training, dict[str, Tensor]]:
        """A run's parts on the shared engine, and the base's weights before anything moved them."""
        training = build(arm.recipe, self.path, self.engine)
        pristine = base_weights(training.policy.model)
        if arm.inplace:
            data, engine = arm.recipe.data, training.engine
            prompts = encode_prompts(load_problems(data), training.policy.tokenizer, data, 10**6)[1]
            parts = (arm.recipe.rollout, training.policy, engine.engine, "merged", prompts)
            engine.syncer = InplaceSyncer(*parts)
        return training, pristine

    def evaluate(self, training: Training) -> dict[str, Any]:
        """Held-out accuracy with its interval, and the fraction right of every problem."""
        recipe, evals, decode = training.recipe, training.evals, training.policy.decode
        sampled = sample_responses(recipe, evals, training.engine)
        found, _ = score_responses(recipe, evals, sampled, training.verifier, decode)
        return {"accuracy": asdict(found.accuracy), "fractions": found.fractions}

    @torch.no_grad()
    def spectra(self, training: Training) -> list[dict[str, Any]]:
        """Of the whole change of every adapted weight, drift included."""
        start = self.base.causal_lm.state_dict()
        facts = []
        for name, after in merged_weights(training.policy.model):
            update = Update(name, start[name], dense=after.float() - start[name])
            if update.is_matrix:
                if name not in self.decompositions:
                    self.decompositions[name] = svd(start[name])
                facts.append(module_facts(update, self.decompositions[name], svd_of_update(update)))
        return facts


def rounded_copy(recipe: TrainRecipe, path: str) -> str:
    """A folder with the model's weights rounded to bfloat16 and kept as float32."""
    folder = Path(path).with_name(f"{Path(path).name}-bf16")
    if not (folder / "config.json").exists():
        model, tokenizer = load_base(recipe.model.model_copy(update={"dtype": "float32"}), path)
        model.bfloat16().float().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return str(folder)


def drift_norm(training: Training, pristine: dict[str, Tensor]) -> float:
    """Frobenius norm, over all adapted modules, of what happened to the frozen weights."""
    now = base_weights(training.policy.model)
    return sum(float((now[n] - pristine[n]).norm() ** 2) for n in pristine) ** 0.5


@torch.no_grad()
def learned_norm(training: Training) -> float:
    """Frobenius norm, over all adapted modules, of the trained update scaling (B A - B0 A0)."""
    base = base_weights(training.policy.model)
    merged = {n.removesuffix(".weight"): w for n, w in merged_weights(training.policy.model)}
    return sum(float((merged[n] - base[n]).norm() ** 2) for n in base) ** 0.5


if __name__ == "__main__":
    main()
