"""What the verifier's benchmark feeds to everyone: labelled cases, real golds, made-up pairs."""

import json
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("RLVR_DATA", ROOT.parent / "shared" / "data"))
CASES = ROOT.parent / "shared" / "verifier" / "cases.jsonl"


@dataclass(frozen=True)
class Pair:
    """A response, the gold, and whether it is right."""

    response: str
    gold: str
    label: bool
    category: str = ""


def read_jsonl(path: Path) -> Iterator[dict]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def cases(path: Path) -> list[Pair]:
    """The labelled cases of a file."""
    return [
        Pair(row["response"], row["gold"], row["label"], row["category"])
        for row in read_jsonl(path)
    ]


def boxed(answer: str) -> str:
    return rf"Putting both together, the answer is $\boxed{{{answer}}}$."


def data_files() -> list[Path]:
    """Every data set with answers."""
    return [path for path in sorted(DATA.glob("*.jsonl")) if path.stem != "contamination"]


def echoes(path: Path) -> list[Pair]:
    """Every gold of a data set, boxed."""
    return [Pair(boxed(row["answer"]), row["answer"], True) for row in read_jsonl(path)]


def changed_numbers(number: int, seed: int) -> list[Pair]:
    """Number golds against the same number with one digit changed, dropped or doubled."""
    draw = random.Random(seed)
    pairs = []
    while len(pairs) < number:
        whole = str(draw.randrange(10 ** draw.randrange(1, 12)))
        gold = draw.choice(
            [whole, f"-{whole}", f"{whole}.{draw.randrange(1, 999)}", rf"\frac{{{whole}}}{{7}}"]
        )
        place = draw.choice([n for n, letter in enumerate(gold) if letter.isdigit()])
        digit = draw.choice([d for d in "0123456789" if d != gold[place]])
        answer = gold[:place] + draw.choice([digit, digit + gold[place]]) + gold[place + 1 :]
        if number_value(answer) != number_value(gold):
            pairs.append(Pair(boxed(answer), gold, False))
    return pairs


def number_value(text: str) -> tuple[float, bool]:
    """The value of what changed_numbers makes, fractions told apart by their mark."""
    if not text.startswith(r"\frac"):
        return float(text), False
    top, bottom = text.removeprefix(r"\frac{").removesuffix("}").split("}{")
    return (float("inf"), True) if int(bottom) == 0 else (int(top) / int(bottom), True)


def short_numbers(number: int) -> list[Pair]:
    """Short numeric pairs, every second one right."""
    return [Pair(rf"So it is \boxed{{{n + n % 2}}}.", str(n), n % 2 == 0) for n in range(number)]


def solution_texts() -> list[Pair]:
    """MATH-500 and OlympiadBench golds at the end of real text.

    Every second answer is another row's; half of the right ones are written in another way.
    """
    rows = [
        row for name in ("math500", "olympiadbench") for row in read_jsonl(DATA / f"{name}.jsonl")
    ]
    pairs = []
    for n, row in enumerate(rows):
        answer = row["answer"] if n % 2 == 0 else rows[(n + 7) % len(rows)]["answer"]
        shown = decorated(answer) if n % 4 == 0 else answer
        text = f"{row['problem']}\n\nWe work it out step by step. {boxed(shown)}"
        pairs.append(Pair(text, row["answer"], answer == row["answer"]))
    return pairs


def decorated(answer: str) -> str:
    """The same answer with the decoration that models like."""
    answer = answer.replace(r"\frac", r"\dfrac").replace("(", r"\left( ").replace(")", r" \right)")
    return rf"\displaystyle {answer}\,"


def long_responses(number: int, num_chars: int = 65_536) -> list[Pair]:
    """Responses of 64k characters of ordinary reasoning with the answer at the end."""
    step = r"Then $x_{n+1} = \frac{1}{2}(x_n + \frac{a}{x_n})$, so by \eqref{1} \textbf{it} falls. "
    body = (step * (num_chars // len(step) + 1))[: num_chars - 60]
    return [Pair(body + boxed(str(n)), str(n), True) for n in range(number)]


def tuples(number: int) -> list[Pair]:
    draw = random.Random(0)
    pairs = []
    for n in range(number):
        a, b, c = (draw.randrange(1, 99) for _ in range(3))
        right = n % 2 == 0
        answer = rf"\left(\frac{{{2 * a}}}{{{2 * b}}}, \sqrt{{{4 * c}}}\right)"
        gold = rf"(\frac{{{a}}}{{{b}}}, 2\sqrt{{{c if right else c + 1}}})"
        pairs.append(Pair(boxed(answer), gold, right))
    return pairs


def polynomials(number: int) -> list[Pair]:
    draw = random.Random(0)
    pairs = []
    for n in range(number):
        a, b, c = (draw.randrange(1, 30) for _ in range(3))
        right = n % 2 == 0
        middle = a * b + a * c + b * c + (0 if right else 1)
        gold = rf"x^3+{a + b + c}x^2+{middle}x+{a * b * c}"
        pairs.append(Pair(boxed(f"(x+{a})(x+{b})(x+{c})"), gold, right))
    return pairs
