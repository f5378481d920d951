"""What the verifier's benchmark feeds to everyone: labelled cases, real golds, made-up pairs."""

import json
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rewards.gold import Gold, Kind
from tests.rewards.pairs import RIGHT, WRONG
from tests.rewards.pairs_outside import OUTSIDE
from tests.rewards.pairs_symbolic import SYMBOLIC

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("RLVR_DATA", ROOT.parent / "shared" / "data"))
CASES = ROOT.parent / "shared" / "verifier" / "cases.jsonl"
MORE_CASES = CASES.with_name("cases2.jsonl")


@dataclass(frozen=True)
class Pair:
    """A response, the gold, and whether it is right."""

    response: str
    gold: str
    label: bool
    category: str = ""
    mode: str = "boxed"


def read_jsonl(path: Path) -> Iterator[dict]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def cases(path: Path) -> list[Pair]:
    """The labelled cases of a file."""
    return [
        Pair(
            row["response"],
            row["gold"],
            row["label"],
            row.get("category") or row["kind"],
            row.get("answer_mode", "boxed"),
        )
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


def every_pair() -> dict[str, list[Pair]]:
    """Every set of labelled pairs at hand: given ones, the tests' own, golds typed anew."""
    sets = {path.name: cases(path) for path in (CASES, MORE_CASES) if path.exists()}
    for name, right, wrong in (
        ("pairs.py", RIGHT.values(), WRONG.values()),
        ("pairs_outside.py", *zip(*OUTSIDE.values(), strict=True)),
        ("pairs_symbolic.py", *zip(*SYMBOLIC.values(), strict=True)),
    ):
        sets[name] = [
            Pair(boxed(answer), gold, label)
            for label, tables in ((True, right), (False, wrong))
            for rows in tables
            for gold, answer in rows
        ]
    if data_files():
        sets["solution texts"] = solution_texts()
        sets["golds typed anew"] = retyped(300)
    return sets


# The same value written with an identity that only functions show, and near misses of it.
SAME_VALUE = (
    *(r"({})\cdot(\sin^2 1+\cos^2 1)", r"({})\cdot\tan 45^\circ", r"-e^{{i\pi}}({})"),
    *(r"({})+\arctan 1-\frac{{\pi}}{{4}}", r"({})\cdot\ln e", r"({})+\cos 120^\circ+\frac12"),
)
OTHER_VALUE = (
    *(r"({})\cdot(\sin^2 1+\cos^2 2)", r"({})\cdot\tan 46^\circ", r"e^{{i\pi}}({})"),
    *(r"({})+\arctan 1-\frac{{\pi}}{{4}}+10^{{-30}}", r"({})\cdot(\sin^2 1+\cos^2 1+10^{{-75}})"),
)


def retyped(number: int) -> list[Pair]:
    """Golds of the data sets that are expressions, each in forms of the same and another value."""
    golds = {row["answer"] for path in data_files() for row in read_jsonl(path)}
    texts = []
    for text in sorted(golds):
        try:
            gold = Gold.parse(text)
        except ValueError:
            continue
        if gold.kind in (Kind.EXPRESSION, Kind.COMPLEX) and gold.node and gold.node[0] != "unit":
            texts.append(text)
    chosen = random.Random(0).sample(texts, min(number, len(texts)))
    return [
        Pair(boxed(form.format(text)), text, label)
        for text in chosen
        for label, forms in ((True, SAME_VALUE), (False, OTHER_VALUE))
        for form in forms
    ]
