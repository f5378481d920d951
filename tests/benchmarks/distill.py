"""The verifiable reward with a teacher beside it against the reward alone, on the quickstart.

The teacher is the quickstart's policy after full fine-tuning with a seed of its own; every student
is a LoRA that starts from the warm start. Both ways share the recipe, its learning rate, the
problems and the held-out problems. Run: python -m tests.benchmarks.distill --json FILE
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rlvr.compare.statistics import difference
from rlvr.runs.reader import read_evaluations, read_summary
from tests.benchmarks.runs import train

RECIPE = "quickstart.toml"
TEACHER = {"train.seed": 100, "adapter.method": "full"}
"""The run that gives the teacher; its seed is no student's."""
BELOW_TEACHER = 0.02
"""Held-out accuracy counts as the teacher's from so far below it on."""


def curve(run: Path) -> dict[int, list[float]]:
    """Fraction of right responses of every held-out problem, by step."""
    return {step: tree["fractions"] for step, tree in read_evaluations(run).items()}


def steps_to(curve: Mapping[int, Sequence[float]], wanted: float) -> int | None:
    """The first evaluated step whose accuracy is at least that; None: none was."""
    return next((n for n, one in curve.items() if sum(one) / len(one) >= wanted), None)


def compare(seeds: Sequence[int], steps: int, every: int, weight: float, folder: Path) -> dict:
    """Prints a line per run, then the difference of accuracies at every evaluated step."""
    source = train(RECIPE, folder, "teacher", TEACHER)
    summary = read_summary(source)
    assert summary is not None
    wanted = summary["accuracy_after"] - BELOW_TEACHER
    teacher = max((source / "checkpoints").glob("step_*"), key=lambda p: int(p.name[5:]))
    ways = {
        "reward": {},
        "taught": {"teacher.path": teacher, "teacher.weight": weight},
    }
    print(f"teacher {summary['accuracy_after']:.3f}; reached from {wanted:.3f} on")
    curves, results = {way: [] for way in ways}, []
    for seed in seeds:
        for way, own in ways.items():
            shared = {"train.seed": seed, "train.steps": steps, "eval.every": every}
            run = train(
                RECIPE, folder, f"{way}-{seed}", {**shared, "train.checkpoint_every": 0, **own}
            )
            curves[way].append(curve(run))
            reached = steps_to(curves[way][-1], wanted)
            results.append({"case": way, "seed": seed, "steps_to_teacher": reached})
            print(f"{way:8} seed {seed}: {reached or f'not in {steps}'} steps", flush=True)
    at_step = {}
    for step in curves["reward"][0]:
        a, b = ([one[step] for one in curves[way]] for way in ("taught", "reward"))
        interval, p = difference(a, b)
        at_step[step] = asdict(interval) | {"p": p}
        print(f"step {step:3}: {interval.value:+.3f} [{interval.lo:+.3f}, {interval.hi:+.3f}]")
    facts = {"teacher": summary["accuracy_after"], "wanted": wanted, "weight": weight}
    return facts | {"seeds": list(seeds), "results": results, "taught_minus_reward": at_step}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--every", type=int, default=8, help="steps between evaluations")
    parser.add_argument("--weight", type=float, default=1.0, help="teacher.weight")
    parser.add_argument("--folder", type=Path, help="keeps the runs; those there are taken")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as own:
        folder = args.folder or Path(own)
        found = compare(args.seeds, args.steps, args.every, args.weight, folder)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
