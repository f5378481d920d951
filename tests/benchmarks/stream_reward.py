"""What rollouts of older weights cost and save: partial rollouts, a step ahead, at most 2 versions
old, against sync runs of the same seeds.

    python -m tests.benchmarks.stream_reward final --json FILE    # quickstart: held-out accuracy
    python -m tests.benchmarks.stream_reward time --json FILE     # long-tailed: seconds to a reward

The first needs no quiet machine. The second does; its runs take turns.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path

from rlvr.compare.statistics import difference
from rlvr.runs.reader import read_evaluations, read_metrics
from tests.benchmarks.runs import train

WAYS = {
    "sync": {},
    "stream": {"rollout.mode": "async", "rollout.partial": "true", "rollout.max_staleness": 2},
}
COSTS = ("time/step_s", "rollout/decoding_steps", "rollout/responses")
WINDOW = 5
"""Steps of the moving mean of a reward."""
LONG_TAILED = {"rollout.prompts_per_step": 16, "train.checkpoint_every": 0, "optim.lr": 1e-3}
"""At the recipe's own rate the sync run of so few prompts collapses after 13 steps."""


def final(seeds: Sequence[int], folder: Path) -> dict[str, object]:
    """Accuracies of both ways after the whole quickstart, and the interval of their difference."""
    settings = {"train.checkpoint_every": 0, "eval.samples": 4}
    fractions = {way: [] for way in WAYS}
    for seed in seeds:
        for way, own in WAYS.items():
            run = train(
                "quickstart.toml", folder, f"{way}-{seed}", {"train.seed": seed, **settings, **own}
            )
            after = read_evaluations(run)
            fractions[way].append(after[max(after)]["fractions"])
            lag = mean_of(run, "policy/lag_mean")
            print(
                f"{way:6} seed {seed}: {statistics.fmean(fractions[way][-1]):.3f}, lag {lag:.2f}",
                flush=True,
            )
    interval, p = difference(fractions["stream"], fractions["sync"])
    print(f"stream - sync: {interval.value:+.3f} [{interval.lo:+.3f}, {interval.hi:+.3f}]")
    by_seed = {way: [statistics.fmean(one) for one in all_] for way, all_ in fractions.items()}
    return {"seeds": list(seeds), "accuracy": by_seed, "difference": asdict(interval) | {"p": p}}


def to_reward(seeds: Sequence[int], num_steps: int, folder: Path) -> dict[str, object]:
    """Seconds of each way until the moving mean of the reward is the sync run's highest."""
    rows = []
    for seed in seeds:
        settings = {"train.seed": seed, "train.steps": num_steps}
        curves, costs = {}, {}
        for way, own in WAYS.items():
            run = train(
                "long_tailed.toml", folder, f"long-{way}-{seed}", LONG_TAILED | settings | own
            )
            curves[way] = curve(run)
            costs[way] = {name: mean_of(run, name) for name in COSTS}
        wanted = max(reward for _, reward in curves["sync"])
        seconds = {
            way: next((s for s, reward in points if reward >= wanted), None)
            for way, points in curves.items()
        }
        rows.append(
            {"seed": seed, "reward": wanted, "seconds": seconds, "curves": curves, "costs": costs}
        )
        print(f"seed {seed}: reward {wanted:.3f} after {seconds}; a step: {costs}", flush=True)
    return {"rows": rows}


def curve(run: Path) -> list[tuple[float, float]]:
    """(seconds since the start, mean reward of the last steps) from the first whole window on."""
    rows = [row for row in read_metrics(run) if "time/step_s" in row]
    seconds = list(accumulate(row["time/step_s"] for row in rows))
    rewards = [row["reward/mean"] for row in rows]
    return [
        (seconds[i], statistics.fmean(rewards[i + 1 - WINDOW : i + 1]))
        for i in range(WINDOW - 1, len(rows))
    ]


def mean_of(run: Path, name: str) -> float:
    return statistics.fmean(row[name] for row in read_metrics(run) if name in row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["final", "time"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=30, help="of a long-tailed run")
    parser.add_argument("--folder", type=Path, help="keeps the runs; those there are taken")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as own:
        folder = args.folder or Path(own)
        if args.what == "final":
            found = final(args.seeds, folder)
        else:
            found = to_reward(args.seeds, args.steps, folder)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
