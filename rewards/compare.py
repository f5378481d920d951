"""Compare an answer's tree with a gold's by kind; scalars are left to the function that is given."""

from collections.abc import Callable

from rewards.families import Family, as_family, same_family
from rewards.sets import NotALine, to_line, same_line
from rewards.tree import ZERO, choose_sign, features, minus, rename, symbols

Node = tuple
Same = Callable[[Node, Node], bool | None]

MAX_ITEMS = 64
SCALARS = {"n", "d", "s", "c", "+", "*", "/", "^", "-", "f", "pm", "mp", "big"}
_LINES = {"tuple", "rel", "cup", "cap", "setminus", "field", "such", "list", "set"}
_EQUALS = {"=", "==", "approx"}


def both(verdicts: list[bool | None]) -> bool | None:
    """Return True when all hold, False when one fails, None when it stays open."""
    if False in verdicts:
        return False
    return None if None in verdicts else True


def equal(a: Node, g: Node, same: Same) -> bool | None:
    """Say whether answer a is the gold g; None when the given comparison of scalars cannot tell."""
    if a == g and a[0] != "rel":
        return same(a, g) if a[0] in SCALARS else True
    family, gold_family = as_family(a, g), as_family(g, a)
    if family or gold_family:
        if family and gold_family:
            return same_family(family, gold_family)
        return _list_of_families(family, gold_family)
    if "=" in _relation_ops(a) or "=" in _relation_ops(g) or _has_name(a) or _has_name(g):
        return _with_equations(a, g, same)
    return _plain(a, g, same)


def _list_of_families(a: Family | None, g: Family | None) -> bool | None:
    return False


def _relation_ops(node: Node) -> set[str]:
    if node[0] != "rel":
        return set()
    return {"="} if set(node[1]) <= _EQUALS else set()


def _has_name(node: Node) -> bool:
    return node[0] == "rel" and node[1] == ("in",) and is_name(node[2][0])


# Equations


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
    if tag == "*":
        first = node[1][0]
        plain = all(part[0] == "s" for part in node[1])
        return plain and (first[1][0].isupper() or first[1] in ("angle", "triangle"))
    return False


def split_name(node: Node, same: Same) -> tuple[Node | None, Node | None]:
    """Return (name, value) of `name = ... = value`; value is None when a link does not hold.

    An equation without a name stays whole, as (None, equation).
    """
    if _has_name(node):
        return node[2][0], node[2][1]
    if not _relation_ops(node):
        return None, node
    operands = list(node[2])
    name = None
    if is_name(operands[0]):
        name, operands = operands[0], operands[1:]
    elif len(operands) == 2 and is_name(operands[1]) and not symbols(operands[0]):
        name, operands = operands[1], operands[:1]
    elif any(symbols(operand) for operand in operands):
        return None, node
    for left, right in zip(operands, operands[1:], strict=False):
        if equal(left, right, same) is not True:
            return name, None
    return name, operands[-1]


def _with_equations(a: Node, g: Node, same: Same) -> bool | None:
    name, value = split_name(a, same)
    gold_name, gold_value = split_name(g, same)
    if value is None or gold_value is None:
        return False
    whole, gold_whole = bool(_relation_ops(value)), bool(_relation_ops(gold_value))
    if not whole and not gold_whole:
        if name and gold_name and not _same_name(name, gold_name):
            return _same_equation(a, g, same) if symbols(value) else False
        verdict = equal(value, gold_value, same)
        if verdict is False and name and gold_name and symbols(value):
            return _same_equation(a, g, same)
        return verdict
    if _relation_ops(a) and _relation_ops(g):
        return _same_equation(a, g, same)
    return False


def _same_name(name: Node, gold_name: Node) -> bool:
    return name == gold_name or "text" in (name[0], gold_name[0])


def _same_equation(a: Node, g: Node, same: Same) -> bool | None:
    if len(a[2]) != 2 or len(g[2]) != 2 or features(a) & {"tuple", "set", "text", "list"}:
        return None if a[1:] == g[1:] else False
    return proportional(minus(*a[2]), minus(*g[2]), same)


def proportional(a: Node, g: Node, same: Same) -> bool | None:
    """Say whether a = c g for a constant c that is not 0: a(p) g(q) = a(q) g(p) for free p and q."""
    if same(a, ZERO) is not False or same(g, ZERO) is not False:
        return None
    if symbols(a) != symbols(g):
        return False
    return same(("*", (a, rename(g))), ("*", (rename(a), g)))


# Everything else


def peel(node: Node) -> tuple[Node, str | None]:
    """Return the node without its unit, and the unit's name."""
    return (node[1], node[2]) if node[0] == "unit" else (node, None)


def _plain(a: Node, g: Node, same: Same) -> bool | None:
    (a, unit), (g, gold_unit) = peel(a), peel(g)
    if "%" in (unit, gold_unit):
        return _percent(a, unit, g, gold_unit, same)
    if unit and gold_unit and unit != gold_unit:
        return False
    if "deg" in (unit, gold_unit) and not (unit and gold_unit):
        bare, turned = (a, g) if gold_unit else (g, a)
        if "c:pi" in features(bare):
            return same(bare, ("*", (turned, ("/", ("c", "pi"), ("n", 180, 1)))))
    a, g = _spread(a), _spread(g)
    kind, gold_kind = a[0], g[0]
    if kind in SCALARS and gold_kind in SCALARS:
        return same(a, g)
    rule = _PAIRS.get((kind, gold_kind))
    if rule:
        return rule(a, g, same)
    if kind in _LINES and gold_kind in _LINES:
        return _as_lines(a, g, same)
    return _single(a, g, same)


def _percent(a: Node, unit: str | None, g: Node, gold_unit: str | None, same: Same) -> bool | None:
    if unit not in ("%", None) or gold_unit not in ("%", None):
        return False
    as_sign = equal(a, g, same)
    if unit == gold_unit or as_sign or a[0] not in SCALARS or g[0] not in SCALARS:
        return as_sign
    hundred = ("n", 100, 1)
    as_factor = same(("/", a, hundred), g) if unit else same(a, ("/", g, hundred))
    return True if as_factor else None if None in (as_sign, as_factor) else False


def _spread(node: Node) -> Node:
    """Return the node with every plus-minus written out as two items."""
    if node[0] in SCALARS and features(node) & {"pm", "mp"}:
        return ("list", (choose_sign(node, 1), choose_sign(node, -1)), "pm")
    if node[0] in ("list", "set") and any(features(item) & {"pm", "mp"} for item in node[1]):
        items = []
        for item in node[1]:
            spread = _spread_item(item)
            items.extend(spread)
        return (node[0], tuple(items), *node[2:])
    return node


def _spread_item(item: Node) -> list[Node]:
    if not features(item) & {"pm", "mp"}:
        return [item]
    if item[0] == "tuple":
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


def _ordered(a: Node, g: Node, same: Same) -> bool | None:
    return _in_order(_items(a), _items(g), same)


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
    if len(a[2]) == 2 and a[1] != g[1] and {a[1], g[1]} != {"()", "[]"}:
        return False
    if len(a[2]) == 2 and a[1] != g[1]:
        return False
    return _ordered(a, g, same)


def _unordered(a: Node, g: Node, same: Same) -> bool | None:
    """Match the items one to one in any order."""
    left, right = _items(a), _items(g)
    if ("...",) in left or ("...",) in right:
        return _in_order(left, right, same)
    if "or" in a[2:] and len(left) > len(right):
        left = _distinct(left, same)
    if len(left) != len(right) and "set" in (a[0], g[0]):
        left, right = _distinct(left, same), _distinct(right, same)
    if len(left) != len(right):
        return False
    if len(left) > MAX_ITEMS:
        return _in_order(left, right, same)
    if _named(right) and not _named(left):
        return _in_order(left, right, same)
    open_items, unknown = list(left), False
    for wanted in right:
        verdicts = [equal(item, wanted, same) for item in open_items]
        if True in verdicts:
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
    for item in items[:MAX_ITEMS]:
        if not any(equal(item, other, same) for other in kept):
            kept.append(item)
    return tuple(kept)


def _parts_or_tuple(a: Node, g: Node, same: Same) -> bool | None:
    """Compare a tuple with a list: only parts given one by one, or named, have an order."""
    items = a if a[0] == "list" else g
    if items[2] == ";" or _named(items[1]):
        return _ordered(a, g, same)
    if len(a[1] if a[0] == "list" else a[2]) == 2:
        return _as_lines(a, g, same)
    return False


def _as_lines(a: Node, g: Node, same: Same) -> bool | None:
    try:
        left, right = to_line(a, same), to_line(g, same)
    except NotALine:
        return _relations(a, g, same)
    return same_line(left, right, same)


_FLIP = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "!=": "!="}


def _relations(a: Node, g: Node, same: Same) -> bool | None:
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
    from rewards.approx import Point, approx
    from rewards.exact import NotExact

    try:
        ratio, _ = approx(("/", a, g), Point(0))
    except (NotExact, OverflowError, ValueError):
        return None
    return not isinstance(ratio, complex) and ratio > 0


def _matrices(a: Node, g: Node, same: Same) -> bool | None:
    if len(a[1]) != len(g[1]) or len(a[1][0]) != len(g[1][0]):
        return False
    rows = zip(a[1], g[1], strict=True)
    return both([_in_order(left, right, same) for left, right in rows])


def _vector(a: Node, g: Node, same: Same) -> bool | None:
    """Compare a tuple with a column or a row."""
    matrix, point = (a, g) if a[0] == "matrix" else (g, a)
    rows = matrix[1]
    flat = tuple(row[0] for row in rows) if len(rows[0]) == 1 else rows[0]
    if (len(rows) > 1 and len(rows[0]) > 1) or len(flat) < 2:
        return False
    return _in_order(flat, point[2], same) if a[0] == "matrix" else _in_order(point[2], flat, same)


def _ratios(a: Node, g: Node, same: Same) -> bool | None:
    left, right = a[1], g[1]
    if len(left) != len(right):
        return False
    verdicts = [
        same(("*", (left[0], y)), ("*", (x, right[0])))
        for x, y in zip(left[1:], right[1:], strict=True)
    ]
    return both(verdicts)


def _ratio_value(a: Node, g: Node, same: Same) -> bool | None:
    ratio, value = (a, g) if a[0] == "ratio" else (g, a)
    if len(ratio[1]) != 2 or value[0] != "/":
        return False
    return same(("/", *ratio[1]), value)


def _based(a: Node, g: Node, same: Same) -> bool | None:
    if a[2] == g[2]:
        return a[1].lstrip("0") == g[1].lstrip("0")
    left, right = in_base(a), in_base(g)
    return left is not None and left == right


def _implied_base(a: Node, g: Node, same: Same) -> bool | None:
    if g[0] == "based":
        return a[2] == 1 and str(a[1]) == g[1].lstrip("0")
    return in_base(a) == g[1] and g[2] == 1


def in_base(node: Node) -> int | None:
    """Return the value of a based number, None when a digit does not belong to its base."""
    digits, base = node[1], node[2]
    value = 0
    if abs(base) < 2 or len(digits) > 300:
        return None
    for digit in digits:
        digit_value = int(digit, 36)
        if digit_value >= abs(base):
            return None
        value = value * base + digit_value
    return value


def _single(a: Node, g: Node, same: Same) -> bool | None:
    """Compare a set of one item with that item; other pairs of kinds never match."""
    for node, other in ((a, g), (g, a)):
        if node[0] in ("set", "list") and other[0] not in ("set", "list"):
            items = node[1]
            if len(items) > 1:
                items = _distinct(items, same)
            if len(items) == 1 and node[0] == "set" or node[0] == "list" and len(items) == 1:
                return equal(items[0], other, same) if node is a else equal(other, items[0], same)
    return False


def _texts(a: Node, g: Node, same: Same) -> bool | None:
    return a[1] == g[1]


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
    ("based", "based"): _based,
    ("based", "n"): _implied_base,
    ("n", "based"): _implied_base,
    ("text", "text"): _texts,
    ("field", "field"): lambda a, g, same: a == g,
}
