"""Held-out accuracy before and after, by the size of the problem's answer: skill or a guess?

Run: python -m tests.benchmarks.by_answer RUN --before 0 --after 40
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from eval.intervals import paired_difference
from rlvr.analysis.lines import read_lines
from rlvr.runs.reader import read_evaluations

LIMIT = 10


def main(argv: Sequence[str] | None = None) -> None:
    """A line for all problems, those with an answer up to LIMIT, and those with a greater one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--before", type=int, default=0)
    parser.add_argument("--after", type=int, required=True)
    args = parser.parse_args(argv)
    problems = [row for _, row in read_lines(args.run / "eval" / "heldout.jsonl")]
    small = [float(row["answer"]) <= LIMIT for row in problems]
    evaluations = read_evaluations(args.run)
    before, after = (evaluations[step]["fractions"] for step in (args.before, args.after))
    rows = list(zip(small, before, after, strict=True))
    for name, kept in (("all", {True, False}), (f"<= {LIMIT}", {True}), (f"> {LIMIT}", {False})):
        a = [x for is_small, x, _ in rows if is_small in kept]
        b = [x for is_small, _, x in rows if is_small in kept]
        d = paired_difference(a, b)
        print(
            f"{name:6} {len(a)} problems: {fmean(a):.3f} before, {fmean(b):.3f} after,"
            f" {d.value:+.3f} [{d.lo:+.3f}, {d.hi:+.3f}]"
        )


if __name__ == "__main__":
    main()
