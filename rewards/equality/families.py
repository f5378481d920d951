"""Infinite families of numbers, as pi/2 + k pi for every integer k, compared by their members."""

from typing import NamedTuple

from rewards.equality.approx import Point, approx
from rewards.equality.exact import NotExact
from rewards.syntax.nodes import Node
from rewards.syntax.tree import rebuild, symbols

NEAR, FAR = 4, 24
_FIELDS = {"Z": range(-FAR, FAR + 1), "N": range(FAR + 1), "Z^+": range(1, FAR + 1)}
_FIELDS |= {"Z_+": range(1, FAR + 1), "N^*": range(1, FAR + 1), "Z_{+}": range(1, FAR + 1)}
_PARAMETERS = set("kmntlhj")


class Family(NamedTuple):
    """The values of the terms while the parameter runs through the field."""

    terms: tuple[Node, ...]
    parameter: str
    field: str


def as_family(node: Node, other: Node) -> Family | None:
    """Return the family that the node describes, or None; other is what it is compared with.

    A node that leaves out what its parameter runs through means the other's field, unless the other
    is a set.
    """
    family = _stated(node)
    if family:
        return family
    wanted = None if other[0] == "such" else _stated(other)
    term = _value(node)
    free = symbols(term)
    if wanted and len(free) == 1 and free <= _PARAMETERS and term[0] in ("*", "+", "/", "pm"):
        return Family(_flat((term,)), next(iter(free)), wanted.field)
    return None


class Stated(NamedTuple):
    """Terms of any kind, and what their parameter runs through."""

    terms: tuple[Node, ...]
    parameter: str
    field: str


def conditioned(node: Node) -> Stated | None:
    """Return the parts of `terms, parameter in field`; None for anything else."""
    if node[0] != "list" or len(node[1]) < 2:
        return None
    condition = node[1][-1]
    if condition[0] != "rel" or condition[1] != ("in",) or condition[2][0][0] != "s":
        return None
    field = condition[2][1]
    if field[0] != "field" or field[1] not in _FIELDS:
        return None
    terms = tuple(_value(term) for term in node[1][:-1])
    return Stated(terms, condition[2][0][1], field[1])


def _stated(node: Node) -> Family | None:
    if node[0] == "mod":
        return _congruence(node)
    if node[0] == "such":
        return _with_condition((node[1],), node[2])
    if node[0] == "list" and len(node[1]) > 1:
        return _with_condition(node[1][:-1], node[1][-1])
    return None


def _with_condition(terms: tuple[Node, ...], condition: Node) -> Family | None:
    if condition[0] != "rel" or condition[1] != ("in",) or condition[2][0][0] != "s":
        return None
    field = condition[2][1]
    parameter = condition[2][0][1]
    if field[0] != "field" or field[1] not in _FIELDS:
        return None
    terms = tuple(_value(term) for term in terms)
    if not any(parameter in symbols(term) for term in terms):
        return None
    return Family(_flat(terms), parameter, field[1])


def _flat(terms: tuple[Node, ...]) -> tuple[Node, ...]:
    from rewards.syntax.tree import choose_sign, features

    out: list[Node] = []
    for term in terms:
        if features(term) & {"pm", "mp"}:
            out += [choose_sign(term, 1), choose_sign(term, -1)]
        else:
            out.append(term)
    return tuple(out)


def _value(term: Node) -> Node:
    named = term[0] == "rel" and set(term[1]) <= {"=", "in"} and term[2][0][0] in ("s", "tuple")
    return term[2][-1] if named else term


def _congruence(node: Node) -> Family | None:
    inner, modulus = node[1], node[2]
    if inner[0] == "rel" and inner[1] in (("equiv",), ("=",)) and inner[2][0][0] == "s":
        inner = inner[2][1]
    items = inner[1] if inner[0] == "list" else (inner,)
    if modulus[0] != "n" or any(symbols(item) for item in items):
        return None
    step = ("*", (modulus, ("s", "k")))
    return Family(tuple(("+", (item, step)) for item in items), "k", "Z")


def same_family(a: Family, g: Family) -> bool | None:
    """Say whether each family holds the other's members near zero."""
    if a.field != g.field:
        return False
    try:
        return _covers(a, g) and _covers(g, a)
    except (NotExact, OverflowError, ValueError):
        return None


def _covers(a: Family, g: Family) -> bool:
    members = sorted(_members(a, _FIELDS[a.field]))
    return all(_near(members, value) for value in _members(g, range(-NEAR, NEAR + 1)))


def _members(family: Family, span: range) -> list[float]:
    if len(family.terms) > 12:
        raise NotExact
    allowed = _FIELDS[family.field]
    values = []
    for term in family.terms:
        for k in span:
            if k not in allowed:
                continue
            value, _ = approx(_put(term, family.parameter, k), Point(0))
            if isinstance(value, complex):
                raise NotExact
            values.append(value)
    return values


def _put(term: Node, parameter: str, value: int) -> Node:
    return rebuild(term, lambda part: ("n", value, 1) if part == ("s", parameter) else part)


def _near(members: list[float], value: float) -> bool:
    from bisect import bisect_left

    at = bisect_left(members, value)
    return any(abs(m - value) < 1e-9 * (1 + abs(value)) for m in members[max(at - 1, 0) : at + 1])
