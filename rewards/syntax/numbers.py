"""Number literals: decimals, recurring decimals, digit groups, mixed numbers."""

import re

from rewards.syntax.cursor import Cursor
from rewards.syntax.lexer import Unparsed
from rewards.syntax.nodes import Node

MAX_DIGITS = 4000  # int() of a text raises past 4,300 digits, and is quadratic up to there
_RECURRING = {"overline", "bar", "dot", "overbar"}


def number_node(value: str, recurring: str = "") -> Node:
    """Return the node of a number literal, with the recurring digits that follow it."""
    value = value.replace(",", "").replace(" ", "")
    if recurring:
        return _recurring(value, recurring)
    mantissa, _, exponent = value.lower().partition("e")
    whole, dot, decimals = mantissa.partition(".")
    if len(mantissa) > MAX_DIGITS:
        raise ValueError("a number of too many digits")
    if not dot and not exponent:
        return ("n", int(whole), 1)
    node = ("d", int((whole or "0") + decimals), len(decimals)) if dot else ("n", int(whole), 1)
    if not exponent:
        return node
    if len(exponent) > 12:
        raise ValueError("an exponent of too many digits")
    return ("*", (node, ("^", ("n", 10, 1), ("n", int(exponent), 1))))


def _recurring(value: str, digits: str) -> Node:
    whole, _, fixed = value.partition(".")
    if not digits.isdigit() or len(fixed) + len(digits) > 60:
        raise ValueError("a recurring decimal of too many digits")
    # 0.1666... = (16 - 1) / 90
    low, high = int(whole + fixed or "0"), int(whole + fixed + digits)
    return ("n", high - low, 10 ** len(fixed) * (10 ** len(digits) - 1))


_TAIL = re.compile(r"(\d*?)(\d+?)\2+$")


def fold_recurring(value: str) -> Node | None:
    """Return the fraction meant by `0.333...` or `0.1212...`; None when the digits do not recur."""
    whole, dot, decimals = value.partition(".")
    # 40: _TAIL tries every period behind every start
    if not dot or len(decimals) > 40:
        return None
    found = _TAIL.match(decimals)
    if not found or len(decimals) - len(found[1]) < 3 * (len(found[2]) == 1):
        return None  # one digit twice, as in 0.233..., is not yet a period
    return _recurring(f"{whole}.{found[1]}", found[2])


def mixed_number(factors: list[Node], factor: Node) -> Node | None:
    """Return the mixed number that a whole number and a proper fraction side by side stand for."""
    if len(factors) == 2 and factors[1][0] == "gap" and factors[0][0] == "n":
        whole, top, bottom = factors[0], factors[1][1], factor
    elif len(factors) == 1 and factor[0] == "/":
        whole, top, bottom = factors[0], factor[1], factor[2]
    else:
        return None
    if any(n[0] != "n" or n[2] != 1 or n[1] < 0 for n in (whole, top, bottom)):
        return None
    if not 0 < top[1] < bottom[1]:  # `3 \frac{5}{2}` is neither a mixed number nor a product
        raise ValueError("a whole number beside an improper fraction")
    return ("n", whole[1] * bottom[1] + top[1], bottom[1])


def number(parser: Cursor, value: str) -> Node:
    """Parse what belongs to a number: its base, or the recurring digits that follow."""
    if parser.peek.value == "_" and parser.peek.kind == "op":
        parser.next()
        base = parser.argument()
        if base[0] == "-" and base[1][0] == "n":
            base = ("n", -base[1][1], 1)
        if base[0] != "n" or not value.isdigit():
            raise Unparsed("a number with an index that is no base")
        return ("based", value, base[1])
    if parser.peek.value in _RECURRING and parser.peek.kind == "cmd":
        return _recurring_number(parser, value)
    if parser.peek.value == "...":
        whole = fold_recurring(value)
        if whole:
            parser.next()
            return whole
    return number_node(value)


def _recurring_number(parser: Cursor, value: str) -> Node:
    """Parse what follows the fixed digits of a recurring decimal."""
    digits = ""
    while True:
        if digits and parser.peek.kind == "num" and parser.look(1).value == "dot":
            digits += parser.next().value
        if parser.peek.kind != "cmd" or parser.peek.value not in _RECURRING:
            break
        parser.next()
        parser.accept("{")
        if parser.peek.kind != "num":
            raise Unparsed("a recurring decimal without digits")
        digits += parser.next().value
        parser.accept("}")
    return number_node(value, digits)
