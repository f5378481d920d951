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
import tempfile
import time
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor

from rewards import Verifier
from rlvr.adapters.merge import merged_weights
from rlvr.algorithm.entropy_control import EntropyControl
from rlvr.analysis.spectrum import Svd, module_facts, svd, svd_of_update
from rlvr.analysis.stream import Update
from rlvr.config.toml import load_recipe, validate
from rlvr.config.train import AdapterConfig, TrainRecipe
from rlvr.data.problems import encode_prompts, load_problems
from rlvr.engines.vllm_local import VllmEngine
from rlvr.engines.weights.sync import Syncer
from rlvr.evaluation.problem_sets import eval_sets, held_out_data
from rlvr.policy.language_model import load_base
from rlvr.policy.policy import load_policy
from rlvr.sampling.sampler import NoSignalError, Sampler
from rlvr.training.build import Session
from rlvr.training.evaluate import sample_responses, score_responses
from rlvr.training.loop import Run, one_step
from rlvr.training.preflight import check
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
            recipe = validate(tree, TrainRecipe)
            check(recipe)
            yield Arm(label, recipe, inplace=False)
            yield Arm(f"{label}_inplace", recipe, inplace=True)


class Bench:
    """What all runs share: the base rounded to bfloat16, its decomposition, engine, problems."""

    def __init__(self, recipe: TrainRecipe, comparison: Path) -> None:
        self.verifier = Verifier(answer_mode=recipe.reward.answer_mode, timeout_s=1.0)
        base = tomllib.loads(comparison.read_text())["compare"]["base"]
        self.path = rounded_copy(recipe, model_path(recipe, comparison.parent / base))
        self.data = load_problems(recipe.data)
        held_out = held_out_data(recipe)
        assert held_out is not None, "the base recipe scores held-out problems"
        self.held_out = load_problems(held_out, "eval")
        self.engine = VllmEngine(recipe.model, recipe.rollout, self.path, None)
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        self.base = load_policy(recipe.model, AdapterConfig(method="full"), self.path, 0, False)
        self.decompositions: dict[str, Svd] = {}

    def measure(self, arm: Arm) -> dict[str, Any]:
        """Trains once; series over steps, accuracies, drift and spectra.

        collapsed_at: the step in which no group carried a signal any more, or None.
        """
        start, recipe = time.perf_counter(), arm.recipe
        session, pristine = self.session(arm)
        series: dict[str, list[float]] = {name: [] for name in SERIES}
        drift, collapsed = [drift_norm(session, pristine)], None
        with tempfile.TemporaryDirectory() as folder:
            run = Run(Path(folder), "control")
            session.syncer.sync()
            before = self.evaluate(session)
            for step in range(recipe.train.steps):
                run.next_step = step
                try:
                    metrics = one_step(session, run, lambda: None)
                except NoSignalError:
                    collapsed = step
                    break
                for name, metric in SERIES.items():
                    series[name].append(metrics.get(metric, float("nan")))
                drift.append(drift_norm(session, pristine))
        after = self.evaluate(session)
        learned = learned_norm(session)
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
            "modules": self.spectra(session),
            "seconds": time.perf_counter() - start,
        }

    def session(self, arm: Arm) -> tuple[Session, dict[str, Tensor]]:
        """A session on the shared engine, and the base's weights before anything touched them."""
        recipe = arm.recipe
        self.engine.load_weights(self.base.engine_weights())
        policy = load_policy(recipe.model, recipe.adapter, self.path, recipe.train.seed, False)
        pristine = base_weights(policy.model)
        limit = recipe.model.max_len - recipe.rollout.max_response_len
        data, prompts = encode_prompts(self.data, policy.tokenizer, recipe.data, limit)
        test = encode_prompts(self.held_out, policy.tokenizer, recipe.data, limit, "eval")
        make_syncer = InplaceSyncer if arm.inplace else Syncer
        session = Session(
            recipe,
            policy,
            policy.method.optimizer(policy.model, policy.adapter, recipe.optim),
            EntropyControl(recipe.algorithm),
            self.engine,
            make_syncer(recipe.rollout, policy, self.engine, "merged", prompts),
            self.verifier,
            Sampler(recipe, data.problems, prompts, lambda ids: session.decode(ids)),
            data,
            eval_sets(recipe, test, (), policy.tokenizer),
        )
        return session, pristine

    def evaluate(self, session: Session) -> dict[str, Any]:
        """Held-out accuracy with its interval, and the fraction right of every problem."""
        recipe, evals = session.recipe, session.evals
        sampled = sample_responses(recipe, evals, self.engine)
        found, _ = score_responses(recipe, evals, sampled, self.verifier, session.decode)
        return {"accuracy": asdict(found.accuracy), "fractions": found.fractions}

    @torch.no_grad()
    def spectra(self, session: Session) -> list[dict[str, Any]]:
        """Of the whole change of every adapted weight, drift included."""
        start = self.base.causal_lm.state_dict()
        facts = []
        for name, after in merged_weights(session.policy.model):
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


def drift_norm(session: Session, pristine: dict[str, Tensor]) -> float:
    """Frobenius norm, over all adapted modules, of what happened to the frozen weights."""
    now = base_weights(session.policy.model)
    return sum(float((now[n] - pristine[n]).norm() ** 2) for n in pristine) ** 0.5


@torch.no_grad()
def learned_norm(session: Session) -> float:
    """Frobenius norm, over all adapted modules, of the trained update scaling (B A - B0 A0)."""
    base = base_weights(session.policy.model)
    merged = {n.removesuffix(".weight"): w for n, w in merged_weights(session.policy.model)}
    return sum(float((merged[n] - base[n]).norm() ** 2) for n in base) ** 0.5


if __name__ == "__main__":
    main()
