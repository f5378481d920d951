"""Generated multi-step word problems in graded levels, and worked solutions with chosen mistakes.

The quickstart trains on these: no hub, no licence, and a verifiable integer answer. A problem of
level L takes L steps; up to level 5 higher ones also have larger numbers and more operations to
tell apart, beyond it they only grow longer.
"""

import hashlib
import random
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

Split = Literal["train", "heldout", "sft"]
SPLITS: tuple[Split, ...] = get_args(Split)
LEVELS = (1, 2, 3, 4, 5)  # those of a recipe that names none
MAX_LEVEL = 52
_LETTERS = string.ascii_lowercase
LABELS = (*_LETTERS, *(f"a{letter}" for letter in _LETTERS))  # of the steps: a) to z), aa) to az)
MAX_TOTAL = 40  # every intermediate result stays between 1 and this

_PRONOUNS = {
    "Tom": "He", "Ben": "He", "Sam": "He", "Max": "He",
    "Ann": "She", "Eva": "She", "Mia": "She", "Zoe": "She",
}  # fmt: skip
_OBJECTS = {"He": "him", "She": "her"}
_THINGS = ("apples", "pears", "plums", "figs", "nuts", "eggs", "cakes", "sweets")
# Wordings of each operation: {n} is its number, unless the operation fixes it.
_WORDINGS = {
    "+": ("{who} buys {n} more.", "{who} finds {n} more.", "{friend} gives {whom} {n} more."),
    "-": ("{who} loses {n}.", "{who} eats {n}.", "{who} gives {n} to {friend}."),
    "*2": ("{who} doubles the pile.", "{friend} doubles the pile."),
    "*3": ("{who} triples the pile.", "{friend} triples the pile."),
    "/2": ("{who} gives half to {friend}.", "{who} eats half."),
}
_OPERATIONS = {
    1: ("+", "-"),
    2: ("+", "-", "*2"),
    3: ("+", "-", "*2"),
    4: ("+", "-", "*2", "/2"),
    5: ("+", "-", "*2", "*3", "/2"),
}
_INVERSE = {"+": "-", "-": "+", "*": "+", "/": "-"}
_SPLIT_SHARES: dict[Split, range] = {
    "heldout": range(0, 2),
    "train": range(2, 5),
    "sft": range(5, 10),
}


Row = dict[str, Any]
"""id, problem, answer (text), level, and plan: the start and the steps, such as `12 +5 -6 *2`."""


@dataclass(frozen=True)
class Mistakes:
    """How often worked solutions go wrong, as probabilities in [0, 1].

    stop_early: per solution of two or more steps, answer with the result before the last step.
    wrong_operation: per step, use another operation on the same number.
    slip: per equation, write a result off by 1, 2 or 10. All later steps carry a mistake on.
    """

    stop_early: float = 0.0
    wrong_operation: float = 0.0
    slip: float = 0.0

    def __post_init__(self) -> None:
        for name, rate in vars(self).items():
            if not 0 <= rate <= 1:
                raise ValueError(f"{name} = {rate}: a probability; set it between 0 and 1")


def split_of(problem: str) -> Split:
    """The one split that a problem text belongs to: a hash of the text decides, 2 : 3 : 5."""
    bucket = hashlib.sha256(problem.encode()).digest()[0] * 10 // 256
    return next(split for split, buckets in _SPLIT_SHARES.items() if bucket in buckets)


def generate(split: Split, num: int, seed: int, levels: Sequence[int] | None = None) -> list[Row]:
    """`num` distinct problems of one split, the levels (None: 1 to 5) in turn; repeatable.

    A level named twice comes twice as often. Splits share no problem whatever their seeds, because
    the text alone decides the split.
    Raises: ValueError for an unknown split or level, or more problems than there are.
    """
    if split not in SPLITS:
        raise ValueError(f"split = {split!r}: use one of {', '.join(SPLITS)}")
    levels = LEVELS if levels is None else levels
    if not levels or not set(levels) <= set(range(1, MAX_LEVEL + 1)):
        raise ValueError(f"levels = {list(levels)}: name at least one from 1 to {MAX_LEVEL}")
    rng = random.Random(f"{split}:{seed}")
    rows: dict[str, Row] = {}
    draws_in_vain = 0
    while len(rows) < num:
        row = _draw(levels[len(rows) % len(levels)], rng)
        fits = split_of(row["problem"]) == split and row["problem"] not in rows
        draws_in_vain = 0 if fits else draws_in_vain + 1
        if fits:
            rows[row["problem"]] = row
        elif draws_in_vain == 5000:
            raise ValueError(f"levels = {list(levels)}: fewer than {num} distinct problems")
    return list(rows.values())


def worked_solution(row: Row, rng: random.Random, mistakes: Mistakes | None = None) -> str:
    """One lettered equation per step, then `\\boxed{N}`; without mistakes, N is the answer."""
    mistakes = mistakes or Mistakes()
    start, *steps = row["plan"].split()
    if len(steps) > 1 and rng.random() < mistakes.stop_early:
        steps.pop()
    total = int(start)
    lines = []
    for label, step in zip(LABELS, steps, strict=False):  # 52 labels, the most steps
        operation, number = step[0], int(step[1:])
        if rng.random() < mistakes.wrong_operation:
            operation = _INVERSE[operation]
        equation, total = _equation(total, operation, number, rng, mistakes.slip)
        lines.append(f"{label}) {equation}")
    return "\n".join([*lines, f"\\boxed{{{total}}}"])


def _equation(
    left: int, operation: str, right: int, rng: random.Random, slip: float
) -> tuple[str, int]:
    """(left operation right = result, the result), off by a slip at times."""
    if operation == "-" and right > left:
        left, right = right, left  # only after a mistake: totals stay non-negative
    result = _apply(left, operation, right)
    if rng.random() < slip:
        result += rng.choice([by for by in (-10, -2, -1, 1, 2, 10) if result + by >= 0])
    return f"{left}{operation}{right}={result}", result


def _apply(left: int, operation: str, right: int) -> int:
    match operation:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case _:
            return left // right


def _draw(level: int, rng: random.Random) -> Row:
    """A random problem of `level` steps, of any split."""
    name = rng.choice(tuple(_PRONOUNS))
    friend = rng.choice([other for other in _PRONOUNS if other != name])
    thing = rng.choice(_THINGS)
    total = rng.randint(3, min(10 + 3 * level, MAX_TOTAL))
    words = {"who": _PRONOUNS[name], "whom": _OBJECTS[_PRONOUNS[name]], "friend": friend}
    plan, sentences = [str(total)], [f"{name} has {total} {thing}."]
    for label in LABELS[:level]:
        kind, number, total = _draw_step(level, total, rng)
        sentences.append(f"{label}) {rng.choice(_WORDINGS[kind]).format(**words, n=number)}")
        plan.append(f"{kind[0]}{number}")
    sentences.append(f"How many {thing} does {name} have?")
    problem = " ".join(sentences)
    return {
        "id": f"word-{hashlib.sha256(problem.encode()).hexdigest()[:12]}",
        "problem": problem,
        "answer": str(total),
        "level": level,
        "plan": " ".join(plan),
    }


def _draw_step(level: int, total: int, rng: random.Random) -> tuple[str, int, int]:
    """(operation, number, new total), drawn until the new total is in range."""
    while True:
        kind = rng.choice(_OPERATIONS[min(level, 5)])
        fixed = kind[1:].isdigit()
        number = int(kind[1:]) if fixed else rng.randint(2, 9)
        if kind[0] == "/" and total % number:
            continue
        new_total = _apply(total, kind[0], number)
        if 1 <= new_total <= MAX_TOTAL:
            return kind, number, new_total
