"""Decide whether an answer is the gold: in process when that is cheap, else in a worker."""

from rewards.equality.equivalence import equal
from rewards.equality.exact import NotExact
from rewards.equality.scalar import Same, same
from rewards.equality.sets import to_solve
from rewards.gold import Gold, Kind
from rewards.syntax.choices import labelled, letter_run, letters, lists_more, remarked
from rewards.syntax.digit_groups import BARE_GROUP
from rewards.syntax.nodes import Node
from rewards.syntax.normalise import MAX_LEN, compact, normalise, words
from rewards.syntax.read import plain_number, read
from rewards.syntax.tree import features, walk
from rewards.types import Reason, Ruling

_EQUAL_NUMBER = Ruling(Reason.CORRECT, "number")
_OTHER_NUMBER = Ruling(Reason.WRONG, "number")
_IDENTICAL = Ruling(Reason.CORRECT, "identical")
_UNREADABLE = Ruling(Reason.UNPARSED, "parse")
_OTHER_TEXT = Ruling(Reason.WRONG, "text")
_LEFT_TO_DO = {"big", "f:max", "f:min"}
_LINES = {Kind.INTERVAL, Kind.TUPLE, Kind.RELATION, Kind.SET}
# What rules raise on trees that they do not cover, or whose numbers are too large for them.
_OUTCOMES = (NotExact, RecursionError, ValueError, OverflowError, ZeroDivisionError)


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
            if "." not in answer and "." not in gold.text:  # a decimal may still round the gold
                return _OTHER_NUMBER
    if len(answer) > MAX_LEN:
        return Ruling(Reason.TOO_LARGE, "length")
    plain = normalise(answer)
    if compact(plain) == gold.plain:
        return _IDENTICAL
    # digits without their base: the question has named it
    if gold.kind is Kind.BASED and gold.node and compact(plain).upper() == gold.node[1]:
        return _IDENTICAL
    if gold.letters:
        ruling = _by_letters(plain, gold)
        if ruling:
            return ruling
    node = _read(plain, gold)
    if gold.kind is Kind.TEXT or (node is not None and node[0] == "text"):
        ruling = _by_words(plain, node, gold)
        if ruling:
            return ruling
    if (node is None) != (gold.node is None):
        return _UNREADABLE
    return _by_tree(node, plain, gold, same, "exact")


def _read(plain: str, gold: Gold) -> Node | None:
    """Read an answer; where the gold is a list, commas alone separate: `153,370` is no 153370."""
    if gold.kind in (Kind.LIST, Kind.SET) and BARE_GROUP.fullmatch(plain):
        return read(plain.replace(",", ", "))
    return read(plain)


def _by_letters(plain: str, gold: Gold) -> Ruling | None:
    """Settle the choice of one letter or of several."""
    named = letters(plain)
    if named is None and len(gold.letters) > 1:
        named = letter_run(plain)
    if not named:
        found = labelled(plain) or (remarked(plain) if len(gold.letters) == 1 else None)
        if found and lists_more(found[1]):
            return Ruling(Reason.HEDGED, "choice")
        named = (found[0],) if found else None
    if named is None:
        return None
    if sorted(named) == sorted(gold.letters):
        return Ruling(Reason.CORRECT, "choice")
    # the gold is also a value: `(B) 12` has its 12, and ABC may be a product
    if gold.kind is not Kind.CHOICE and gold.node is not None:
        return None
    hedged = len(gold.letters) == 1 < len(named) and " or" in plain
    return Ruling(Reason.HEDGED if hedged else Reason.WRONG, "choice")


def _by_words(plain: str, node: Node | None, gold: Gold) -> Ruling | None:
    """Settle texts, whose letters are no symbols."""
    said, wanted = words(plain), words(gold.plain)
    if said == wanted and (len(wanted) > 1 or node == gold.node):
        return Ruling(Reason.CORRECT, "text")
    if gold.node is None or (node is not None and node[0] == "text" and gold.kind is not Kind.TEXT):
        return None
    return _OTHER_TEXT if gold.node[0] == "text" else None


def _by_tree(node: Node | None, plain: str, gold: Gold, compare: Same, stage: str) -> Ruling | None:
    if node is None or gold.node is None:
        return None
    left_open = _left_open(node, gold.node)
    if left_open:
        return Ruling(Reason.UNEVALUATED, stage)
    try:
        verdict = equal(node, gold.node, compare)
    except _OUTCOMES:
        return None
    # nothing is solved in process: a worker may still find that the sets are the same
    if verdict is None or (verdict is False and compare is same and to_solve(gold.node)):
        return None
    if verdict:
        return Ruling(Reason.CORRECT, stage)
    if to_solve(node) and gold.kind in _LINES:
        return Ruling(Reason.UNEVALUATED, stage)
    # `(B) 12` against 12: the label is no part of the value.
    found = labelled(plain)
    if found and not gold.letters and not lists_more(found[1]) and (inner := read(found[1])):
        return _by_tree(inner, found[1], gold, compare, stage)
    if node[0] == "list" and node[2] == "or" and gold.node[0] not in ("list", "set"):
        return Ruling(Reason.HEDGED, stage)
    return Ruling(Reason.WRONG, stage)


def _left_open(node: Node, gold: Node) -> bool:
    """Say whether the answer leaves an operation to the reader that the gold has carried out."""
    if node[0] == "rel" and set(node[1]) <= {"=", "approx"}:
        node = node[2][-1]  # what a chain ends with is its answer
    kinds = features(node)
    if kinds & _LEFT_TO_DO and not features(gold) & _LEFT_TO_DO:
        return True
    # 1 + 2 + ... + n is a sum to carry out; 2, 4, 6, ... is a list
    if "..." in kinds and "+" in kinds and "..." not in features(gold):
        return True
    return "*" in kinds and gold[0] in ("n", "d") and _large_product(node)


def _large_product(node: Node) -> bool:
    for part in walk(node):
        if part[0] == "*":
            factors = [f for f in part[1] if f[0] == "n" and f[2] == 1]
            # 3 * 10^8 or 2 * 3 * 5 is a way to write a number; 123 * 456 is left to the reader.
            if sum(len(str(abs(f[1])).rstrip("0")) > 2 for f in factors) > 1:
                return True
    return False


def judge_slow(answer: str, gold: Gold) -> Ruling:
    """Return the ruling of the full comparison; to be run where it can be killed."""
    ruling = judge_fast(answer, gold)
    if ruling is not None:
        return ruling
    from rewards.equality.guard import too_large
    from rewards.equality.solve import same_solutions
    from rewards.equality.symbolic import Comparison
    from rewards.judging.math_verify_fallback import by_math_verify

    plain = normalise(answer)
    node = _read(plain, gold)
    if node is None:
        return by_math_verify(plain, gold)
    if too_large(node):
        return Ruling(Reason.TOO_LARGE, "guard")
    compare = Comparison()
    ruling = _by_tree(node, plain, gold, compare, "probe")
    if gold.node and to_solve(gold.node) and (ruling is None or ruling.reason is Reason.WRONG):
        verdict = same_solutions(node, gold.node)
        if verdict is not None:
            return Ruling(Reason.CORRECT if verdict else Reason.WRONG, "symbolic")
    if ruling is not None:
        return ruling._replace(stage=compare.stage)
    return by_math_verify(plain, gold)
