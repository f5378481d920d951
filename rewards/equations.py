"""Equations and inequalities: the names they give, the links they chain, when two are the same."""

from collections.abc import Callable
from itertools import pairwise

from rewards.approx import Point, approx
from rewards.exact import NotExact
from rewards.nodes import Node
from rewards.scalar import Same
from rewards.tree import ZERO, features, minus, rename, symbols

Match = Callable[[Node, Node, Same], bool | None]

_EQUALS = {"=", "==", "approx"}
_FLIP = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "!=": "!="}


def is_equation(node: Node) -> bool:
    """Say whether the node is an equation or a chain of them."""
    return node[0] == "rel" and set(node[1]) <= _EQUALS


def is_membership(node: Node) -> bool:
    """Say whether the node says that a name lies in a set."""
    return node[0] == "rel" and node[1] == ("in",) and is_name(node[2][0])


def is_name(node: Node) -> bool:
    """Say whether the node names a quantity, as x, f(x), AB, (a, b) or a word does."""
    tag = node[0]
    if tag in ("s", "text"):
        return True
    if tag == "f":
        return node[1].startswith("@") or (node[1] == "abs" and is_name(node[2][0]))
    if tag == "tuple":
        return all(item[0] == "s" for item in node[2])
    if tag == "list":
        return all(item[0] == "s" for item in node[1])
    if tag == "/":
        return all(part[0] == "*" and part[1][0] == ("s", "d") for part in node[1:])
    if tag == "*":
        first = node[1][0]
        if first[0] != "s" or not all(is_name(part) for part in node[1][1:]):
            return False
        called = len(node[1]) == 2 and node[1][1][0] in ("tuple", "list")
        return called or first[1][0].isupper() or first[1] in ("angle", "triangle")
    return False


def split_name(node: Node, same: Same, equal: Match) -> tuple[Node | None, Node | None]:
    """Return (name, value) of `name = ... = value`; value is None when a link does not hold.

    An equation without a name stays whole, as (None, equation).
    """
    if is_membership(node):
        return node[2][0], node[2][1]
    if not is_equation(node):
        return None, node
    operands = list(node[2])
    while len(operands) > 2 and operands[0][0] == operands[1][0] == "s":
        operands = operands[1:]
    name = None
    if is_name(operands[0]):
        name, operands = operands[0], operands[1:]
    elif len(operands) == 2 and is_name(operands[1]) and not symbols(operands[0]):
        name, operands = operands[1], operands[:1]
    elif any(symbols(operand) for operand in operands):
        return None, node
    for left, right in pairwise(operands):
        if equal(left, right, same) is not True:
            return name, None
    return name, operands[-1]


def compare_equations(a: Node, g: Node, same: Same, equal: Match) -> bool | None:
    """Compare where at least one side is an equation or names what it gives."""
    name, value = split_name(a, same, equal)
    gold_name, gold_value = split_name(g, same, equal)
    if value is None or gold_value is None:
        return False
    whole, gold_whole = is_equation(value), is_equation(gold_value)
    if not whole and not gold_whole:
        if name and gold_name and not _same_name(name, gold_name):
            return _same_equation(a, g, same) if symbols(value) else False
        verdict = equal(value, gold_value, same)
        if verdict is False and name and gold_name and symbols(value):
            return _same_equation(a, g, same)
        return verdict
    if is_equation(a) and is_equation(g):
        return _same_equation(a, g, same)
    return False


def _same_name(name: Node, gold_name: Node) -> bool:
    if name == gold_name or "text" in (name[0], gold_name[0]):
        return True
    call, graph = (name, gold_name) if name[0] == "f" else (gold_name, name)
    return graph == ("s", "y") and call[0] == "f" and call[2] == (("s", "x"),)


def _same_equation(a: Node, g: Node, same: Same) -> bool | None:
    if len(a[2]) != 2 or len(g[2]) != 2 or features(a) & {"tuple", "set", "text", "list"}:
        return None if a[1:] == g[1:] else False
    return proportional(minus(*a[2]), minus(*g[2]), same)


def proportional(a: Node, g: Node, same: Same) -> bool | None:
    """Say whether a = c g for a constant c, not 0: a(p) g(q) = a(q) g(p) for all p and q."""
    if same(a, ZERO) is not False or same(g, ZERO) is not False:
        return None
    if symbols(a) != symbols(g):
        return False
    return same(("*", (a, rename(g))), ("*", (rename(a), g)))


def compare_inequalities(a: Node, g: Node, same: Same, equal: Match) -> bool | None:
    """Compare inequalities that bound no single symbol, either way round."""
    if a[0] != "rel" or g[0] != "rel" or len(a[1]) != len(g[1]):
        return False
    if a[1] == g[1]:
        verdict = _all([equal(x, y, same) for x, y in zip(a[2], g[2], strict=True)])
        if verdict is not False:
            return verdict
    flipped = tuple(_FLIP.get(op, op) for op in reversed(a[1]))
    if flipped == g[1]:
        verdict = _all([equal(x, y, same) for x, y in zip(a[2][::-1], g[2], strict=True)])
        if verdict is not False:
            return verdict
    if len(a[1]) != 1 or len(a[2]) != 2 or a[1][0] not in _FLIP or g[1][0] not in _FLIP:
        return False
    left, right = minus(*a[2]), minus(*g[2])
    if a[1] != g[1]:
        left = ("-", left)
        if flipped != g[1]:
            return False
    return _positive_multiple(left, right, a[1][0] == "!=", same)


def _all(verdicts: list[bool | None]) -> bool | None:
    return False if False in verdicts else None if None in verdicts else True


def _positive_multiple(a: Node, g: Node, any_sign: bool, same: Same) -> bool | None:
    verdict = proportional(a, g, same)
    if verdict is not True or any_sign:
        return verdict
    try:
        ratio, _ = approx(("/", a, g), Point(0))
    except (NotExact, OverflowError, ValueError):
        return None
    return not isinstance(ratio, complex) and ratio > 0
