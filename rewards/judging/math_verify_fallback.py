"""What our parser does not know goes to math-verify, behind the same guard: worker only."""

import logging
import re

from rewards.gold import Gold, Kind
from rewards.types import Reason, Ruling

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


def by_math_verify(plain: str, gold: Gold) -> Ruling:
    """Return correct when math-verify reads both texts as one value, else unparsed or too large.

    It is not asked about a plain number, a choice or a word, which our own parser reads whole, nor
    about texts that could take it for ever; the stage is then "parse".
    """
    if len(plain) > MAX_LEN:
        return Ruling(Reason.TOO_LARGE, "length")
    if gold.kind in _NUMBERS or not plain or _HEAVY.search(plain) or _HEAVY.search(gold.plain):
        return Ruling(Reason.UNPARSED, "parse")
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that we set no timeout
    # 0: no alarm of its own, the pool's deadline ends the call
    wanted = parse(f"${gold.plain}$", parsing_timeout=0, raise_on_error=False)
    found = parse(f"${plain}$", parsing_timeout=0, raise_on_error=False)
    # each is the value, then its text: a text alone is what could not be read
    agreed = len(found) > 1 < len(wanted) and verify(
        wanted[:1], found[:1], timeout_seconds=0, raise_on_error=False
    )
    return Ruling(Reason.CORRECT if agreed else Reason.UNPARSED, "math-verify")
