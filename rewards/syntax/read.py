"""Read an answer: plain numbers at once, whole-text forms (time, choice, base), then the parser."""

import re

from rewards.syntax.lexer import Unparsed
from rewards.syntax.nodes import Node
from rewards.syntax.normalise import words
from rewards.syntax.parse import parse
from rewards.syntax.wording import foreign, reworded

NUMBER = re.compile(  # bounded digits: no text makes int() or a product slow
    r"(?:(-?\d{1,18})|(-?\d{0,15}\.\d{1,15})|(-?\d{1,18})/(\d{1,18})"
    r"|(-?)\\[dt]?frac\{(-?\d{1,18})\}\{(\d{1,18})\})"
)


def plain_number(text: str) -> tuple[int, int] | None:
    """Return (numerator, denominator) of a short plain number, unreduced; else None."""
    found = NUMBER.fullmatch(text)
    if found is None:
        return None
    kind = found.lastindex  # the group that closed last tells which of the four forms it is
    if kind == 1:
        return int(text), 1
    if kind == 2:
        whole, _, decimals = text.partition(".")
        return int(whole + decimals), 10 ** len(decimals)
    top, bottom = (3, 4) if kind == 4 else (6, 7)
    below = int(found[bottom])
    if below == 0:
        return None
    return (-int(found[top]) if kind == 7 and found[5] else int(found[top])), below


_TIME = re.compile(  # 3:45, 3:45 p.m.; `3:75` stays a ratio
    r"(\d{1,2})\s*:\s*([0-5]\d)\s*(?:\\text\w*\{)?\s*([ap])?\.?\s*(?(3)m\.?|)\s*\}?", re.I
)
_BASED = re.compile(  # 1011_2, (2A)_{16}, 101_\text{two}
    r"\(?(?:\\text\w*\{|\\mathrm\{)?\s*([0-9A-Z]+)\s*\}?\)?_(?:\{?\s*(-?\d+)\s*\}?"
    r"|\{?\\?(?:text|mathrm)?\{?\s*([a-z]+)\s*\}?\}?)"
)
_COUNTED = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen
"""
_COUNTS = {word: k for k, word in enumerate(_COUNTED.split())}
_ROUND = "twenty thirty forty fifty sixty seventy eighty ninety"
_TENS = {word: 10 * k for k, word in enumerate(_ROUND.split(), 2)}
_ORDINALS = "half third fourth fifth sixth seventh eighth ninth tenth"
_PARTS = {word: k for k, word in enumerate(_ORDINALS.split(), 2)} | {"halve": 2, "quarter": 4}
_LARGE = {"hundred": 100, "thousand": 1000, "million": 10**6}
_BASES = {word: k for word, k in _COUNTS.items() if 1 < k <= 16}
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3}")
_HEX = re.compile(r"0x(?=\d*[A-Fa-f])([0-9A-Fa-f]{1,16})")
_SAID = {
    said: node
    for node, sayings in (
        (
            ("field", "R"),
            "all real numbers|all reals|real numbers|the set of all real numbers|reals",
        ),
        (("field", "Z"), "all integers|the integers|integers"),
        (("c", "inf"), "infinity|positive infinity|infty"),
        (("c", "inf"), "infinitely many|infinitely many solutions"),
        (("-", ("c", "inf")), "negative infinity"),
        (("set", ()), "empty set|the empty set|no solution|no solutions|no real solution"),
        (("set", ()), "no real solutions|no solution exists|no solutions exist"),
        (("set", ()), "there is no solution|there are no solutions|there are no real solutions"),
        (("setminus", ("field", "R"), ("set", (("n", 0, 1),))), "all real numbers except 0"),
        (("n", 1, 2), "half"),
    )
    for said in sayings.split("|")
}
_SAID |= {word: ("n", k, 1) for word, k in (_COUNTS | _TENS).items()}


def read(plain: str) -> Node | None:
    """Return the tree of a normalised answer; None when it is outside the language."""
    whole = _time(plain) or _based(plain)
    if whole:
        return whole
    changed = reworded(plain if plain.isascii() else foreign(plain))
    try:
        node = parse(changed)
    except (Unparsed, ValueError):
        node = None
    # Words may have been read as text or as products of their letters.
    spoken = node is None or node[0] in ("text", "*", "unit", "s", "+")
    if spoken and _WORD.search(changed):
        said = words(changed)
        return _SAID.get(said) or _number_in_words(said) or node
    return node


def _number_in_words(said: str) -> Node | None:
    """Read `twenty five` or `three quarters`; the text has no hyphens any more."""
    parts = said.split(" ")
    if len(parts) == 2:
        if parts[1] in _LARGE and (times := _COUNTS.get(parts[0], 0)):
            return ("n", times * _LARGE[parts[1]], 1)
        tens, ones = _TENS.get(parts[0]), _COUNTS.get(parts[1], 0)
        if tens and 0 < ones < 10:
            return ("n", tens + ones, 1)
        top, bottom = _COUNTS.get(parts[0], 0), _PARTS.get(parts[1].rstrip("s"), 0)
        if top and bottom:
            return ("n", top, bottom)
    return None


def _time(plain: str) -> Node | None:
    if ":" not in plain:
        return None
    found = _TIME.fullmatch(plain)
    if not found:
        return None
    half = (found[3] or "").lower()
    node = ("time", int(found[1]), int(found[2]))
    return ("unit", node, half + "m") if half else node


def _based(plain: str) -> Node | None:
    if plain.startswith("0x") and (found := _HEX.fullmatch(plain)):
        return ("based", found[1].upper(), 16)
    if "_" not in plain:
        return None
    found = _BASED.fullmatch(plain)
    # One capital letter with an index is a symbol: `A_2` is no number in base two.
    if not found or not (found[1][0].isdigit() or len(found[1]) > 1):
        return None
    name = str(found[3] or "")
    base = int(found[2]) if found[2] and len(found[2]) < 5 else _BASES.get(name)
    return ("based", found[1], base) if base else None
