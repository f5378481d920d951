"""How the work of a function grows with its input, by counting: the same on every machine."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).parents[1]
OURS = tuple(str(ROOT / name) for name in ("rlvr", "rewards", "eval"))


def work(call: Callable[[], Any]) -> int:
    """Lines of our packages that `call` runs, plus the characters and bytes that their variables
    newly hold: copying a growing text over and over counts each copy."""
    total = 0
    held: dict[int, dict[str, tuple[int, int]]] = {}

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal total
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        total += 1
        now = {
            name: (id(value), len(value))
            for name, value in frame.f_locals.items()
            if isinstance(value, str | bytes)
        }
        before = held.get(id(frame), {})
        total += sum(size for name, (what, size) in now.items() if before.get(name) != (what, size))
        held[id(frame)] = now
        if event == "return":
            held.pop(id(frame), None)
        return trace

    old = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(old)
    return total


def exponent(make: Callable[[int], Callable[[], Any]], small: int, factor: int = 4) -> float:
    """p of work ~ size^p between `small` and `factor` times that. make(size): the call to count,
    its input already made."""
    first, second = work(make(small)), work(make(small * factor))
    assert first > small / 100, f"only {first} lines: what is counted runs elsewhere"
    return slope(first, second, factor)


def slope(first: int, second: int, factor: float) -> float:
    """p of work ~ size^p, from the work at one size and at `factor` times that."""
    return math.log(second / max(first, 1)) / math.log(factor)
