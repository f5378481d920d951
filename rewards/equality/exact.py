"""Compute exact rational values of trees, refused before they grow: sizes are bounded in bits."""

import math
from fractions import Fraction

from rewards.syntax.nodes import Node

MAX_BITS = 20_000  # about 6,000 digits, multiplied in microseconds
MAX_FACTORIAL = 2_000


class NotExact(Exception):
    """The value is not a rational number that these rules can find."""


class TooLarge(NotExact):
    """The value would take more digits than the budget."""


class Undefined(NotExact):
    """The value does not exist, as 1/0."""


def exact(node: Node) -> Fraction:
    """Return the rational value of the tree; raises NotExact, TooLarge or Undefined."""
    tag = node[0]
    if tag == "n":
        if node[2] == 0:
            raise Undefined
        return Fraction(node[1], node[2])
    rule = _RULES.get(tag)
    if rule is None:
        raise NotExact
    value = rule(node)
    if value.numerator.bit_length() + value.denominator.bit_length() > 2 * MAX_BITS:
        raise TooLarge
    return value


def _sum(node: Node) -> Fraction:
    return sum((exact(term) for term in node[1]), Fraction(0))


def _product(node: Node) -> Fraction:
    value = Fraction(1)
    for factor in node[1]:
        value *= exact(factor)
        if value.numerator.bit_length() > 2 * MAX_BITS:
            raise TooLarge
    return value


def _quotient(node: Node) -> Fraction:
    bottom = exact(node[2])
    if bottom == 0:
        raise Undefined
    return exact(node[1]) / bottom


def _power(node: Node) -> Fraction:
    return power(exact(node[1]), exact(node[2]))


def power(base: Fraction, exponent: Fraction) -> Fraction:
    """Return base ** exponent where it is rational and within the budget of digits."""
    if exponent.denominator != 1:
        if base < 0:
            raise NotExact  # the principal root is complex
        base = root(base, exponent.denominator)
    times = exponent.numerator
    if base == 0:
        if times <= 0:
            raise Undefined
        return base
    if base in (1, -1):  # their powers never grow, however large the exponent
        return base if times % 2 else Fraction(1)
    bits = max(base.numerator.bit_length(), base.denominator.bit_length()) - 1
    if bits * abs(times) > MAX_BITS or abs(times) > MAX_BITS:
        raise TooLarge
    return base**times


def root(value: Fraction, degree: int) -> Fraction:
    """Return the rational root of the given degree of a value >= 0; raises NotExact without one."""
    if not 0 < degree <= 64:
        raise NotExact
    return Fraction(_whole_root(value.numerator, degree), _whole_root(value.denominator, degree))


def _whole_root(value: int, degree: int) -> int:
    if degree == 1 or value < 2:
        return value
    if degree == 2:
        found = math.isqrt(value)
    elif value.bit_length() > 1000:  # floats end at 2**1024
        raise NotExact
    else:
        found = round(value ** (1 / degree))
    if found**degree != value:
        raise NotExact
    return found


def _call(node: Node) -> Fraction:
    name, args = node[1], node[2]
    if name == "root":
        value, degree = exact(args[0]), exact(args[1])
        if degree.denominator != 1 or (value < 0 and degree % 2 == 0):
            raise NotExact
        return root(value, int(degree)) if value >= 0 else -root(-value, int(degree))
    if name not in _FUNCTIONS:
        raise NotExact
    return Fraction(_FUNCTIONS[name](*map(exact, args)))


def _natural(value: Fraction) -> int:
    if value.denominator != 1 or value < 0:
        raise NotExact
    return value.numerator


def _factorial(value: Fraction, step: int = 1) -> int:
    """Return n (n - step) (n - 2 step) ... down to the last factor above 0."""
    count = _natural(value)
    if count > MAX_FACTORIAL:
        raise TooLarge
    return math.factorial(count) if step == 1 else math.prod(range(count, 0, -step))


def _binomial(top: Fraction, bottom: Fraction) -> int:
    n, k = _natural(top), _natural(bottom)
    if k > n:
        return 0
    k = min(k, n - k)
    if k * (max(n, 2).bit_length() + 1) > MAX_BITS or k > MAX_FACTORIAL:
        raise TooLarge
    return math.comb(n, k)


def _remainder(value: Fraction, modulus: Fraction) -> Fraction:
    if modulus <= 0:
        raise NotExact
    return value % modulus


def ln(value: Fraction) -> float:
    """Return the natural logarithm of a value > 0 of any size: floats end at 1e308."""
    return math.log(value.numerator) - math.log(value.denominator)


def _logarithm(value: Fraction, base: Fraction | None = None) -> Fraction:
    if value == 1 and (base is None or base not in (0, 1)):
        return Fraction(0)
    if base is None or base <= 1 or value <= 0 or value.numerator.bit_length() > 2000:
        raise NotExact
    if ln(base) == 0:  # within a rounding of 1
        raise NotExact
    # Floats only guess the exponent; the powers of both sides prove it.
    guess = Fraction(ln(value) / ln(base)).limit_denominator(12)
    numerator, denominator = Fraction(guess.numerator), Fraction(guess.denominator)
    if abs(guess) > 2000 or power(base, numerator) != power(value, denominator):
        raise NotExact
    return guess


_FUNCTIONS = {
    "!": _factorial,
    "!!": lambda value: _factorial(value, 2),
    "binom": _binomial,
    "abs": abs,
    "floor": math.floor,
    "ceil": math.ceil,
    "rem": _remainder,
    "log": _logarithm,
    "max": lambda *values: max(values),
    "min": lambda *values: min(values),
}
_RULES = {
    "d": lambda node: Fraction(node[1], 10 ** node[2]),
    "+": _sum,
    "*": _product,
    "/": _quotient,
    "^": _power,
    "-": lambda node: -exact(node[1]),
    "unit": lambda node: exact(node[1]),
    "f": _call,
}
