"""Draws docs/timeline.png: which responses run in which decoding steps, in rounds and with partial
rollouts.

The quickstart's policy on problems of 1 to 12 steps, trained with the real vLLM for a few steps in
either way; drawn are the traces of the last three. Rounds are emulated as in
tests/benchmarks/stream.py. Decoding steps are counted, so the picture is the same on any machine.
Run: python -m tests.benchmarks.timeline --out docs
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import Patch

from rlvr.compare.execution.warm_engine import WarmEngine
from rlvr.config.toml import load_recipe
from rlvr.config.train import TrainRecipe
from rlvr.training.build import build
from rlvr.training.step import train_step
from rlvr.warm_start.policy_path import model_path
from tests.benchmarks.stream import rounds

RECIPE = Path(__file__).parents[2] / "recipes" / "quickstart.toml"
SETTINGS = {
    "data.levels": "[1, 2, 3, 4, 6, 8, 10, 12]",
    "model.max_len": 512,
    "rollout.max_response_len": 384,
    "rollout.prompts_per_step": 4,
    "rollout.group_size": 8,
    "track.wandb": "disabled",
}
WAYS = {"rounds of prompts": "false", "rollout.partial = true": "true"}
COLOURS = {
    "ended": "#0b62b0",
    "continued and ended": "#007a5a",
    "paused": "#c2470a",
    "update, weights change": "#d9cfae",
}
NUM_STEPS, NUM_DRAWN = 6, 3
GAP = 12
"""Width of update and sync, in decoding steps: not to scale."""


def main() -> None:
    """Trains in both ways and draws."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the figure")
    args = parser.parse_args()
    figure, axes = plt.subplots(len(WAYS), 1, figsize=(8.5, 5.6), sharex=True)
    with closing(WarmEngine()) as engine:
        for ax, (name, partial) in zip(axes, WAYS.items(), strict=True):
            draw(ax, name, traces(engine, partial)[-NUM_DRAWN:])
    axes[-1].set_xlabel("decoding steps")
    handles = [Patch(color=colour, label=state) for state, colour in COLOURS.items()]
    axes[-1].legend(handles=handles, fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(args.out / "timeline.png", dpi=110)


def traces(engine: WarmEngine, partial: str) -> list[dict[str, Any]]:
    """Of every step of a short run."""
    words = [word for key, value in SETTINGS.items() for word in (f"--{key}", str(value))]
    words += ["--rollout.engine", "vllm", "--rollout.partial", partial]
    recipe = load_recipe(RECIPE, words, TrainRecipe)
    training = build(recipe, model_path(recipe, RECIPE), engine)
    training.engine.syncer.sync()
    with rounds() if partial == "false" else nullcontext():
        found = [train_step(training, step).trace for step in range(NUM_STEPS)]
    training.close()
    return found


def draw(ax: Any, name: str, steps: Sequence[dict[str, Any]]) -> None:
    """Steps beside each other: a bar for each response, update and sync between them."""
    at = 0
    for trace in steps:
        rows = [dict(zip(trace["columns"], row, strict=True)) for row in trace["rows"]]
        rows.sort(key=lambda row: (row["begin_step"], row["end_step"], row["group"]))
        states = [
            "continued and ended" if row["state"] == "ended" and row["begun_len"] else row["state"]
            for row in rows
        ]
        ax.barh(
            range(len(rows)),
            [row["end_step"] - row["begin_step"] for row in rows],
            left=[at + row["begin_step"] for row in rows],
            color=[COLOURS[state] for state in states],
            height=1.0,
        )
        at += max(row["end_step"] for row in rows)
        ax.axvspan(at, at + GAP, color=COLOURS["update, weights change"], linewidth=0)
        at += GAP
    counts = [
        max(row[trace["columns"].index("end_step")] for row in trace["rows"]) for trace in steps
    ]
    said = " + ".join(map(str, counts))
    ax.set_title(f"{name}: {said} = {sum(counts)} decoding steps", fontsize=10, loc="left")
    ax.set_ylabel("responses", fontsize=9)
    ax.set_yticks([])
    ax.invert_yaxis()
    ax.set_xlim(0, None)
    ax.grid(axis="x", alpha=0.3)


if __name__ == "__main__":
    main()
