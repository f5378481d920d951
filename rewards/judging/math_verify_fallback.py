"""What our parser does not know goes to math-verify, behind the same guard: worker only."""

import logging
import re

from rewards.gold import Gold, Kind
from rewards.types import Reason

MAX_LEN = 300
_NUMBERS = {
    Kind.INTEGER,
    Kind.RATIONAL,
    Kind.DECIMAL,
    Kind.BASED,
    Kind.TIME,
    Kind.CHOICE,
    Kind.TEXT,
}
# Towers, factorials, long numbers, big exponents and big operators could take for ever there.
_HEAVY = re.compile(
    r"!|\d{10}|\^\s*\{?\s*[-+]?\d{3}|\^\s*\{[^{}]*\^|\^[^^]*\^[^^]*\^[^^]*\^|\*\*|[eE][+-]?\d{3}"
    r"|[0-9}]_|'|\\(?:sum|prod|int|lim|binom|choose|bigcup|bigcap|begin|text|gcd|lcm|det|max|min)"
    r"|\\(?:dim|ker|operatorname|math|lfloor|lceil)"
)


def by_math_verify(plain: str, gold: Gold) -> Reason:
    """Return correct when math-verify reads both texts as one value, else unparsed or too large.

    It never rules on a plain number, a choice or a word: those our own parser reads whole.
    """
    if gold.kind in _NUMBERS or not plain:
        return Reason.UNPARSED
    if len(plain) > MAX_LEN or _HEAVY.search(plain) or _HEAVY.search(gold.plain):
        return Reason.TOO_LARGE if len(plain) > MAX_LEN else Reason.UNPARSED
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that we set no timeout
    wanted = parse(f"${gold.plain}$", parsing_timeout=0, raise_on_error=False)
    found = parse(f"${plain}$", parsing_timeout=0, raise_on_error=False)
    if len(found) < 2 or len(wanted) < 2:
        return Reason.UNPARSED
    agreed = verify(wanted[:1], found[:1], timeout_seconds=0, raise_on_error=False)
    return Reason.CORRECT if agreed else Reason.UNPARSED
