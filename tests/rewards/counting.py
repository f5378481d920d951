"""Count the work that a function does on a text: calls, and characters that C code passes over.

Unlike a clock, the counts are the same on every machine. What a regular expression gives up and
tries again is not seen; `tests/benchmarks/verifier_growth.py` measures that with a clock.
"""

import re
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest


class Meter:
    """The characters passed over so far."""

    def __init__(self):
        self.num_chars = 0


class Tape(str):
    """A text that charges its meter for every character searched, compared or copied."""

    meter: Meter

    def __new__(cls, text: str, meter: Meter) -> "Tape":
        tape = super().__new__(cls, text)
        tape.meter = meter
        return tape

    def find(self, part: str, start: int = 0, end: int | None = None) -> int:  # type: ignore[override]
        end = len(self) if end is None else end
        found = super().find(part, start, end)
        self.meter.num_chars += max(0, (end if found < 0 else found) - start)
        return found

    def rfind(self, part: str, start: int = 0, end: int | None = None) -> int:  # type: ignore[override]
        end = len(self) if end is None else end
        found = super().rfind(part, start, end)
        self.meter.num_chars += max(0, end - max(found, start))
        return found

    def __contains__(self, part: object) -> bool:
        self.meter.num_chars += len(self)
        return super().__contains__(part)  # type: ignore[operator]

    def __getitem__(self, place) -> "Tape":
        part = super().__getitem__(place)
        self.meter.num_chars += len(part)
        return Tape(part, self.meter)

    def strip(self, letters: str | None = None) -> "Tape":
        self.meter.num_chars += len(self)
        return Tape(super().strip(letters), self.meter)


class MeteredPattern:
    """A compiled pattern that charges a meter for the characters it passes over."""

    def __init__(self, pattern: re.Pattern[str], meter: Meter):
        self.pattern, self.meter = pattern, meter

    def _charge(self, found: re.Match[str] | None, at: int, end: int) -> re.Match[str] | None:
        self.meter.num_chars += (found.end() if found else end) - at
        return found

    def search(self, text: str, at: int = 0) -> re.Match[str] | None:
        return self._charge(self.pattern.search(text, at), at, len(text))

    def match(self, text: str, at: int = 0) -> re.Match[str] | None:
        return self._charge(self.pattern.match(text, at), at, at + 1)

    def fullmatch(self, text: str, at: int, end: int) -> re.Match[str] | None:
        return self._charge(self.pattern.fullmatch(text, at, end), at, end)

    def finditer(self, text: str, at: int = 0) -> Iterator[re.Match[str]]:
        for found in self.pattern.finditer(text, at):
            self._charge(found, at, at)
            at = found.end()
            yield found
        self.meter.num_chars += len(text) - at


def num_calls(call: Callable[[], object]) -> int:
    """The number of calls, of Python and of C functions, that happen inside call."""
    count = 0

    def see(frame: object, event: str, value: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(see)
    try:
        call()
    finally:
        sys.setprofile(before)
    return count


def work(call: Callable[[str], object], text: str, module: ModuleType | None = None) -> int:
    """Calls and characters passed over by call(text), by text and by the patterns of module."""
    meter = Meter()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in vars(module).items() if module else ():
            if isinstance(value, re.Pattern):
                patch.setattr(module, name, MeteredPattern(value, meter))
        calls = num_calls(lambda: call(Tape(text, meter)))
    return calls + meter.num_chars
