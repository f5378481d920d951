"""Problems: functions that a recipe names as data.path and eval.path."""

import random
from collections.abc import Iterator
from typing import Any


def sums() -> Iterator[dict[str, Any]]:
    """2,000 sums of two numbers, as rows with the fields that the recipe names."""
    yield from _sums(range(0, 2000))


def held_out_sums() -> Iterator[dict[str, Any]]:
    """200 other sums."""
    yield from _sums(range(2000, 2200))


def _sums(numbers: range) -> Iterator[dict[str, Any]]:
    pairs = [(a, b) for a in range(1, 60) for b in range(1, 60)]
    random.Random(0).shuffle(pairs)
    for a, b in (pairs[i] for i in numbers):
        problem = f"Tom has {a} apples. a) He buys {b} more. How many apples does Tom have?"
        yield {"problem": problem, "answer": str(a + b), "level": 1}
