"""Compare infinite families of numbers, such as pi/2 + k pi for every integer k.

Members near zero refute in floats. Equality is proved: the terms of both are brought to the form
c + s k, whose members are cosets, or match term by term after a shift of the parameter.
"""

import math
from bisect import bisect_left
from fractions import Fraction
from itertools import product
from typing import NamedTuple

from rewards.equality.approx import Point, approx
from rewards.equality.exact import NotExact
from rewards.equality.rename import renamed
from rewards.equality.scalar import Same, rational
from rewards.syntax.nodes import Node
from rewards.syntax.tree import ZERO, choose_sign, features, minus, rebuild, symbols

NEAR, FAR = 4, 24
"""Members |k| <= NEAR of one family are looked for among |k| <= FAR of the other: the steps of two
writings of one family may differ by a factor of six."""
MAX_TERMS = 12
MAX_RATIO = 24
"""The largest denominator of a ratio of two steps that is looked for."""
MAX_SHIFT = 6
ONE: Node = ("n", 1, 1)
_FIELDS = {"Z": range(-FAR, FAR + 1), "N": range(FAR + 1), "Z^+": range(1, FAR + 1)}
_FIELDS |= {"Z_+": range(1, FAR + 1), "N^*": range(1, FAR + 1), "Z_{+}": range(1, FAR + 1)}
_PARAMETERS = set("kmntlhj")  # letters that stand for integers where nothing says so


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
    """Terms of any kind, and what their parameter runs through.

    names: the unknowns of a system, each given by one term; () where the terms are alternatives.
    """

    terms: tuple[Node, ...]
    parameter: str
    field: str
    names: tuple[str, ...] = ()


def conditioned(node: Node) -> Stated | None:
    """Return the parts of `terms, parameter in field`; None for anything else."""
    if node[0] != "list" or len(node[1]) < 2:
        return None
    runs, terms = _runs_through(node[1][-1]), node[1][:-1]
    return Stated(tuple(_value(term) for term in terms), *runs, unknowns(terms)) if runs else None


def unknowns(terms: tuple[Node, ...]) -> tuple[str, ...]:
    """Return the names of `x = ..., y = ...`, when each is given once and there are several."""
    named = [t[2][0][1] for t in terms if t[0] == "rel" and t[1] == ("=",) and t[2][0][0] == "s"]
    return tuple(named) if 1 < len(set(named)) == len(terms) else ()


def _runs_through(condition: Node) -> tuple[str, str] | None:
    """Return the parameter and the field of `parameter in field`."""
    match condition:
        case ("rel", ("in",), (("s", parameter), ("field", field))) if field in _FIELDS:
            return parameter, field
    return None


def _stated(node: Node) -> Family | None:
    if node[0] == "mod":
        return _congruence((node[1],), node[2])
    if node[0] == "such":
        if node[2][0] == "list":  # {x | x = k pi, k in Z}
            inner = _stated(node[2])
            named = all(term[0] == "rel" and term[2][0] == node[1] for term in node[2][1][:-1])
            return inner if named else None
        return _with_condition((node[1],), node[2])
    if node[0] == "list" and len(node[1]) > 1:
        last = node[1][-1]
        if last[0] == "mod":
            return _congruence((*node[1][:-1], last[1]), last[2])
        return _with_condition(node[1][:-1], last)
    return None


def _with_condition(terms: tuple[Node, ...], condition: Node) -> Family | None:
    runs = None if unknowns(terms) else _runs_through(condition)
    terms = tuple(_value(term) for term in terms)
    if runs is None or not any(runs[0] in symbols(term) for term in terms):
        return None
    return Family(_flat(terms), *runs)


def _flat(terms: tuple[Node, ...]) -> tuple[Node, ...]:
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


def _congruence(items: tuple[Node, ...], modulus: Node) -> Family | None:
    """Return the family of `x = a, b (mod m)`."""
    first = items[0]
    if first[0] == "rel" and first[1] in (("equiv",), ("=",)) and first[2][0][0] == "s":
        items = (first[2][1], *items[1:])
    if items[0][0] == "list":
        items = (*items[0][1], *items[1:])
    if modulus[0] != "n" or any(symbols(item) for item in items):
        return None
    step = ("*", (modulus, ("s", "k")))
    return Family(tuple(("+", (item, step)) for item in items), "k", "Z")


def same_family(a: Family, g: Family, same: Same) -> bool | None:
    """Say whether the families have the same members; None where no proof of equality is found."""
    if a.field != g.field:
        return False
    try:
        # both ways: one family may lie inside of the other
        if not (_covers(a, g) and _covers(g, a)):
            return False
    except (NotExact, OverflowError, ValueError):
        return None
    a, g = _without_alternation(a), _without_alternation(g)
    return True if _proved(a, g, same) and _proved(g, a, same) else None


def _covers(a: Family, g: Family) -> bool:
    members = sorted(_members(a, _FIELDS[a.field]))
    return all(_near(members, value) for value in _members(g, range(-NEAR, NEAR + 1)))


def _members(family: Family, span: range) -> list[float]:
    if len(family.terms) > MAX_TERMS:
        raise NotExact
    allowed = _FIELDS[family.field]
    return [
        real(put(term, family.parameter, ("n", k, 1)))
        for term in family.terms
        for k in span
        if k in allowed
    ]


def real(node: Node) -> float:
    """Return the value of a real constant in floats; raises NotExact or its kin."""
    ratio = rational(node)
    if not isinstance(ratio, str):
        return float(ratio)
    value, _ = approx(node, Point(0))
    if isinstance(value, complex):
        raise NotExact
    return value


def put(term: Node, parameter: str, value: Node) -> Node:
    """Return the scalar term with a value in the place of the parameter."""
    return rebuild(term, lambda part: value if part == ("s", parameter) else part)


def _near(members: list[float], value: float) -> bool:
    # the nearest member stands at this place or just before it
    at = bisect_left(members, value)
    return any(abs(m - value) < 1e-9 * (1 + abs(value)) for m in members[max(at - 1, 0) : at + 1])


def _without_alternation(family: Family) -> Family:
    """Return the family with (-1)^k written out as one term for even k and one for odd k."""
    alternating = ("^", ("-", ONE), ("s", family.parameter))
    signs = {alternating, ("^", ("n", -1, 1), ("s", family.parameter))}
    if family.field != "Z":
        return family
    terms = []
    for term in family.terms:
        if not signs & set(_scalar_parts(term)):
            terms.append(term)
            continue
        # (-1)^k is not affine in k, but constant on the even and on the odd k
        double = ("*", (("n", 2, 1), ("s", family.parameter)))
        for sign, place in ((1, double), (-1, ("+", (double, ONE)))):
            chosen = rebuild(term, lambda part, s=sign: ("n", s, 1) if part in signs else part)
            terms.append(put(chosen, family.parameter, place))
    return family._replace(terms=tuple(terms))


def _scalar_parts(term: Node) -> list[Node]:
    found: list[Node] = []
    # rebuild visits scalar parts alone, as the replacement of signs does
    rebuild(term, lambda part: (found.append(part), part)[1])
    return found


def _proved(a: Family, g: Family, same: Same) -> bool:
    """Say whether every member of g is proved to be one of a."""
    if len(a.terms) > MAX_TERMS or len(g.terms) > MAX_TERMS:
        return False
    cosets = [_affine(term, a.parameter, same) for term in a.terms]
    for term in g.terms:
        coset = _affine(term, g.parameter, same)
        # Families over N begin somewhere: their cosets would not, so only equal terms count.
        if a.field == "Z" and coset and _in_cosets(coset, [c for c in cosets if c], same):
            continue
        moved = renamed(term, g.parameter, a.parameter)
        if not any(_shifted(other, moved, a.parameter, a.field, same) for other in a.terms):
            return False
    return True


def _affine(term: Node, parameter: str, same: Same) -> tuple[Node, Node] | None:
    """Return (c, s) of a term that is c + s k for every k; s is not 0."""
    start = put(term, parameter, ZERO)
    step = minus(put(term, parameter, ONE), start)
    line = ("+", (start, ("*", (step, ("s", parameter)))))
    return (start, step) if same(term, line) and same(step, ZERO) is False else None


def _in_cosets(coset: tuple[Node, Node], others: list[tuple[Node, Node]], same: Same) -> bool:
    """Say whether c + s k lies in one of the others for every k: k counts modulo a number only."""
    first, stride = coset
    period = 1
    usable: list[tuple[Node, Node]] = []
    for other_start, other_step in others:
        # Floats only guess the ratio of the steps; `same` proves it.
        ratio = Fraction(real(stride) / real(other_step)).limit_denominator(MAX_RATIO)
        ratio_node = ("n", ratio.numerator, ratio.denominator)
        if ratio and same(stride, ("*", (ratio_node, other_step))):
            period = math.lcm(period, ratio.denominator)
            usable.append((other_start, other_step))
    if period > MAX_RATIO:
        return False
    for k in range(period):
        member = ("+", (first, ("*", (("n", k, 1), stride))))
        if not any(_is_member(member, start, step, same) for start, step in usable):
            return False
    return True


def _is_member(value: Node, start: Node, step: Node, same: Same) -> bool:
    # floats only guess which member it would be
    times = round((real(value) - real(start)) / real(step))
    return same(value, ("+", (start, ("*", (("n", times, 1), step))))) is True


def _shifted(term: Node, wanted: Node, parameter: str, field: str, same: Same) -> bool:
    """Say whether the term becomes the wanted one when k is shifted or turned round."""
    return any(
        same(put(term, parameter, moved), wanted) is True for moved in moves(parameter, field)
    )


def moves(parameter: str, field: str) -> list[Node]:
    """Return the parameters, as k + 2 or 1 - k, that run through the same field as k."""
    k: Node = ("s", parameter)
    if field != "Z":
        return [k]
    # Small shifts first: they are the usual ones.
    shifts = sorted(range(-MAX_SHIFT, MAX_SHIFT + 1), key=abs)
    return [("+", (sign, ("n", m, 1))) for m, sign in product(shifts, (k, ("-", k)))]
