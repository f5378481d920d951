"""Compute values in floats with a bound on the rounding error: cheap proof of inequality."""

import cmath
import math
from zlib import crc32

from rewards.equality.exact import NotExact, Undefined, exact
from rewards.syntax.nodes import Node

Number = float | complex

EPS = 2.3e-16  # a little more than the 2**-52 by which two floats near 1 differ
_CONSTANTS: dict[str, Number] = {"pi": math.pi, "e": math.e, "i": 1j}


class Point:
    """Values for the symbols of a tree; records whether a root or logarithm left the real line."""

    def __init__(self, index: int):
        self.index, self.nonreal = index, False

    def value(self, name: str) -> float:
        """Return the symbol's value: the same for the same name and index, in every process."""
        # hash() would differ between processes, and with it the verdict of a worker.
        seed = crc32(name.encode(), 7919 * (self.index + 1)) / 2**32
        if self.index % 3 == 2:  # negative, above 1, between 0 and 1: where formulas change branch
            return -0.3 - 2.4 * seed
        return 1.1 + 2.3 * seed if self.index % 3 == 0 else 0.15 + 0.8 * seed


def approx(node: Node, at: Point) -> tuple[Number, float]:
    """Return (value, error bound) of the tree at the point; raises NotExact or its kin.

    An OverflowError means that floats cannot hold the value.
    """
    tag = node[0]
    if tag == "n":
        if node[2] == 0:
            raise Undefined
        value = node[1] / node[2]
        return value, abs(value) * EPS
    if tag == "s":
        return at.value(node[1]), 0.0
    rule = _RULES.get(tag)
    if rule is None:
        raise NotExact
    value, error = rule(node, at)
    if not abs(value) < 1e290:  # also for nan; above it the error bounds would overflow
        raise OverflowError
    return value, error


def _decimal(node: Node, at: Point) -> tuple[Number, float]:
    value = node[1] / 10 ** node[2]
    return value, abs(value) * EPS


def _constant(node: Node, at: Point) -> tuple[Number, float]:
    if node[1] == "inf":
        raise NotExact
    return _CONSTANTS[node[1]], 3e-16


def _sum(node: Node, at: Point) -> tuple[Number, float]:
    total, error, largest = 0.0, 0.0, 0.0
    for term in node[1]:
        value, bound = approx(term, at)
        total, error = total + value, error + bound
        largest = max(largest, abs(value), abs(total))
    # an addition rounds by at most EPS of its partial sum
    return total, error + EPS * largest * len(node[1])


def _product(node: Node, at: Point) -> tuple[Number, float]:
    value, error = approx(node[1][0], at)
    for factor in node[1][1:]:
        other, bound = approx(factor, at)
        error = abs(value) * bound + abs(other) * error + bound * error
        value = value * other
        error += EPS * abs(value)
    return value, error


def _quotient(node: Node, at: Point) -> tuple[Number, float]:
    top, top_error = approx(node[1], at)
    bottom, bottom_error = approx(node[2], at)
    size = abs(bottom)
    if size == 0 and bottom_error == 0:
        raise Undefined
    if size <= 4 * bottom_error or size == 0:
        raise NotExact  # it may be 0
    value = top / bottom
    return value, (top_error + abs(value) * bottom_error) / (size - bottom_error) + EPS * abs(value)


def _negative(node: Node, at: Point) -> tuple[Number, float]:
    value, error = approx(node[1], at)
    return -value, error


def _power(node: Node, at: Point) -> tuple[Number, float]:
    base, error = approx(node[1], at)
    exponent, exponent_error = approx(node[2], at)
    return raise_to(base, error, exponent, exponent_error, at)


def raise_to(base: Number, error: float, exponent: Number, exponent_error: float, at: Point):
    """Return base ** exponent with its error bound; principal value off the positive line."""
    size = abs(base)
    if size == 0 and error == 0:
        if isinstance(exponent, complex) or exponent < 0:
            raise Undefined
        return float(exponent == 0), 0.0
    if size <= 4 * error:
        raise NotExact
    times = _whole(exponent, exponent_error)
    if not isinstance(base, complex) and base < 0 and times is None:
        at.nonreal = True
        base = complex(base)
    relative = abs(exponent) * error / (size - error) + EPS * (4 + abs(exponent) * 0.5)
    if times is None:
        value = base**exponent
        relative += abs(cmath.log(base)) * exponent_error
    else:
        value = base**times
    # the bound is of first order: 1.1 makes up for the rest only while it is small
    if relative > 0.01:
        raise NotExact
    return value, abs(value) * relative * 1.1


def _whole(exponent: Number, error: float) -> int | None:
    if isinstance(exponent, complex) or error > 1e-9 or abs(exponent) > 1e15:
        return None
    # above 2**53 every float is whole, which then says nothing
    return int(exponent) if exponent == int(exponent) else None


def _call(node: Node, at: Point) -> tuple[Number, float]:
    name, args = node[1], node[2]
    if name == "root":
        return _root(args, at)
    if name in ("ln", "log", "lg"):
        return _logarithm(args, at)
    # they jump, have several arguments or whole ones only: no slope bounds their error
    if name in _EXACT_ONLY:
        value = exact(node)
        return value.numerator / value.denominator, abs(float(value)) * EPS
    if name not in _FUNCTIONS or len(args) != 1:
        raise NotExact
    argument, error = approx(args[0], at)
    return _apply(name, argument, error, at)


def _apply(name: str, x: Number, error: float, at: Point) -> tuple[Number, float]:
    function, slope = _FUNCTIONS[name]
    if name == "abs":
        return abs(x), error
    if isinstance(x, complex):
        function = _COMPLEX.get(name)
        if function is None:
            raise NotExact
    try:
        value = function(x)
        steep = abs(slope(x))
    except ZeroDivisionError as problem:
        raise NotExact from problem
    except ValueError as problem:
        at.nonreal = True
        raise NotExact from problem
    if steep * error > 1e-3 * (1 + abs(value)):
        raise NotExact  # the slope at x says nothing about the ends of so wide an interval
    size = abs(value) + (abs(x) if name in _PERIODIC else 0)
    return value, 1.1 * steep * error + 4 * EPS * size


def _root(args: tuple[Node, ...], at: Point) -> tuple[Number, float]:
    degree = exact(args[1])
    value, error = approx(args[0], at)
    if value == 0 and error == 0:
        return 0.0, 0.0
    if not isinstance(value, complex) and value < 0 and degree % 2 == 1:  # real, as in school
        size, bound = raise_to(-value, error, float(1 / degree), 0.0, at)
        return -size, bound
    if degree == 0:
        raise Undefined
    return raise_to(value, error, float(1 / degree), 0.0, at)


def _logarithm(args: tuple[Node, ...], at: Point) -> tuple[Number, float]:
    value, error = approx(args[0], at)
    size = abs(value)
    if size <= 4 * error:
        raise NotExact
    if isinstance(value, complex) or value < 0:
        at.nonreal = True
    log = cmath.log(value) if isinstance(value, complex) or value < 0 else math.log(value)
    bound = 1.1 * error / (size - error) + EPS * (1 + abs(log))
    if len(args) == 1:
        return log, bound
    below, below_error = _logarithm((args[1],), at)
    if abs(below) <= 4 * below_error:
        raise Undefined
    result = log / below
    return result, 1.1 * (bound + abs(result) * below_error) / abs(below) + EPS * abs(result)


def _gamma(x: float) -> float:
    if x <= -1:
        raise ValueError("outside the domain")
    return math.gamma(x + 1)


_PERIODIC = {"sin", "cos", "tan", "cot", "sec", "csc"}
_EXACT_ONLY = {"!!", "floor", "ceil", "max", "min", "binom"}
_COMPLEX = {"sin": cmath.sin, "cos": cmath.cos, "tan": cmath.tan, "exp": cmath.exp}
_COMPLEX |= {"sinh": cmath.sinh, "cosh": cmath.cosh}
# each with a bound of its slope: |cos| <= 1 for a real sine, 2 / sqrt(pi) < 1.2 for erf
_FUNCTIONS = {
    "abs": (abs, lambda x: 1.0),
    "exp": (lambda x: math.exp(x), lambda x: cmath.exp(x)),
    "sin": (math.sin, lambda x: 1.0 if not isinstance(x, complex) else cmath.cos(x)),
    "cos": (math.cos, lambda x: 1.0 if not isinstance(x, complex) else cmath.sin(x)),
    "tan": (math.tan, lambda x: 1 + abs(cmath.tan(x)) ** 2),
    "cot": (lambda x: 1 / math.tan(x), lambda x: 1 / abs(cmath.sin(x)) ** 2),
    "sec": (lambda x: 1 / math.cos(x), lambda x: 1 / abs(cmath.cos(x)) ** 2),
    "csc": (lambda x: 1 / math.sin(x), lambda x: 1 / abs(cmath.sin(x)) ** 2),
    "sinh": (math.sinh, lambda x: cmath.cosh(x)),
    "cosh": (math.cosh, lambda x: 1 + abs(cmath.sinh(x))),
    "tanh": (math.tanh, lambda x: 1.0),
    "arctan": (math.atan, lambda x: 1.0),
    "arcsin": (math.asin, lambda x: 1 / math.sqrt(1 - x * x)),
    "arccos": (math.acos, lambda x: 1 / math.sqrt(1 - x * x)),
    "!": (_gamma, lambda x: 3 * _gamma(x) * (1 + math.log(2 + abs(x)))),
    "erf": (math.erf, lambda x: 1.2),
}
_RULES = {
    "d": _decimal,
    "c": _constant,
    "+": _sum,
    "*": _product,
    "/": _quotient,
    "-": _negative,
    "^": _power,
    "f": _call,
    "unit": lambda node, at: approx(node[1], at),
}
