"""Compare equations and inequalities: the names they give, the links they chain."""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

from rewards.equality.approx import Point, approx
from rewards.equality.exact import NotExact
from rewards.equality.rename import definition, replaced, with_arguments, with_constants
from rewards.equality.scalar import Same, both, literal
from rewards.equality.scalar import same as scalar_same
from rewards.syntax.nodes import Node
from rewards.syntax.tree import ZERO, calls, features, minus, rename, symbols

Match = Callable[[Node, Node, Same], bool | None]

_EQUALS = {"=", "==", "approx", "equiv"}
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


def names_value(node: Node) -> bool:
    """Say whether the left side of an equation is no number: it then names what stands behind."""
    return bool(symbols(node) or calls(node) or features(node) & {"text", "big"})


def gives_name(node: Node) -> bool:
    """Say whether a gold's left side names a quantity: a name, a ratio or a function of names."""
    tag = node[0]
    if is_name(node):
        return True
    if tag == "ratio":
        return all(is_name(part) for part in node[1])
    if tag == "/":
        return is_name(node[1]) and is_name(node[2])
    return tag == "f" and len(node[2]) == 1 and names_value(node) and gives_name(node[2][0])


def _left_to_solve(node: Node) -> bool:
    """Say whether the node is a x + b in one unknown x: the left side of an equation to solve."""
    free = symbols(node)
    return free <= {"x", "y", "z", "t"} and len(free) == 1 and not features(node) - _AFFINE


_AFFINE = {"n", "d", "s", "+", "-", "*", "/"}


class Value(NamedTuple):
    """What an equation gives. name: of the value, or None; value: None when a link is broken.

    rounded: the decimal that stands behind an exact value. sure: False while a link is undecided.
    """

    name: Node | None
    value: Node | None
    rounded: Node | None = None
    sure: bool = True


def split_name(node: Node, same: Same, equal: Match, *, bare: bool = False) -> Value:
    """Return what `name = ... = value` gives; an equation without a name stays whole.

    bare: the other side is no equation, so that any left side which is no number is a name.
    """
    if is_membership(node):
        return Value(node[2][0], node[2][1])
    if not is_equation(node):
        return Value(None, node)
    operands = list(node[2])
    while len(operands) > 2 and operands[0][0] == operands[1][0] == "s":  # a = b = 5
        operands = operands[1:]
    name = None
    if is_name(operands[0]):
        name, operands = operands[0], operands[1:]
    elif len(operands) == 2 and is_name(operands[1]) and not symbols(operands[0]):
        name, operands = operands[1], operands[:1]  # 5 = x
    elif gives_name(operands[0]) and not names_value(operands[-1]):
        name, operands = operands[0], operands[1:]
    elif bare and names_value(operands[0]) and not names_value(operands[-1]):
        if operands[-1] == ZERO or _left_to_solve(operands[0]):
            return Value(None, node)  # `2x + 1 = 5` names no value: it is still to be solved
        name, operands = operands[0], operands[1:]
    elif any(symbols(operand) for operand in operands) and not bare:
        return Value(None, node)
    if not names_value(operands[-1]):
        # The links with symbols are the derivation: `m + n = a + b = 17` gives 17.
        operands = [operand for operand in operands if not names_value(operand)]
    elif name is None and any(equal(x, y, same) is not True for x, y in pairwise(operands)):
        return Value(None, node)
    return _follow(name, operands, same, equal)


def _follow(name: Node | None, operands: list[Node], same: Same, equal: Match) -> Value:
    """Follow a chain of values from link to link."""
    value, rounded, sure = operands[0], None, True
    for following in operands[1:]:
        link = equal(value, following, same)
        if link is False:
            if rounds(following, value):
                rounded = following
            elif rounds(value, following):
                value, rounded = following, value
            else:
                return Value(name, None)
            continue
        sure = sure and link is not None
        if literal(following) is None or literal(value) is not None:
            value = _with_unit_of(value, following)
        elif link is None:
            rounded = following
    if rounded is not None and rounded[0] == "unit" and value[0] != "unit":
        value = ("unit", value, rounded[2])
    return Value(name, value, rounded, sure)


def _with_unit_of(value: Node, following: Node) -> Node:
    return ("unit", following, value[2]) if value[0] == "unit" != following[0] else following


def rounds(node: Node, value: Node) -> bool:
    """Say whether the node is a decimal that agrees with the constant value to its digits."""
    if node[0] == "unit":
        return rounds(node[1], value[1] if value[0] == "unit" else value)
    shown = literal(node)
    if shown is None or (literal(value) is not None and len(str(value)) <= len(str(node))):
        return False
    try:
        exact_value, error = approx(value[1] if value[0] == "unit" else value, Point(0))
    except (NotExact, OverflowError, ValueError):
        return False
    if isinstance(exact_value, complex):
        return False
    # One unit of the last place, not half of one: outputs cut digits as often as they round.
    return abs(float(shown.value) - exact_value) < float(shown.step) * 1.0000001 + error


def compare_equations(a: Node, g: Node, same: Same, equal: Match) -> bool | None:
    """Compare where at least one side is an equation or names what it gives."""
    bare = not is_equation(g) and not is_membership(g)
    found, gold = split_name(a, same, equal, bare=bare), split_name(g, same, equal)
    name, value, gold_name, gold_value = found.name, found.value, gold.name, gold.value
    if value is None or gold_value is None:
        return False
    whole, gold_whole = is_equation(value), is_equation(gold_value)
    if not whole and not gold_whole:
        defined, gold_defined = definition(name), definition(gold_name)
        if defined and gold_defined:
            if defined[0] != gold_defined[0]:
                return False
            return _same_definition(defined[1], value, gold_defined[1], gold_value, same, equal)
        if name and gold_name and not _same_name(name, gold_name):
            return _same_equation(a, g, same) if symbols(value) else False
        verdict = equal(value, gold_value, same)
        # y = 2x + C beside y = 2x + K, where the letter of the constant is free.
        if verdict is False and name and gold_name and symbols(value):
            if any(
                equal(x, gold_value, same) for x in with_constants(value, gold_value, anywhere=True)
            ):
                return True
            return _same_equation(a, g, same)
        if verdict is False and found.rounded is not None and gold_value[0] == "d":
            # `pi/6 = 0.524` meets the gold 0.524, which the exact value alone does not.
            verdict = found.rounded == gold_value and len(str(abs(gold_value[1]))) >= 3
        # In process an undecided link leaves the pair to a worker; there it is no broken link.
        return None if verdict and not found.sure and same is scalar_same else verdict
    if is_equation(a) and is_equation(g):
        return _same_equation(a, g, same)
    return False


def _same_definition(
    arguments: tuple[str, ...],
    value: Node,
    gold_arguments: tuple[str, ...],
    gold_value: Node,
    same: Same,
    equal: Match,
) -> bool | None:
    """Compare the right sides of two definitions of one function, arguments renamed."""
    if len(arguments) != len(gold_arguments):
        return False
    if (symbols(value) - set(arguments)) & (set(gold_arguments) - set(arguments)):
        return False  # f(y) = 1 - x is constant in y
    value = with_arguments(value, arguments, gold_arguments)
    verdict = equal(value, gold_value, same)
    if verdict is False:
        changed = with_constants(value, gold_value, anywhere=True)
        return any(equal(x, gold_value, same) is True for x in changed)
    return verdict


def _same_name(name: Node, gold_name: Node) -> bool:
    if name == gold_name or "text" in (name[0], gold_name[0]):
        return True
    call, graph = (name, gold_name) if name[0] == "f" else (gold_name, name)
    return graph == ("s", "y") and call[0] == "f" and call[2] == (("s", "x"),)


_NO_SIDES = {"tuple", "set", "text", "list", "matrix"}


def _same_equation(a: Node, g: Node, same: Same) -> bool | None:
    if len(a[2]) != 2 or len(g[2]) != 2 or (features(a) | features(g)) & _NO_SIDES:
        return None if a[1:] == g[1:] else False  # chains and structures are left to others
    left, right = minus(*a[2]), minus(*g[2])
    verdict = proportional(left, right, same)
    if verdict is not False or symbols(left) != symbols(right) or len(symbols(left)) < 2:
        return verdict
    if same is scalar_same:
        return None  # to solve them takes too long in process
    return _same_solution(left, right, same)


def proportional(a: Node, g: Node, same: Same) -> bool | None:
    """Say whether a = c g for a constant c, not 0: a(p) g(q) = a(q) g(p) for all p and q."""
    for side, other in ((a, g), (g, a)):
        trivial = same(side, ZERO)
        if trivial is not False:
            return False if trivial and same(other, ZERO) is False else None
    if symbols(a) != symbols(g):
        return False
    # The symbols of p and of q get different names, so that one comparison holds for every pair.
    return same(("*", (a, rename(g))), ("*", (rename(a), g)))


def _same_solution(a: Node, g: Node, same: Same) -> bool:
    """Say whether a = 0 and g = 0 have the same solution for a symbol in which both are linear.

    So `y = 3/x` is `xy = 3`, though the one is no multiple of the other. A zero that slope and
    start share, as x in `xy = x^3`, is a solution of its own.
    """
    from rewards.equality.symbolic import coprime

    for name in sorted(symbols(a)):
        line, gold_line = _line(a, name, same), _line(g, name, same)
        if line and gold_line:
            (slope, start), (gold_slope, gold_start) = line, gold_line
            if same(("*", (start, gold_slope)), ("*", (gold_start, slope))) is not True:
                return False
            return coprime(slope, start) and coprime(gold_slope, gold_start)
    return False


def _line(node: Node, name: str, same: Same) -> tuple[Node, Node] | None:
    """Return (slope, start) of a node that is start + slope * symbol; the slope is not 0."""
    symbol: Node = ("s", name)
    start = replaced(node, symbol, ZERO)
    slope = minus(replaced(node, symbol, ("n", 1, 1)), start)
    line = ("+", (start, ("*", (slope, symbol))))
    return (slope, start) if same(node, line) and same(slope, ZERO) is False else None


def compare_inequalities(a: Node, g: Node, same: Same, equal: Match) -> bool | None:
    """Compare inequalities that bound no single symbol, either way round."""
    if a[0] != "rel" or g[0] != "rel" or len(a[1]) != len(g[1]):
        return False
    if a[1] == g[1]:
        verdict = both([equal(x, y, same) for x, y in zip(a[2], g[2], strict=True)])
        if verdict is not False:
            return verdict
    flipped = tuple(_FLIP.get(op, op) for op in reversed(a[1]))
    if flipped == g[1]:
        verdict = both([equal(x, y, same) for x, y in zip(a[2][::-1], g[2], strict=True)])
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


def _positive_multiple(a: Node, g: Node, any_sign: bool, same: Same) -> bool | None:
    verdict = proportional(a, g, same)
    if verdict is not True or any_sign:
        return verdict
    try:
        ratio, _ = approx(("/", a, g), Point(0))
    except (NotExact, OverflowError, ValueError):
        return None
    return not isinstance(ratio, complex) and ratio > 0  # it is constant: one point tells its sign
