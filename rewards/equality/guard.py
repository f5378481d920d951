"""The cost guard: how large a constant is, found in log space before anything evaluates it."""

import math

from rewards.equality.approx import Point, approx
from rewards.equality.exact import NotExact, TooLarge, Undefined, exact, ln
from rewards.syntax.nodes import Node
from rewards.syntax.tree import symbols

MAX_LOG = 2e5  # e**200000 has 87,000 digits


def log_size(node: Node) -> tuple[int, float]:
    """Return (sign, ln |value|) of a constant that floats cannot hold; raises NotExact."""
    tag = node[0]
    if tag in ("n", "d"):
        value = exact(node)
        if value == 0:
            return 0, -math.inf
        return (1 if value > 0 else -1), ln(abs(value))
    if tag == "-":
        sign, size = log_size(node[1])
        return -sign, size
    if tag == "*":
        parts = [log_size(factor) for factor in node[1]]
        return math.prod(sign for sign, _ in parts), sum(size for _, size in parts)
    if tag == "/":
        (sign, size), (below, below_size) = log_size(node[1]), log_size(node[2])
        if below == 0:
            raise Undefined
        return sign * below, size - below_size
    if tag == "^":
        return _log_power(node)
    if tag == "f" and node[1] in ("!", "binom"):
        return _log_count(node)
    if tag == "+":
        return _log_sum(node)
    value, error = approx(node, Point(0))
    if isinstance(value, complex) or abs(value) <= 4 * error:
        raise NotExact
    return (1 if value > 0 else -1), math.log(abs(value))


def _log_power(node: Node) -> tuple[int, float]:
    sign, size = log_size(node[1])
    power_sign, power_size = log_size(node[2])
    if sign < 0:
        exponent = exact(node[2])
        if exponent.denominator != 1:
            raise NotExact
        sign = -1 if exponent % 2 else 1
    if sign == 0:
        raise NotExact
    exponent = math.exp(power_size) if power_size < 700 else math.inf  # exp overflows at 709.8
    if size == 0:
        return sign, 0.0
    return sign, size * power_sign * exponent


def _log_count(node: Node) -> tuple[int, float]:
    sizes = [log_size(arg) for arg in node[2]]
    if any(sign < 0 for sign, _ in sizes):
        raise NotExact
    counts = [math.exp(size) if size < 700 else math.inf for _, size in sizes]
    # lgamma overflows from 2.6e305 on
    if math.inf in counts or max(counts) > 1e300:
        if len(counts) == 2:
            raise TooLarge
        return 1, math.inf
    if len(counts) == 1:
        return 1, math.lgamma(counts[0] + 1)
    top, bottom = counts
    if bottom > top:
        raise NotExact
    return 1, math.lgamma(top + 1) - math.lgamma(bottom + 1) - math.lgamma(top - bottom + 1)


def _log_sum(node: Node) -> tuple[int, float]:
    parts = sorted((log_size(term) for term in node[1]), key=lambda part: part[1])
    largest = parts[-1][1]
    if math.isinf(largest):
        if len(parts) > 1 and math.isinf(parts[-2][1]) and parts[-2][1] > 0:
            raise TooLarge
        return parts[-1]
    # Beside the largest term, so that nothing overflows; e**-745 is the smallest float above 0.
    total = sum(sign * math.exp(max(size - largest, -745)) for sign, size in parts)
    if abs(total) < 1e-6:
        raise NotExact  # the largest terms cancel: their rounding is all that is left
    return (1 if total > 0 else -1), largest + math.log(abs(total))


def too_large(node: Node) -> bool:
    """Say whether a constant's value takes more digits than may be computed here."""
    if symbols(node):
        return False
    try:
        exact(node)
        return False
    except TooLarge:
        return True
    except NotExact:
        pass
    try:
        approx(node, Point(0))
    except OverflowError:
        try:
            return abs(log_size(node)[1]) > MAX_LOG
        except (NotExact, OverflowError, ValueError):
            return True
    except (NotExact, ValueError):
        return False
    return False
