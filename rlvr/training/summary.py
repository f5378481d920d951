"""The summary of a finished run: summary.json, the reward curve, and samples on the screen."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

from eval.intervals import Interval, paired_difference
from rlvr.common.files import write_whole
from rlvr.runs.checkpoint import best_checkpoint
from rlvr.runs.reader import read_evaluations, read_metrics
from rlvr.training.evaluate import Evaluation

if TYPE_CHECKING:
    from rich.console import Console

    from rlvr.training.build import Training


def finish(
    training: Training,
    folder: Path,
    steps: int,
    seconds: float,
    console: Console,
) -> None:
    """Writes summary.json and reward_curve.png; prints accuracy, samples and paths.

    steps: finished ones, fewer than train.steps when the run was ended early.
    """
    curve = draw_reward_curve(folder)
    checkpoint = str(best_checkpoint(folder).relative_to(folder))
    summary: dict[str, object] = {"seconds": seconds, "steps": steps, "best_checkpoint": checkpoint}
    summary["problem_uses"] = training.sampler.problem_uses()
    trees = read_evaluations(folder)
    # a full disk costs a run the file of an evaluation, with a warning, and not its end
    lost = [n for n in (0, steps) if n not in trees]
    if training.evals and lost:
        console.print(f"no held-out comparison: eval/step_{lost[0]}.json is missing")
    elif training.evals:
        before, after = (Evaluation.from_json(trees[step]) for step in (0, steps))
        difference = paired_difference(before.fractions, after.fractions)
        summary |= {
            "accuracy_before": before.accuracy.value,
            "accuracy_before_ci95": before.accuracy.bounds,
            "accuracy_after": after.accuracy.value,
            "accuracy_after_ci95": after.accuracy.bounds,
            "difference": difference.value,
            "difference_ci95": difference.bounds,
            "num_problems": len(before.fractions),
        }
        _print_samples(training, before, after, console)
        console.print(
            f"held-out accuracy {_with_interval(before.accuracy)} before,"
            f" {_with_interval(after.accuracy)} after: {_with_interval(difference, '+')}"
            f" ({len(before.fractions)} problems; 95% intervals over problems)",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )
    write_whole(folder / "summary.json", json.dumps(summary, indent=1))
    console.print(f"reward curve: {curve}", soft_wrap=True)
    console.print(f"run folder:   {folder} ({steps} steps, {seconds:.0f} s)", soft_wrap=True)


def _with_interval(interval: Interval, sign: str = "") -> str:
    return f"{interval.value:{sign}.3f} [{interval.lo:{sign}.3f}, {interval.hi:{sign}.3f}]"


def _print_samples(
    training: Training, before: Evaluation, after: Evaluation, console: Console
) -> None:
    """Two problems that gained the most, with a solution from before and after."""
    problems = training.evals[0].questions
    gain = [b - a for a, b in zip(before.fractions, after.fractions, strict=True)]
    for i in sorted(range(len(gain)), key=lambda i: -gain[i])[:2]:
        change = (
            f"{before.fractions[i]:g} of its responses right before, {after.fractions[i]:g} after"
        )
        console.rule(f"answer {problems[i].answer}: {change}", style="dim")
        for title, text in (
            ("problem", problems[i].problem),
            ("before", before.texts[i]),
            ("after", after.texts[i]),
        ):
            console.print(f"{title}: {text.strip()[:600]}", markup=False, highlight=False)
    console.rule(style="dim")


def draw_reward_curve(folder: Path) -> Path:
    """reward_curve.png from metrics.jsonl: mean reward per step and its running mean."""
    from matplotlib.figure import Figure

    rows = read_metrics(folder)
    points = [(row["step"], row["reward/mean"]) for row in rows if "reward/mean" in row]
    held_out = {step: tree["accuracy"] for step, tree in read_evaluations(folder).items()}
    # not pyplot, which looks for a display and keeps every figure
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    steps, rewards = zip(*points, strict=True) if points else ((), ())
    running = [sum(rewards[max(0, i - 4) : i + 1]) / min(i + 1, 5) for i in range(len(rewards))]
    axes.plot(steps, rewards, ".", color="#9aa5b1", markersize=4, label="reward, each step")
    axes.plot(steps, running, color="#1f5fa8", linewidth=2, label="reward, mean of 5 steps")
    if held_out:
        accuracies = list(held_out.values())
        values = [a["value"] for a in accuracies]
        errors = [
            [a["value"] - a["lo"] for a in accuracies],
            [a["hi"] - a["value"] for a in accuracies],
        ]
        axes.errorbar(
            list(held_out),
            values,
            errors,
            fmt="o",
            color="#c8501e",
            capsize=4,
            label="held-out accuracy, 95%",
        )
    axes.set(xlabel="step", ylabel="mean reward", title=folder.name, ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    path = folder / "reward_curve.png"
    # in memory first: a full disk leaves no half of a picture
    picture = io.BytesIO()
    figure.savefig(picture, dpi=150, format="png")
    write_whole(path, picture.getvalue())
    return path
