"""Compare an answer's tree with a gold's by kind; the scalars are left to a given function."""

from itertools import combinations

from rewards.equality.equations import (
    compare_equations,
    compare_inequalities,
    is_equation,
    is_membership,
    is_name,
)
from rewards.equality.exact import NotExact, TooLarge, exact
from rewards.equality.families import Stated, as_family, conditioned, moves, same_family
from rewards.equality.rename import replaced, with_constants, with_parameter
from rewards.equality.reshape import SCALARS, as_numbers, as_point, spread_signs, without_domain
from rewards.equality.scalar import Same, both
from rewards.equality.sets import NotALine, bounded_symbols, same_line, to_line
from rewards.syntax.nodes import Node
from rewards.syntax.tree import ZERO, features, symbols

MAX_ITEMS = 64
_LINES = {"tuple", "rel", "cup", "cap", "setminus", "field", "such", "list", "set"}


def equal(a: Node, g: Node, same: Same) -> bool | None:
    """Say whether answer a is the gold g; None when the given comparison of scalars cannot tell."""
    if a == g and a[0] != "rel":
        return same(a, g) if a[0] in SCALARS else True
    if a[0] in SCALARS and g[0] in SCALARS:
        return _scalars(a, g, same)
    if a[0] in ("list", "mod", "such") or g[0] in ("list", "mod", "such"):
        return _with_conditions(a, g, same)
    return _equations_or_plain(a, g, same)


def _with_conditions(a: Node, g: Node, same: Same) -> bool | None:
    """Compare where a side may say what its parameter or its variable runs through."""
    if a[0] == "mod" and g[0] == "n":
        return _residue_stated(a, g)
    stated, gold_stated = conditioned(a), conditioned(g)
    stated, gold_stated = stated or _like(a, gold_stated), gold_stated or _like(g, stated)
    if stated and gold_stated:
        terms = (*stated.terms, *gold_stated.terms)
        if stated.names or gold_stated.names or any(term[0] not in SCALARS for term in terms):
            return _same_structures(stated, gold_stated, same)
    family, gold_family = as_family(a, g), as_family(g, a)
    if family or gold_family:
        return same_family(family, gold_family, same) if family and gold_family else False
    bare, gold_bare = without_domain(a), without_domain(g)
    if bare is not a and gold_bare is g:
        return equal(bare, g, same)
    if gold_bare is not g and bare is a:
        return equal(a, gold_bare, same)
    return _equations_or_plain(a, g, same)


def _like(node: Node, other: Stated | None) -> Stated | None:
    """Return a tuple with one letter as a family over what the other's parameter runs through."""
    if other is None or node[0] != "tuple" or len(symbols(node)) != 1:
        return None
    return Stated((node,), next(iter(symbols(node))), other.field)


def _same_structures(a: Stated, g: Stated, same: Same) -> bool | None:
    """Compare tuples and intervals with one parameter each term by term, the parameter renamed, and
    shifted where it runs through all integers."""
    if a.field != g.field or len(a.terms) != len(g.terms):
        return False
    if a.names and g.names:
        if set(a.names) != set(g.names):
            return False
        a = a._replace(terms=tuple(a.terms[a.names.index(name)] for name in g.names))
    verdict: bool | None = False
    for moved in moves(g.parameter, a.field):
        terms = [replaced(term, ("s", a.parameter), moved) for term in a.terms]
        verdict = both([equal(x, y, same) for x, y in zip(terms, g.terms, strict=True)])
        if verdict is not False:
            break
    return verdict


def _equations_or_plain(a: Node, g: Node, same: Same) -> bool | None:
    if any(is_equation(node) or is_membership(node) for node in (a, g)):
        return compare_equations(a, g, same, equal)
    return _plain(a, g, same)


def _residue_stated(a: Node, g: Node) -> bool:
    """Say whether `N = r (mod m)` states the gold as its least residue; N = 17 must have it."""
    match a:
        case ("mod", ("rel", ("equiv",) | ("=",), (left, right)), ("n", modulus, 1)):
            least = right == g and g[2] == 1 and 0 <= g[1] < modulus
        case _:
            return False
    if not least or is_name(left):
        return False  # `x = 4 (mod 7)` is the solution of a congruence, not the number 4
    try:
        value = exact(left)
    except TooLarge:
        return True
    except NotExact:
        return bool(symbols(left))
    return value.denominator == 1 and (value - g[1]) % modulus == 0


def _scalars(a: Node, g: Node, same: Same) -> bool | None:
    if a[:2] == g[:2] == ("f", "cases"):
        return _unordered(("set", a[2]), ("set", g[2]), same)
    spread = spread_signs(a), spread_signs(g)
    if spread != (a, g):  # two values for one that has a plus-minus
        return _plain(*spread, same)
    verdict = same(a, g)
    if verdict is False and a[0] == g[0] == "+":
        others = with_constants(a, g, anywhere=False)
        return any(same(other, g) is True for other in others)
    return verdict


def peel(node: Node) -> tuple[Node, str | None]:
    """Return the node without its unit, and the unit's name."""
    return (node[1], node[2]) if node[0] == "unit" else (node, None)


def _plain(a: Node, g: Node, same: Same) -> bool | None:
    (a, unit), (g, gold_unit) = peel(a), peel(g)
    if unit != gold_unit:  # `5 m` where the gold is 5m with a symbol m
        a, unit = _letter_back(a, unit, g)
        g, gold_unit = _letter_back(g, gold_unit, a)
    if "%" in (unit, gold_unit):
        return _percent(a, unit, g, gold_unit, same)
    if unit and gold_unit and unit != gold_unit:
        return False
    if "deg" in (unit, gold_unit) and not (unit and gold_unit):
        bare, turned = (a, g) if gold_unit else (g, a)
        if "c:pi" in features(bare):  # radians, which nobody writes behind a number
            return same(bare, ("*", (turned, ("/", ("c", "pi"), ("n", 180, 1)))))
    a, g = spread_signs(as_numbers(as_point(a, g))), spread_signs(as_numbers(as_point(g, a)))
    kind, gold_kind = a[0], g[0]
    if kind in SCALARS and gold_kind in SCALARS:
        return _scalars(a, g, same)
    rule = _PAIRS.get((kind, gold_kind))
    if rule:
        return rule(a, g, same)
    if kind in _LINES and gold_kind in _LINES:
        return _as_lines(a, g, same)
    return _single(a, g, same)


def _letter_back(node: Node, unit: str | None, other: Node) -> tuple[Node, str | None]:
    """Read a letter, or its power, as a factor when the other side has it as a symbol."""
    letter, _, power = (unit or "").partition("^")
    if len(letter) != 1 or letter not in symbols(other):
        return node, unit
    symbol = ("s", letter)
    factor = ("^", symbol, ("n", int(power), 1)) if power.isdigit() else symbol
    return ("*", (node, factor)), None


def _percent(a: Node, unit: str | None, g: Node, gold_unit: str | None, same: Same) -> bool | None:
    if unit not in ("%", None) or gold_unit not in ("%", None):
        return False
    as_sign = equal(a, g, same)
    if unit == gold_unit or as_sign or a[0] not in SCALARS or g[0] not in SCALARS:
        return as_sign
    hundred = ("n", 100, 1)
    # 25% may be written 25 or 0.25: either is the same answer.
    as_factor = same(("/", a, hundred), g) if unit else same(a, ("/", g, hundred))
    return True if as_factor else None if None in (as_sign, as_factor) else False


def _in_order(left: tuple[Node, ...], right: tuple[Node, ...], same: Same) -> bool | None:
    if len(left) != len(right):
        return False
    unknown = False
    for x, y in zip(left, right, strict=True):
        verdict = equal(x, y, same)
        if verdict is False:
            return False
        unknown = unknown or verdict is None
    return None if unknown else True


def _items(node: Node) -> tuple[Node, ...]:
    return node[2] if node[0] == "tuple" else node[1]


def _tuples(a: Node, g: Node, same: Same) -> bool | None:
    if len(a[2]) == 2 and a[1] != g[1]:
        return False  # of two items it may be an interval, whose brackets say which ends belong
    verdict = _in_order(a[2], g[2], same)
    if verdict is False and (other := with_parameter(a, g)):
        return _in_order(other[2], g[2], same)
    return verdict


def _unordered(a: Node, g: Node, same: Same) -> bool | None:
    """Match the items one to one in any order."""
    left, right = _items(a), _items(g)
    endless = ("...",) in left or ("...",) in right
    if endless or max(len(left), len(right)) > MAX_ITEMS:  # every item meets every other one
        return _in_order(left, right, same)
    if "or" in a[2:] and len(left) > len(right):  # `x = 1 or x = 1` names one solution
        left = _distinct(left, same)
    if len(left) != len(right) and "set" in (a[0], g[0]):
        left, right = _distinct(left, same), _distinct(right, same)
    if len(left) != len(right):
        return False
    if _named(right) and not _named(left):
        return _in_order(left, right, same)  # 1, 2 for x = 1, y = 2
    open_items, unknown = list(left), False
    for wanted in right:
        verdicts = [equal(item, wanted, same) for item in open_items]
        if True in verdicts:  # the first match is as good as any: equality is transitive
            del open_items[verdicts.index(True)]
        elif None in verdicts:
            del open_items[verdicts.index(None)]
            unknown = True
        else:
            return False
    return None if unknown else True


def _named(items: tuple[Node, ...]) -> bool:
    names = {item[2][0] for item in items if item[0] == "rel" and is_name(item[2][0])}
    return len(names) == len(items)


def _distinct(items: tuple[Node, ...], same: Same) -> tuple[Node, ...]:
    kept: list[Node] = []
    for item in items:
        if not any(equal(item, other, same) for other in kept):
            kept.append(item)
    return tuple(kept)


def _parts_or_tuple(a: Node, g: Node, same: Same) -> bool | None:
    """Compare a tuple with a list: only parts given one by one, or named, have an order."""
    items = a if a[0] == "list" else g
    if items[2] == ";" or _named(items[1]):  # several boxes are joined by semicolons, in order
        return _in_order(_items(a), _items(g), same)
    if len(_items(a)) == 2:
        return _as_lines(a, g, same)
    return False


def _as_lines(a: Node, g: Node, same: Same) -> bool | None:
    # x > 2 is not y > 2, but (2, oo) bounds no symbol and meets both.
    bounded, gold_bounded = bounded_symbols(a), bounded_symbols(g)
    if bounded and gold_bounded and bounded != gold_bounded:
        return False
    try:
        left, right = to_line(a, same), to_line(g, same)
    except NotALine:
        return compare_inequalities(a, g, same, equal)
    return same_line(left, right, same)


def _matrices(a: Node, g: Node, same: Same) -> bool | None:
    if len(a[1]) != len(g[1]) or len(a[1][0]) != len(g[1][0]):
        return False
    rows = zip(a[1], g[1], strict=True)
    return both([_in_order(left, right, same) for left, right in rows])


def _vector(a: Node, g: Node, same: Same) -> bool | None:
    """Compare a tuple with a column or a row."""
    rows = a[1] if a[0] == "matrix" else g[1]
    if len(rows) > 1 and len(rows[0]) > 1:  # brackets of brackets, one for each row
        left, right = (
            node[1] if node[0] == "matrix" else tuple(r[2] for r in node[2] if r[0] == "tuple")
            for node in (a, g)
        )
        if len(left) != len(right):
            return False
        return both([_in_order(x, y, same) for x, y in zip(left, right, strict=True)])
    flat = tuple(row[0] for row in rows) if len(rows[0]) == 1 else rows[0]
    if len(flat) < 2:
        return False
    left, right = (flat if node[0] == "matrix" else node[2] for node in (a, g))
    return _in_order(left, right, same)


def _ratios(a: Node, g: Node, same: Same) -> bool | None:
    left, right = a[1], g[1]
    if len(left) != len(right):
        return False
    if len(left) > 8:  # the cross products are of all pairs
        return _in_order(left, right, same)
    pairs = list(zip(left, right, strict=True))
    verdicts = [
        same(("*", (x, y_gold)), ("*", (y, x_gold)))
        for (x, x_gold), (y, y_gold) in combinations(pairs, 2)
    ]
    nonzero = [same(x, ZERO) is False for x in left]  # 0:0 has every cross product right
    return both(verdicts) if any(nonzero) else False


def _as_ratio(time: Node) -> Node:
    return ("ratio", (("n", time[1], 1), ("n", time[2], 1)))


def _ratio_value(a: Node, g: Node, same: Same) -> bool | None:
    ratio, value = (a, g) if a[0] == "ratio" else (g, a)
    if len(ratio[1]) != 2 or value[0] != "/":
        return False
    return same(("/", *ratio[1]), value)


def _based(a: Node, g: Node, same: Same) -> bool | None:
    if a[2] == g[2]:
        return a[1] == g[1]
    left, right = in_base(a), in_base(g)
    return left is not None and left == right


def _implied_base(a: Node, g: Node, same: Same) -> bool | None:
    if g[0] == "based":
        return a[2] == 1 and str(a[1]) == g[1]
    return in_base(a) == g[1] and g[2] == 1


def in_base(node: Node) -> int | None:
    """Return the value of a based number, None when a digit does not belong to its base."""
    sign, digits, base = -1 if node[1][0] == "-" else 1, node[1].lstrip("-"), node[2]
    value = 0
    if abs(base) < 2 or len(digits) > 300:
        return None
    for digit in digits:  # int(digits, base) knows no negative base
        digit_value = int(digit, 36)
        if digit_value >= abs(base):
            return None
        value = value * base + digit_value
    return sign * value


def _single(a: Node, g: Node, same: Same) -> bool | None:
    """Compare a set of one value with that value; other pairs of kinds never match."""
    for node, other in ((a, g), (g, a)):
        several = node[0] == "set" or (node[0] == "list" and node[2] in ("or", ";"))
        if several and other[0] not in ("set", "list") and len(node[1]) <= MAX_ITEMS:
            items = _distinct(node[1], same)
            if len(items) == 1:
                return equal(items[0], other, same) if node is a else equal(other, items[0], same)
    return False


# What compares an answer with a gold, by the kinds of both; pairs that are missing never match.
_PAIRS = {
    **dict.fromkeys([(x, y) for x in ("list", "set") for y in ("list", "set")], _unordered),
    ("tuple", "tuple"): _tuples,
    ("list", "tuple"): _parts_or_tuple,
    ("tuple", "list"): _parts_or_tuple,
    ("matrix", "matrix"): _matrices,
    ("matrix", "tuple"): _vector,
    ("tuple", "matrix"): _vector,
    ("ratio", "ratio"): _ratios,
    **{("ratio", tag): _ratio_value for tag in SCALARS},
    **{(tag, "ratio"): _ratio_value for tag in SCALARS},
    ("time", "ratio"): lambda a, g, same: _ratios(_as_ratio(a), g, same),
    ("ratio", "time"): lambda a, g, same: _in_order(a[1], _as_ratio(g)[1], same),
    ("based", "based"): _based,
    ("based", "n"): _implied_base,
    ("n", "based"): _implied_base,
    **{(tag, tag): lambda a, g, same: a == g for tag in ("time", "text", "field")},
}
