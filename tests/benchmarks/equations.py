"""What binds a policy on one-step problems: the equations that its responses say.

Of one evaluation of a run (eval/step_N.jsonl.gz): the share of responses whose first and whose last
equation has the problem's answer if it is computed rightly (the operation and numbers are the right
ones), the share with one equation alone, and by operation the share that is computed rightly.
Run: python -m tests.benchmarks.equations RUN/eval/step_0.jsonl.gz RUN/eval/step_21.jsonl.gz

`rows` is a source of supervised examples: GSM8K's shortest solutions, and the equations of all,
eight to a row in one of three spacings, with those that invert them.
Use: rlvr sft RECIPE --data.path tests/benchmarks/equations.py:rows
"""

import argparse
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from eval.generations import read_generations
from rlvr.analysis.lines import read_lines
from rlvr.data.rows import find_data_file

ALONE = r"(?<![\d.+\-*/x] )(?<![\d.,+\-*/x(])"  # not the rest of a longer sum
NUMBER = r"\$?(\d+(?:\.\d+)?)"
SAID = re.compile(rf"{ALONE}{NUMBER}\s*([-+*x/])\s*{NUMBER}[^-+*/=\n\d]{{0,20}}=\s*{NUMBER}")
"""An equation of two numbers, perhaps with a unit before its sign."""

SOLUTIONS = 640
PER_ROW = 8
LIMIT = 1000  # of every number in a row
SPACINGS = ("{}{}{} = {}", "{} {} {} = {}", "{}{}{}={}")
WHOLE = re.compile(rf"{ALONE}\$?(\d+)\s*([-+*/x])\s*\$?(\d+)\s*=\s*\$?(\d+)(?![\d.,]*\d)")
"""An equation of two whole numbers: no part of a longer sum or of a decimal fraction."""

Equation = tuple[int, str, int, int]


def compute(a: float, operation: str, b: float) -> float | None:
    """What it is, None for a division by 0."""
    if operation == "/":
        return a / b if b else None
    return {"+": a + b, "-": a - b, "*": a * b}[operation]


def shares(path: Path) -> dict[str, Any]:
    """The figures of one evaluation; its problems are in heldout.jsonl beside it."""
    answers = {
        row["id"]: float(row["answer"]) for _, row in read_lines(path.parent / "heldout.jsonl")
    }
    counts: Counter[str] = Counter()
    rightly: Counter[tuple[str, bool]] = Counter()
    for generation in read_generations(path):
        true = []
        for left, sign, right, said in SAID.findall(generation.response.replace(",", "")):
            a, b, operation = float(left), float(right), "*" if sign == "x" else sign
            value = compute(a, operation, b)
            true.append(value)
            if value is not None and value >= 0:  # "5 - 74 = 24" is a wrong choice
                rightly[operation, abs(value - float(said)) < 0.01] += 1
        counts["responses"] += 1
        counts["one"] += len(true) == 1
        for key, chosen in (("first", true[:1]), ("last", true[-1:])):
            counts[key] += chosen == [answers[generation.id]]
    return {
        "responses": counts["responses"],
        **{key: counts[key] / counts["responses"] for key in ("first", "last", "one")},
        "computed": {
            operation: (rightly[operation, True] / total, total)
            for operation in "+-*/"
            if (total := rightly[operation, True] + rightly[operation, False])
        },
    }


def rows() -> Iterator[dict[str, Any]]:
    """Problem, solution and answer, shuffled."""
    worked = [row for _, row in read_lines(find_data_file("gsm8k_train_solutions.jsonl"))]
    rng = random.Random(0)
    found = equation_rows((row["solution"] for row in worked), rng)
    worked.sort(key=lambda row: len(row["problem"]) + len(row["solution"]))
    found += worked[:SOLUTIONS]
    rng.shuffle(found)
    yield from found


def equation_rows(solutions: Iterable[str], rng: random.Random) -> list[dict[str, Any]]:
    """Rows that ask for eight equations each."""
    equations = sorted(
        {one for text in solutions for two in true_equations(text) for one in inverses(two)}
    )
    rng.shuffle(equations)
    found = []
    for start in range(0, len(equations) - PER_ROW + 1, PER_ROW):
        part = equations[start : start + PER_ROW]
        spacing = rng.choice(SPACINGS)
        asked = spacing.partition("=")[0].strip()
        *first, last = [asked.format(*one) for one in part]
        found.append(
            {
                "problem": f"Compute {', '.join(first)} and {last}.",
                "solution": "\n".join(spacing.format(*one) for one in part),
                "answer": str(part[-1][3]),
            }
        )
    return found


def true_equations(text: str) -> Iterator[Equation]:
    """(a, operation, b, c) of every true equation of two whole numbers in a solution."""
    for left, sign, right, said in WHOLE.findall(text.replace(",", "")):
        a, b, c = int(left), int(right), int(said)
        operation = "*" if sign == "x" else sign
        if compute(a, operation, b) == c and max(a, b, c) < LIMIT:
            yield a, operation, b, c


def inverses(equation: Equation) -> Iterator[Equation]:
    """The equation and those that say the same: 16+9 = 25, 25-9 = 16, 25-16 = 9."""
    a, operation, b, c = equation
    yield equation
    if operation == "+":
        yield from ((c, "-", b, a), (c, "-", a, b))
    elif operation == "-":
        yield from ((c, "+", b, a), (a, "-", c, b))
    elif operation == "*" and a and b:
        yield from ((c, "/", b, a), (c, "/", a, b))
    elif operation == "/":
        yield c, "*", b, a


def main(argv: Sequence[str] | None = None) -> None:
    """A line per evaluation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("evaluations", type=Path, nargs="+")
    for path in parser.parse_args(argv).evaluations:
        found = shares(path)
        computed = ", ".join(
            f"{sign} {share:.2f} of {total}" for sign, (share, total) in found["computed"].items()
        )
        print(
            f"{path}: {found['responses']} responses, the answer's equation first"
            f" {found['first']:.3f}, last {found['last']:.3f}, one equation {found['one']:.3f};"
            f" computed rightly: {computed}"
        )


if __name__ == "__main__":
    main()
