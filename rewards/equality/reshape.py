"""Bring an answer's tree to the form of its gold's: points, whole numbers, signs, domains."""

import math
from itertools import product

from rewards.equality.equations import is_equation
from rewards.equality.exact import NotExact, exact
from rewards.equality.scalar import same as scalar_same
from rewards.equality.sets import INF, Interval, NotALine, meet, to_line
from rewards.syntax.nodes import Node, negative
from rewards.syntax.tree import choose_sign, features, symbols

SCALARS = {"n", "d", "s", "c", "+", "*", "/", "^", "-", "f", "pm", "mp", "big"}


_BOUNDS = {"<", ">", "<=", ">=", "!=", "in"}


def without_domain(node: Node) -> Node:
    """Return `2n+1` for `2n+1, n >= 1`: a formula, or the definition of a function, alone."""
    if node[0] != "list" or len(node[1]) != 2 or node[2] == "or":
        return node
    formula, bound = node[1]
    if bound[0] != "rel" or not set(bound[1]) <= _BOUNDS:
        return node
    # `x = 2, y > 0` are two conditions; only a formula or a definition has a domain.
    defined = is_equation(formula) and formula[2][0][:1] == ("f",)
    if not defined and formula[0] not in SCALARS:
        return node
    return formula if symbols(bound) and symbols(bound) <= symbols(formula) else node


def as_point(node: Node, other: Node) -> Node:
    """Return the coordinates of a named point, as P(1, 2), beside coordinates alone.

    Where both sides name every point, the names are kept and the points become equations.
    """
    if other[0] == "list" and node[0] == "list":
        named = [_named_point(item) for item in node[1]]
        if all(named) and all(_named_point(item) for item in other[1]):
            return (node[0], tuple(named), *node[2:])
        if all(item[0] == "tuple" for item in other[1]):
            return (node[0], tuple(as_point(item, other[1][0]) for item in node[1]), *node[2:])
        return node
    if other[0] != "tuple":
        return node
    match node:
        # P(1, 2) is a point, f(1, 2) a value
        case ("f", name, (_, _, *_)) if name[0] == "@" and name[1:2].isupper():
            return ("tuple", "()", node[2])
        case ("*", (("s", name), ("tuple", "()", places))) if name[0].isupper():
            return ("tuple", "()", places)
    return node


def _named_point(item: Node) -> Node | None:
    """Return `A(1, 2)` or `A = (1, 2)` as an equation; None for anything else."""
    match item:
        case ("rel", ("=",), (("s", _), ("tuple", *_))):
            return item
        case ("f", name, arguments) if name[0] == "@" and len(arguments) > 1:
            return ("rel", ("=",), (("s", name[1:]), ("tuple", "()", arguments)))
        case ("*", (("s", _), ("tuple", *_)) as parts):
            return ("rel", ("=",), parts)
    return None


MAX_WHOLE = 200  # members that are written out


def as_numbers(node: Node) -> Node:
    """Return `{x in Z : 0 <= x <= 2}` as the set of its numbers."""
    match node:
        case ("such", ("rel", ("in",), (name, ("field", field))), ("rel", operators, sides)):
            if field not in _WHOLE or name[0] != "s" or name not in sides:
                return node
        case _:
            return node
    try:
        line = to_line(("rel", operators, sides), scalar_same)
        least: Node = ("n", _WHOLE[field], 1)
        if field != "Z":
            line = meet(line, (Interval(least, True, INF, False),), scalar_same)
        ends = [exact(end) for part in line for end in (part.low, part.high)]
    except (NotALine, NotExact):
        return node
    found = []
    for k, part in enumerate(line):
        low, high = ends[2 * k], ends[2 * k + 1]
        first, last = math.ceil(low), math.floor(high)
        if last - first > MAX_WHOLE:
            return node
        found += [
            ("n", n, 1)
            for n in range(first, last + 1)
            if (n > low or part.low_closed) and (n < high or part.high_closed)
        ]
    return ("set", tuple(found))


_WHOLE = {"Z": 0, "N": 0, "Z^+": 1, "N^*": 1, "Z_+": 1}


def spread_signs(node: Node) -> Node:
    """Return the node with every plus-minus written out as two items."""
    if node[0] == "pm" and node[1][0] == "tuple":
        items = node[1][2]
        # The signs of a point go together: \pm(1, 2) is two points, not four.
        opposite = (*node[1][:2], tuple(negative(item) for item in items))
        return ("list", (node[1], opposite), "pm")
    if node[0] in ("tuple", "rel") and features(node) & {"pm", "mp"}:
        return ("list", tuple(_spread_item(node)), ",")
    if node[0] in SCALARS and features(node) & {"pm", "mp"}:
        return ("list", (choose_sign(node, 1), choose_sign(node, -1)), "pm")
    if node[0] in ("list", "set") and any(features(item) & {"pm", "mp"} for item in node[1]):
        items = tuple(part for item in node[1] for part in _spread_item(item))
        return (node[0], items, *node[2:])
    return node


MAX_SIGNED = 4


def _every_sign(point: Node) -> list[Node]:
    """Return the points of `(\\pm 1, \\pm 2)`, whose signs are chosen one by one."""
    choices = [
        (choose_sign(part, 1), choose_sign(part, -1)) if "pm" in features(part) else (part,)
        for part in point[2]
    ]
    return [(point[0], point[1], chosen) for chosen in product(*choices)]


def _spread_item(item: Node) -> list[Node]:
    if not features(item) & {"pm", "mp"}:
        return [item]
    if item[0] == "tuple":
        signed = [part for part in item[2] if "pm" in features(part)]
        # a minus-plus ties the signs together: then all are chosen at once
        if 1 < len(signed) <= MAX_SIGNED and "mp" not in features(item):
            return _every_sign(item)
        signs = [
            tuple(choose_sign(part, sign) if part[0] in SCALARS else part for part in item[2])
            for sign in (1, -1)
        ]
        return [(item[0], item[1], parts) for parts in signs]
    if item[0] == "rel":
        return [
            (item[0], item[1], tuple(choose_sign(part, sign) for part in item[2]))
            for sign in (1, -1)
        ]
    return [choose_sign(item, 1), choose_sign(item, -1)]
