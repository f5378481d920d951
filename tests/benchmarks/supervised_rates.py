"""Each method's best learning rate in short supervised runs of a model at hand, relative to LoRA's:
what `curvature_table` predicts.

A run is `rlvr sft` on the same solutions, rank 128 with alpha = r, judged by the loss of the
solutions held out. Five rates around a method's centre, a factor of 1.778 apart. A run that has
finished is not run again: the command goes on where it was stopped.
Run: python -m tests.benchmarks.supervised_rates MODEL --centres lora=3e-4 pissa=3e-5 \
         --folder RUNS --json FILE
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlvr.compare.learning_rate.fit import fit_parabola, means_by_lr
from rlvr.compare.learning_rate.grid import nearest, rate
from rlvr.compare.results import RatePoint
from rlvr.runs.reader import read_summary
from tests.benchmarks.runs import RECIPES, words

RECIPE = RECIPES / "smollm2_135m_svamp_sft.toml"
EITHER_SIDE = 2
"""Rates tried on either side of a centre."""


def run(args: argparse.Namespace, method: str, lr: float, seed: int) -> RatePoint:
    """What one run, in a process of its own, has: minus the loss of the held-out solutions."""
    name = f"{method}-{lr:g}-{seed}"
    if read_summary(args.folder / name) is None:
        settings = {
            "model.path": args.model,
            "model.max_len": args.max_len,
            "data.limit": args.rows,
            "data.held_out": args.held_out,
            "adapter.method": method,
            "adapter.rank": 128,
            "adapter.alpha": 128,
            "optim.lr": lr,
            "train.batch_size": args.batch_size,
            "train.rows_per_microbatch": args.batch_size,
            "optim.warmup_steps": 1,  # of some twenty
            "train.seed": seed,
            "run.dir": args.folder,
            "run.name": name,
            "run.merge": "false",
        }
        command = [sys.executable, "-m", "rlvr.cli", "sft", str(RECIPE), *words(settings)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    summary = read_summary(args.folder / name)
    assert summary is not None
    print(f"{name:24} {summary['held_out_loss_last']:.4f}", flush=True)
    return RatePoint(lr, seed, -summary["held_out_loss_last"], summary["steps"], None)


def study(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row per method: losses by rate, the best rate, the vertex with its interval."""
    rows = []
    for word in args.centres:
        method, centre = word.split("=")
        middle = nearest(float(centre))
        rates = [rate(k) for k in range(middle - EITHER_SIDE, middle + EITHER_SIDE + 1)]
        # every rate with one seed first: an early stop leaves a whole curve
        points = [run(args, method, lr, seed) for seed in args.seeds for lr in rates]
        means = {lr: -value for lr, value in means_by_lr(points).items()}
        fit = fit_parabola(points)
        rows.append(
            {"method": method, "losses": means, "best_lr": min(means, key=lambda lr: means[lr])}
            | {"fit": asdict(fit) if fit else None, "points": [asdict(point) for point in points]}
        )
        args.json.write_text(json.dumps(rows, indent=1))
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Prints every run as it ends, then a line per method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--centres", nargs="+", required=True, metavar="METHOD=LR")
    parser.add_argument("--rows", type=int, default=284, help="read, too long ones among them")
    parser.add_argument("--max-len", type=int, default=160, help="tokens; longer ones are left out")
    parser.add_argument("--held-out", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=4, help="examples of an optimizer step")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--folder", type=Path, required=True, help="keeps the runs")
    parser.add_argument("--json", type=Path, required=True)
    rows = study(parser.parse_args(argv))
    reference = rows[0]
    for row in rows:
        fit = row["fit"]
        vertex = f"{fit['vertex_lr']:.2g} {fit['ci95']}" if fit else "none"
        relative = row["best_lr"] / reference["best_lr"]
        print(f"{row['method']:8} best {row['best_lr']:g}, {relative:.3g} of the first's; {vertex}")


if __name__ == "__main__":
    main()
