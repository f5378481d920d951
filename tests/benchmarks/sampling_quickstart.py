"""The quickstart trained with uniform and with predictive sampling, seed by seed."""

import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from eval.intervals import mean_over_problems

RECIPE = Path(__file__).parents[2] / "recipes" / "quickstart.toml"
STRATEGIES = ("uniform", "predictive")


def compare(seeds: Sequence[int], steps: int) -> dict:
    """Prints one line per run and the ratio of rollouts per informative group, predictive over
    uniform: geometric mean over seeds with Student's t interval of its logarithm."""
    print("strategy    seed  rollouts/informative group  max use/mean  used  reward  held-out")
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            for strategy in STRATEGIES:
                run = {"case": strategy, "seed": seed} | train(strategy, seed, steps, Path(folder))
                print(
                    f"{strategy:11} {seed:4} {run['rollouts_per_informative_group']:27.2f}"
                    f" {run['used_max_over_mean']:13.2f} {run['problems_used_frac']:5.2f}"
                    f" {run['final_reward']:7.3f} {run['accuracy_after']:9.3f}",
                    flush=True,
                )
                runs.append(run)
    cost = {(run["case"], run["seed"]): run["rollouts_per_informative_group"] for run in runs}
    logs = [math.log(cost["predictive", seed] / cost["uniform", seed]) for seed in seeds]
    interval = mean_over_problems(logs)
    ratio, lo, hi = (math.exp(x) for x in (interval.value, *interval.bounds))
    print(f"predictive / uniform: {ratio:.3f} [{lo:.3f}, {hi:.3f}] (95%, over {len(seeds)} seeds)")
    summary = {"ratio": ratio, "ratio_ci95": [lo, hi], "over": "seeds", "seeds": list(seeds)}
    return summary | {"steps": steps, "results": runs}


def train(strategy: str, seed: int, steps: int, folder: Path) -> dict:
    """The figures of one run in a process of its own."""
    name = f"{strategy}-{seed}"
    settings = {
        "sampling.strategy": strategy,
        "train.seed": seed,
        "train.steps": steps,
        "run.dir": folder,
        "run.name": name,
        "track.wandb": "disabled",
    }
    words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    command = [sys.executable, "-m", "rlvr.cli", "train", str(RECIPE), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    rows = [json.loads(line) for line in (folder / name / "metrics.jsonl").open()]
    return figures(rows, json.loads((folder / name / "summary.json").read_text()))


def figures(rows: Sequence[dict], summary: dict) -> dict:
    """What a run's metrics and summary say about its sampling. final_reward: of what was sampled in
    the last 5 steps, which the strategy chose; accuracy_after: of the same held-out problems."""
    fresh = [row for row in rows if "rollout/responses" in row]
    asked = sum(row["rollout/responses"] for row in fresh)
    informative = sum(
        row["rollout/responses"] / row["sampler/rollouts_per_informative_group"]
        for row in fresh
        if row["sampler/informative_frac"] > 0
    )
    uses = {int(times): count for times, count in summary["problem_uses"].items()}
    mean = sum(times * count for times, count in uses.items()) / sum(uses.values())
    return {
        "rollouts": asked,
        "rollouts_per_informative_group": asked / informative,
        "used_max_over_mean": max(uses) / mean,
        "problems_used_frac": 1 - uses[0] / sum(uses.values()),
        "problem_uses": summary["problem_uses"],
        "final_reward": statistics.fmean(row["reward/mean"] for row in fresh[-5:]),
        "accuracy_after": summary["accuracy_after"],
        "seconds": summary["seconds"],
    }
