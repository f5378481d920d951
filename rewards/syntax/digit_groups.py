"""Which commas group digits, as in 1,234, and which separate the items of a list."""

import re

# A group starts with a digit that is not 0 and no other digits or comma touch it.
_CANDIDATE = r"(?<![\d.^_])(?<!\d,)[1-9]\d{0,2}(?:,\d{3})+(?!,?\d)"
_GROUP = re.compile(_CANDIDATE)
_MARK = re.compile(
    rf"(?P<group>{_CANDIDATE})|(?P<open>[(\[]|\\\{{)|(?P<close>[)\]]|\\\}})|(?P<comma>,)"
)
BARE_GROUP = re.compile(r"[1-9]\d{0,2}(?:,\d{3})+")


def digit_groups(text: str) -> frozenset[int]:
    """Return where the numbers start whose commas group digits.

    Every group has three digits and no space. A bracket, or a list without brackets, has such
    numbers only if every comma that separates its items is followed by a space; and a bracket has
    them only if there is such a comma: `(1,234)` is a pair, `(1,234, 5)` has 1234.
    """
    if _GROUP.search(text) is None:
        return frozenset()
    found: set[int] = set()
    levels: list[_Level] = [_Level(True)]
    for mark in _MARK.finditer(text):
        kind = mark.lastgroup
        if kind == "open":
            levels.append(_Level(False))
        elif kind == "close":
            if len(levels) > 1:
                levels.pop().settle(found)
        elif kind == "group":
            levels[-1].starts.append(mark.start())
        elif text[mark.end() : mark.end() + 1] == " ":  # a comma and a space separate items
            levels[-1].allowed = None if levels[-1].allowed is None else True
        else:
            levels[-1].allowed = None
    for level in levels:
        level.settle(found)
    return frozenset(found)


class _Level:
    """One bracket, or what stands in none. allowed: None once a comma without a space was seen."""

    def __init__(self, allowed: bool):
        self.starts: list[int] = []
        self.allowed: bool | None = allowed

    def settle(self, found: set[int]) -> None:
        """Add this level's numbers to the found ones, if its commas may group digits."""
        if self.allowed:
            found.update(self.starts)
