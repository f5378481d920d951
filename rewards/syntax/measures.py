"""Parse the units behind a quantity: degree, percent and currency signs, letters and words."""

from rewards.syntax.cursor import Cursor
from rewards.syntax.lexer import Unparsed
from rewards.syntax.nodes import Node
from rewards.syntax.normalise import words
from rewards.syntax.units import CURRENCY_SIGNS, unit_name

_NO_UNITS = {"since", "because", "or", "and"}


def with_unit(parser: Cursor, node: Node) -> Node:
    """Parse the degree, percent or currency sign and the words that follow a quantity."""
    unit = None
    if parser.accept("deg"):
        unit = "deg"
        if parser.peek.kind == "sym" and parser.peek.value in "CF":
            unit += parser.next().value
    if parser.accept("%") or parser.accept("\\%"):
        unit = "%"
    if node[0] in ("n", "d"):
        if parser.accept("\\$"):
            unit = "dollar"
        elif parser.peek.kind == "cmd" and parser.peek.value in CURRENCY_SIGNS:
            unit = CURRENCY_SIGNS[parser.next().value]
        elif at_unit_letter(parser):
            unit = parser.next().value
            if parser.accept("^"):
                unit += f"^{parser.factor()[1]}"
    if parser.peek.kind == "text" and not parser.in_function:
        unit = unit_words(parser) or unit
    if unit is None:
        return node
    return ("unit", node[1] if node[0] == "unit" else node, unit)


def at_unit_letter(parser: Cursor) -> bool:
    """Say whether a letter behind a number is a unit: after a space, with nothing behind it."""
    kind, value, spaced = parser.peek
    if kind != "sym" or not spaced or value not in "msgLh":
        return False
    after = [parser.look(k).value for k in range(1, 6)]
    if value == "m" and after[0] == "^":  # square and cubic metres
        after = after[4:] if after[1] == "{" and after[3] == "}" else after[2:]
    return after[0] in ("", ",", ")")


def unit_words(parser: Cursor) -> str | None:
    """Return the name of the unit that the next words spell; stay put when they spell none."""
    parts, start = [], parser.at
    while parser.peek.kind == "text" or (parts and parser.peek.value in ("/", "^")):
        if parser.peek.kind == "text" and words(parser.peek.value) in _NO_UNITS:
            break
        token = parser.next()
        parts.append(token.value)
        if token.value == "^":
            power = parser.factor()
            parts.append(str(power[1]) if power[0] == "n" else "?")
    if parser.accept("("):
        raise Unparsed("a remark in brackets")  # `5 cm (not 6)`
    unit = unit_name(" ".join(parts).replace(" ^ ", "^")) if parts else None
    if unit is None:
        parser.move(start)
    return unit
