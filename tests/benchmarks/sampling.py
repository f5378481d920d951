"""Rollouts per informative group, and rounds of prompts per step, by simulation.

A table of problems with pass rates from Beta(0.3, 0.3) that drift upwards; every step needs 16
informative groups of 8. The selector, the refill and the kept surplus are those of training; only
the responses are drawn from the table. Run: python -m tests.benchmarks.sampling [--json FILE]

A second table has the rounds that a step takes where a given fraction of groups carries a signal,
by the sampler itself (tests/benchmarks/refill_rounds.py). With --quickstart it runs `rlvr train
recipes/quickstart.toml` with both strategies instead.
"""

import argparse
import json
import statistics
from collections import Counter
from collections.abc import Sequence

import numpy as np

from rlvr.config.train import SamplingConfig
from rlvr.sampling.problem_selection import Selector
from rlvr.sampling.refill import FIRST_FRAC, num_prompts, updated_frac
from tests.benchmarks import refill_rounds, sampling_quickstart

STEPS, GROUPS, GROUP_SIZE, NUM_LEVELS = 300, 16, 8, 5
DRIFT = 1.5
"""Nats by which every log-odds of passing grows over the run."""


def simulate(strategy: str, num_problems: int, seed: int, label_noise: float | None) -> dict:
    """One run. label_noise: standard deviation, in log-odds, of the difficulty labels' error; None
    gives no labels."""
    draw = np.random.default_rng(seed)
    rate = np.clip(draw.beta(0.3, 0.3, num_problems), 1e-6, 1 - 1e-6)
    logit = np.log(rate / (1 - rate))
    selector = Selector(
        SamplingConfig.model_validate({"strategy": strategy}),
        num_problems,
        GROUP_SIZE,
        STEPS,
        seed,
        levels=None if label_noise is None else labels(logit, label_noise, draw),
    )
    num_sampled, num_informative, surplus, fraction = 0, 0, [], FIRST_FRAC
    sampled, used = Counter(), Counter()
    for step in range(STEPS):
        now = 1 / (1 + np.exp(-(logit + DRIFT * step / STEPS)))
        groups, surplus = surplus, []
        while len(groups) < GROUPS:
            asked = num_prompts(GROUPS - len(groups), fraction)
            found = []
            for index, _ in selector.pick(asked, step):
                num_right = int(draw.binomial(GROUP_SIZE, now[index]))
                selector.observe(index, num_right, GROUP_SIZE - num_right, step)
                sampled[index] += 1
                if 0 < num_right < GROUP_SIZE:
                    found.append(index)
            num_sampled, num_informative = num_sampled + asked, num_informative + len(found)
            fraction = updated_frac(fraction, len(found), asked)
            groups += found
        groups, surplus = groups[:GROUPS], groups[GROUPS:]
        used.update(groups)
    mean_used, mean_sampled = STEPS * GROUPS / num_problems, num_sampled / num_problems
    return {
        "groups_per_informative": num_sampled / num_informative,
        "used_max_over_mean": max(used.values()) / mean_used,
        "sampled_max_over_mean": max(sampled.values()) / mean_sampled,
        "problems_used_frac": len(used) / num_problems,
        "met_once_frac": sum(n == 1 for n in sampled.values()) / len(sampled),
    }


def labels(logit: np.ndarray, noise: float, draw: np.random.Generator) -> list[int]:
    """Difficulty levels of equal size, from log-odds that are off by normal noise."""
    noisy = logit + noise * draw.standard_normal(len(logit))
    ranks = noisy.argsort().argsort()
    return (ranks * NUM_LEVELS // len(logit)).tolist()


CASES = [
    ("uniform", 2_000, None),
    ("predictive", 2_000, None),
    ("curriculum", 2_000, None),
    ("uniform", 10_000, None),
    ("predictive", 10_000, None),
    ("predictive", 10_000, 3.0),
]


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table and writes it to --json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="file for the results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--quickstart", action="store_true", help="train instead of simulating")
    parser.add_argument("--steps", type=int, default=80, help="of each run with --quickstart")
    args = parser.parse_args(argv)
    if args.quickstart:
        result = sampling_quickstart.compare(args.seeds, args.steps)
    else:
        result = compare_simulations(args.seeds) | {"rounds": refill_rounds.table(args.seeds)}
    if args.json:
        with open(args.json, "w") as file:
            json.dump(result, file, indent=1)


def compare_simulations(seeds: Sequence[int]) -> dict:
    """Prints the table and returns it."""
    print(
        "strategy    problems labels groups/informative  vs uniform  max use/mean  used  met once"
    )
    results, base = [], {}
    for strategy, num_problems, noise in CASES:
        runs = [simulate(strategy, num_problems, seed, noise) for seed in seeds]
        row = {key: statistics.fmean(run[key] for run in runs) for key in runs[0]}
        row["used_max_over_mean"] = max(run["used_max_over_mean"] for run in runs)
        cost = row["groups_per_informative"]
        row["vs_uniform"] = cost / base.setdefault(num_problems, cost)
        results.append({"case": strategy, "problems": num_problems, "label_noise": noise} | row)
        print(
            f"{strategy:11} {num_problems:8} {'none' if noise is None else f'+-{noise:g}':6}"
            f" {cost:18.2f} {row['vs_uniform']:11.2f} {row['used_max_over_mean']:13.2f}"
            f" {row['problems_used_frac']:5.2f} {row['met_once_frac']:9.2f}"
        )
    return {"seeds": list(seeds), "drift": DRIFT, "results": results}


if __name__ == "__main__":
    main()
