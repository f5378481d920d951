"""Subsets of the real line as unions of intervals, read from brackets or inequalities."""

from collections.abc import Callable
from typing import NamedTuple

from rewards.equality.approx import Point, approx
from rewards.equality.exact import NotExact
from rewards.equality.scalar import Same, infinite
from rewards.syntax.nodes import Node
from rewards.syntax.tree import ZERO, choose_sign, features, symbols, walk

MAX_PARTS = 200
"""Nodes of a union; the work grows with their square."""
INF: Node = ("c", "inf")
MINUS_INF: Node = ("-", INF)


class Interval(NamedTuple):
    """The numbers from low to high; low_closed, high_closed: whether the end itself belongs."""

    low: Node
    low_closed: bool
    high: Node
    high_closed: bool


Line = tuple[Interval, ...]
WHOLE: Line = (Interval(MINUS_INF, False, INF, False),)


class NotALine(Exception):
    """The tree is no subset of the real line, or its ends cannot be ordered."""


def to_line(node: Node, same: Same) -> Line:
    """Return the tree as ordered disjoint intervals; raises NotALine."""
    if node[0] == "cup" and sum(1 for _ in walk(node)) > MAX_PARTS:
        raise NotALine  # every part is compared with its neighbours, at each level again
    match node:
        case ("tuple", ends, (low, high)):
            return _tidy((Interval(low, ends[0] == "[", high, ends[1] == "]"),), same)
        case ("rel", operators, operands):
            return _relation(operators, operands, same)
        case ("field", "R"):
            return WHOLE
        case ("set", items):
            return _tidy(tuple(Interval(item, True, item, True) for item in items), same)
        case ("such", ("rel", _, (*_, field)), _) if field != ("field", "R"):
            raise NotALine  # whole or complex numbers
        case ("such", member, ("rel", operators, operands)):
            name = member[2][0] if member[0] == "rel" else member
            return _relation(operators, operands, same, name)
        case ("such", _, condition):
            return to_line(condition, same)
        case ("cup", left, right):
            return _tidy(to_line(left, same) + to_line(right, same), same)
        case ("cap", left, right):
            return meet(to_line(left, same), to_line(right, same), same)
        case ("setminus", left, right):
            return meet(to_line(left, same), _complement(to_line(right, same)), same)
        case ("list", items, separator):
            return _list(items, separator, bounded_symbols(node), same)
    raise NotALine


def _list(items: tuple[Node, ...], separator: str, bounded: frozenset[str], same: Same) -> Line:
    """Return the union of items joined by "or" and of intervals, the intersection of conditions."""
    if any(item[0] not in ("rel", "tuple") for item in items) or len(bounded) > 1:
        raise NotALine
    lines = [to_line(item, same) for item in items]
    met = lines[0]
    if separator != "or" and all(item[0] == "rel" for item in items):
        for line in lines[1:]:
            met = meet(met, line, same)
        if met:  # conditions that exclude each other can only be meant as a union
            return met
    return _tidy(tuple(part for line in lines for part in line), same)


_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}


def bounded_symbols(node: Node) -> frozenset[str]:
    """Return the symbols that inequalities of the tree bound alone."""
    match node:
        case ("rel", operators, operands):
            for side in operands:
                if side[:2] == ("f", "abs") and len(operands) == 2:
                    return symbols(side)
            place = 0 if operators in (("in",), ("=",)) else variable(operators, operands)
            if place is not None and operands[place][0] == "s":
                return symbols(operands[place])
        case ("list", items, _):
            return frozenset().union(*map(bounded_symbols, items))
        case ("such", _, condition):
            return bounded_symbols(condition)
        case ("cup" | "cap" | "setminus", left, right):
            return bounded_symbols(left) | bounded_symbols(right)
    return frozenset()


def variable(
    ops: tuple[str, ...], operands: tuple[Node, ...], name: Node | None = None
) -> int | None:
    """Return the position of the one symbol that a chain of inequalities bounds, or None.

    name: the symbol, where a set names it; other symbols are then bounds.
    """
    if not all(op in _FLIPPED or op == "!=" for op in ops):
        return None
    if name in operands:
        operands = tuple(operand if operand == name else ZERO for operand in operands)
    places = [k for k, operand in enumerate(operands) if operand[0] == "s"]
    if len(places) != 1 or len(operands) > 3 or (len(operands) == 3 and places[0] != 1):
        return None
    return places[0]


def to_solve(gold: Node) -> bool:
    """Say whether a gold states a set by a condition in one unknown that is still to be solved."""
    tag = gold[0]
    if tag == "such":
        member, condition = gold[1], gold[2]
        named = member[0] == "s" or (member[0] == "rel" and member[1] == ("in",))
        return named and condition[0] == "rel" and not _is_solved(condition)
    if tag in ("cup", "cap", "setminus"):
        return to_solve(gold[1]) or to_solve(gold[2])
    if tag != "rel" or not set(gold[1]) <= _FLIPPED.keys() | {"!="}:
        return False
    return len(symbols(gold)) == 1 and not _is_solved(gold)


def _is_solved(relation: Node) -> bool:
    if any(side[0] == "s" for side in relation[2]) or len(symbols(relation)) != 1:
        return True
    return _absolute(relation[1], relation[2]) is not None


def _relation(
    ops: tuple[str, ...], operands: tuple[Node, ...], same: Same, name: Node | None = None
) -> Line:
    if ops == ("in",):
        return to_line(operands[1], same)
    if ops == ("=",) and operands[0][0] == "s":
        value = operands[1]
        signed = features(value) & {"pm", "mp"}
        both = (choose_sign(value, 1), choose_sign(value, -1)) if signed else (value,)
        return to_line(("set", both), same)
    absolute = _absolute(ops, operands)
    if absolute:
        return to_line(absolute, same)
    place = variable(ops, operands, name)
    if place is None:
        raise NotALine
    if ops == ("!=",):  # all reals but one
        return _complement(to_line(("set", (operands[1 - place],)), same))
    low, low_closed, high, high_closed = MINUS_INF, False, INF, False
    for k, op in enumerate(ops):
        bound, op = (operands[k + 1], op) if k == place else (operands[k], _FLIPPED.get(op, ""))
        if op in (">", ">="):
            low, low_closed = bound, op == ">="
        elif op in ("<", "<="):
            high, high_closed = bound, op == "<="
        else:
            raise NotALine
    return _tidy((Interval(low, low_closed, high, high_closed),), same)


def _absolute(ops: tuple[str, ...], operands: tuple[Node, ...]) -> Node | None:
    """Return `|x - c| < r` as an interval and `|x - c| > r` as two; None for anything else."""
    if len(ops) != 1 or ops[0] not in _FLIPPED:
        return None
    left, right, op = *operands, ops[0]
    if right[:2] == ("f", "abs"):
        left, right, op = right, left, _FLIPPED[op]
    match left:
        case ("f", "abs", (("s", _), *_)):
            centre = ZERO
        case ("f", "abs", (("+", (("s", _), shift)), *_)):
            centre = ("-", shift)
        case _:
            return None
    if symbols(centre) or symbols(right):
        return None
    low, high = ("+", (centre, ("-", right))), ("+", (centre, right))
    if op in ("<", "<="):
        return ("tuple", "[]" if op == "<=" else "()", (low, high))
    below = ("tuple", "(]" if op == ">=" else "()", (MINUS_INF, low))
    return ("cup", below, ("tuple", "[)" if op == ">=" else "()", (high, INF)))


def _position(node: Node) -> float:
    """Return an end's place on the line: floats only order the ends, `same` compares them."""
    sign = infinite(node)
    if sign:
        return sign * float("inf")
    if symbols(node):
        raise NotALine
    try:
        value, _ = approx(node, Point(0))
    except (NotExact, OverflowError, ValueError) as problem:
        raise NotALine from problem
    if isinstance(value, complex):
        raise NotALine
    return value


def _tidy(line: Line, same: Same) -> Line:
    """Return the intervals in order, overlapping ones merged, empty ones refused."""
    if len(line) == 1 and (symbols(line[0].low) or symbols(line[0].high)):
        return line  # (a, b) is an interval although nobody knows whether a < b
    placed = sorted(line, key=lambda part: (_position(part.low), not part.low_closed))
    merged: list[Interval] = []
    for part in placed:
        low, high = _position(part.low), _position(part.high)
        # An empty interval is a slip of the answer, not the empty set.
        if low > high or (low == high and not (part.low_closed and part.high_closed)):
            raise NotALine
        if not merged:
            merged.append(part)
            continue
        last = merged[-1]
        end = _position(last.high)
        # By `same` and not by floats: (0, sqrt 2) and [sqrt 2, 3) meet in one point.
        touching = same(part.low, last.high) is True
        if (touching and (part.low_closed or last.high_closed)) or (low < end and not touching):
            if touching or high > end:
                merged[-1] = last._replace(high=part.high, high_closed=part.high_closed)
            elif high == end and part.high_closed:
                merged[-1] = last._replace(high_closed=True)
        else:
            merged.append(part)
    return tuple(merged)


def _complement(line: Line) -> Line:
    parts, low, low_closed = [], MINUS_INF, False
    for part in line:
        if part.low != MINUS_INF:
            parts.append(Interval(low, low_closed, part.low, not part.low_closed))
        low, low_closed = part.high, not part.high_closed
    if low != INF:
        parts.append(Interval(low, low_closed, INF, False))
    return tuple(parts)


def meet(first: Line, second: Line, same: Same) -> Line:
    """Return the numbers that lie in both."""
    parts = []
    for a in first:
        for b in second:
            # The larger of the lower ends, the smaller of the upper ones.
            low, low_closed = _inner(a.low, a.low_closed, b.low, b.low_closed, same, max)
            high, high_closed = _inner(a.high, a.high_closed, b.high, b.high_closed, same, min)
            start, end = _position(low), _position(high)
            if start < end or (start == end and low_closed and high_closed):
                parts.append(Interval(low, low_closed, high, high_closed))
    return _tidy(tuple(parts), same)


def _inner(a: Node, a_closed: bool, b: Node, b_closed: bool, same: Same, pick: Callable):
    if same(a, b) is True:
        return a, a_closed and b_closed
    chosen = pick((_position(a), 0), (_position(b), 1))[1]
    return (b, b_closed) if chosen else (a, a_closed)


def same_line(a: Line, b: Line, same: Same) -> bool | None:
    """Say whether two unions of intervals are the same set."""
    if len(a) != len(b):
        return False
    unknown = False
    for left, right in zip(a, b, strict=True):
        if left.low_closed != right.low_closed or left.high_closed != right.high_closed:
            return False
        for x, y in ((left.low, right.low), (left.high, right.high)):
            verdict = same(x, y)
            if verdict is False:
                return False
            unknown = unknown or verdict is None
    return None if unknown else True
