"""Held-out accuracy before and after, by the size of the problem's answer: skill or a guess?

Run: python -m tests.benchmarks.by_answer RUN --before 0 --after 40
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from eval.benchmarks import load_benchmark
from eval.generations import read_generations
from eval.intervals import paired_difference
from eval.score import score_problems
from rewards import Verifier

LIMIT = 10


def main(argv: Sequence[str] | None = None) -> None:
    """A line for all problems, those with an answer up to LIMIT, and those with a greater one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--before", type=int, default=0)
    parser.add_argument("--after", type=int, required=True)
    args = parser.parse_args(argv)
    loaded = load_benchmark(f"heldout={args.run / 'eval' / 'heldout.jsonl'}")
    small = {q.id: float(q.answer) <= LIMIT for q in loaded.questions}
    with Verifier(answer_mode="boxed") as verifier:
        before, after = (
            {
                row["id"]: row["c"] / row["n"]
                for row in score_problems(
                    read_generations(args.run / "eval" / f"step_{step}.jsonl.gz"),
                    verifier,
                    benchmarks=[loaded],
                )[1]
            }
            for step in (args.before, args.after)
        )
    for name, kept in (("all", {True, False}), (f"<= {LIMIT}", {True}), (f"> {LIMIT}", {False})):
        a, b = ([scores[i] for i, s in small.items() if s in kept] for scores in (before, after))
        d = paired_difference(a, b)
        print(
            f"{name:6} {len(a)} problems: {fmean(a):.3f} before, {fmean(b):.3f} after,"
            f" {d.value:+.3f} [{d.lo:+.3f}, {d.hi:+.3f}]"
        )


if __name__ == "__main__":
    main()
