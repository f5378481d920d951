"""Decide whether an answer is the gold: in process when that is cheap, else in a worker."""

from typing import NamedTuple

from rewards.compare import SCALARS, equal, peel
from rewards.exact import NotExact
from rewards.gold import Gold, Kind
from rewards.normalise import MAX_LEN, compact, normalise, words
from rewards.read import choice, labelled, plain_number, read
from rewards.scalar import rational, same
from rewards.tree import features
from rewards.types import Reason

Node = tuple


class Ruling(NamedTuple):
    """reason: the verdict's reason; stage: the part that decided."""

    reason: Reason
    stage: str


_EQUAL_NUMBER = Ruling(Reason.CORRECT, "number")
_OTHER_NUMBER = Ruling(Reason.WRONG, "number")
_IDENTICAL = Ruling(Reason.CORRECT, "identical")
_UNREADABLE = Ruling(Reason.UNPARSED, "parse")


def judge_fast(answer: str, gold: Gold) -> Ruling | None:
    """Return the ruling when exact and cheap rules settle it, else None; never slow."""
    if answer == gold.text:
        return _IDENTICAL
    wanted = gold.number
    if wanted is not None:
        number = plain_number(answer)
        if number is not None:
            if number[0] * wanted[1] == wanted[0] * number[1]:
                return _EQUAL_NUMBER
            if "." not in answer and "." not in gold.text:
                return _OTHER_NUMBER
    if len(answer) > MAX_LEN:
        return Ruling(Reason.TOO_LARGE, "length")
    plain = normalise(answer)
    if compact(plain) == gold.plain:
        return _IDENTICAL
    return _by_text(plain, gold) or _by_tree(read(plain), gold)


def _by_text(plain: str, gold: Gold) -> Ruling | None:
    """Settle texts and choices, whose letters are no symbols."""
    if gold.node is None or gold.kind is Kind.TEXT:
        return Ruling(Reason.CORRECT, "text") if words(plain) == words(gold.plain) else None
    return None


def _by_tree(node: Node | None, gold: Gold) -> Ruling | None:
    if node is None or gold.node is None:
        return None
    try:
        verdict = equal(node, gold.node, same)
    except (RecursionError, NotExact, ValueError, OverflowError, ZeroDivisionError):
        return None
    if verdict is None:
        return None
    return Ruling(Reason.CORRECT if verdict else Reason.WRONG, "exact")


def judge_slow(answer: str, gold: Gold) -> Ruling:
    """Return the ruling of the full comparison; to be run where it can be killed."""
    return judge_fast(answer, gold) or _UNREADABLE
