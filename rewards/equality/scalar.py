"""Decide whether two scalar trees are equal, in microseconds and without doubt, or say None."""

import math
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from rewards.equality import residue
from rewards.equality.approx import Point, approx
from rewards.equality.exact import NotExact, TooLarge, Undefined, exact
from rewards.equality.guard import log_size
from rewards.syntax.nodes import Node
from rewards.syntax.tree import calls, features, read_log, symbols

Same = Callable[[Node, Node], bool | None]

MIN_RIGHT_DIGITS = 10
FLOAT_DIGITS, MAX_FLOAT_DIGITS = 15, 17
"""Significant digits with which a float is printed."""
# two units in the last place: the result of a short computation, not one rounding
FLOAT_ERROR = Fraction(2, 2**52)
POINTS = 6
"""Two of each kind that approx.Point draws from."""


@lru_cache(maxsize=8192)
def rational(node: Node) -> Fraction | str:
    """Return the exact value of the tree, or why there is none: "", "undefined" or "too large"."""
    try:
        return exact(node)
    except Undefined:
        return "undefined"
    except TooLarge:
        return "too large"
    except NotExact:
        return ""


def same(a: Node, b: Node) -> bool | None:
    """Say whether the scalars are equal; None when floats and residues cannot settle it."""
    if a == b:
        return rational(a) != "undefined"
    left, right = rational(a), rational(b)
    if "undefined" in (left, right):
        return False  # not even 1/0 is 1/0
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left == right or _rounds(a, left, b, right)
    kinds = features(a) | features(b)
    if "c:inf" in kinds:
        return infinite(a) != 0 and infinite(a) == infinite(b)
    if calls(a) != calls(b):
        return False
    if "bare log" in kinds:
        return same_logs(a, b, same)
    rounded = _rounded(a, b)
    if rounded is not None:
        return rounded
    if "big" in kinds:
        return None
    if not kinds <= _SCALAR_WORDS and kinds & _NO_SCALARS:
        return False if (kinds & _NO_SCALARS) - (features(a) & features(b)) else None
    return _by_value(a, b, "c:i" in kinds)


_NO_SCALARS = {"text", "tuple", "set", "list", "rel", "cup", "matrix", "field", "ratio", "..."}
_SCALAR_WORDS = {"n", "d", "s", "c", "+", "*", "/", "^", "-", "f", "unit"}


def same_logs(a: Node, b: Node, decide: Same) -> bool | None:
    """Compare with log read as natural, then as decimal: either is meant in some gold."""
    natural = decide(read_log(a, "e"), read_log(b, "e"))
    return natural if natural else either(natural, decide(read_log(a, "10"), read_log(b, "10")))


def either(first: bool | None, second: bool | None) -> bool | None:
    """Return True when one holds, False when both fail, None when it stays open."""
    if first or second:
        return True
    return None if first is None or second is None else False


def both(verdicts: list[bool | None]) -> bool | None:
    """Return True when all hold, False when one fails, None when it stays open."""
    return False if False in verdicts else None if None in verdicts else True


def infinite(node: Node) -> int:
    """Return the sign of a bare infinity, 0 for anything else."""
    if node == ("c", "inf"):
        return 1
    if node[0] == "-" and node[1] == ("c", "inf"):
        return -1
    return 0


class Literal(NamedTuple):
    """A decimal as it is written. step: the value of a one in its last place."""

    value: Fraction
    step: Fraction
    num_digits: int


def literal(node: Node) -> Literal | None:
    """Return what a decimal, or a decimal times a power of ten, shows; None for anything else."""
    if node[0] == "d":
        # such a literal has no float, and `rounds` needs one
        if abs(node[1]) >= 10**300 or node[2] > 300:
            return None
        step = Fraction(1, 10 ** node[2])
        return Literal(node[1] * step, step, len(str(abs(node[1]))))
    if node[0] == "-":
        shown = literal(node[1])
        return shown and Literal(-shown.value, shown.step, shown.num_digits)
    if node[0] == "*" and len(node[1]) == 2 and node[1][1][0] == "^":
        base, power = node[1][1][1:]
        if power[0] == "-" and power[1][0] == "n":
            power = ("n", -power[1][1], power[1][2])
        shown = literal(node[1][0])
        if shown and base == _TEN and power[0] == "n" and power[2] == 1 and abs(power[1]) <= 300:
            scale = Fraction(10) ** power[1]
            return Literal(shown.value * scale, shown.step * scale, shown.num_digits)
    return None


_TEN: Node = ("n", 10, 1)


def _rounds(a: Node, left: Fraction, b: Node, right: Fraction) -> bool:
    """Say whether one is a long decimal that rounds the other, or a float that holds the other."""
    for node, other, value in ((a, b, right), (b, a, left)):
        shown = literal(node)
        if shown is None or shown.num_digits < MIN_RIGHT_DIGITS:
            continue
        gap = abs(shown.value - value)
        if "d" not in features(other) and gap < shown.step:
            return True
        if shown.num_digits >= FLOAT_DIGITS and gap <= abs(value) * FLOAT_ERROR:
            return True
    return False


def _rounded(a: Node, b: Node) -> bool | None:
    """Decide between a decimal literal and an irrational constant; None when it is no such pair.

    A literal with all the digits that a float has may be off by the error of computing in floats.
    """
    for node, other in ((a, b), (b, a)):
        shown = literal(node)
        if shown is None or symbols(other) or literal(other):
            continue
        if shown.num_digits < MIN_RIGHT_DIGITS:
            return None  # 1.414 is not the root of 2: too few digits show that it is meant
        try:
            value, error = approx(other, Point(0))
        except (NotExact, OverflowError, ValueError):
            return None
        if isinstance(value, complex):
            return None
        gap = abs(shown.value - Fraction(value))  # exact: a float is a fraction
        if gap + Fraction(error) < shown.step:
            return True
        if gap > shown.step + 3 * Fraction(error):
            return False
        return True if FLOAT_DIGITS <= shown.num_digits <= MAX_FLOAT_DIGITS else None
    return None


def _by_value(a: Node, b: Node, imaginary: bool) -> bool | None:
    """Refute by floats, confirm by residues; residues alone settle quotients of polynomials."""
    free = symbols(a) | symbols(b)
    close = 0
    for index in range(POINTS if free else 1):
        verdict = compare_at(a, b, index, imaginary)
        if verdict is False:
            return False
        close += verdict is True
    polynomial = rational_form(a) and rational_form(b)
    # residues decide up to the branch of a root, which floats must have seen
    if close < (2 if free else 1) and not polynomial:
        return None
    try:
        agreed = residue.agree(a, b)
    except (NotExact, ValueError):
        return None
    # residues that differ prove nothing where functions or roots occur
    return agreed if agreed or polynomial else None


@lru_cache(maxsize=8192)
def rational_form(node: Node) -> bool:
    """Say whether the tree is a quotient of polynomials over the rationals."""
    tag = node[0]
    if tag in ("n", "d", "s"):
        return True
    if tag in ("+", "*"):
        return all(rational_form(part) for part in node[1])
    if tag == "/":
        return rational_form(node[1]) and rational_form(node[2])
    if tag == "-":
        return rational_form(node[1])
    if tag == "^":
        power = rational(node[2])
        return not isinstance(power, str) and power.denominator == 1 and rational_form(node[1])
    return tag == "f" and _counts_exactly(node[1], node[2])


def _counts_exactly(name: str, args: tuple[Node, ...]) -> bool:
    """Say whether a factorial is of a number, or a binomial coefficient a polynomial."""
    if name == "!":
        return not isinstance(rational(args[0]), str)
    return name == "binom" and rational_form(args[0]) and not isinstance(rational(args[1]), str)


def compare_at(a: Node, b: Node, index: int, imaginary: bool) -> bool | None:
    """Compare values at one point: False when they differ for sure, True when floats agree."""
    at = Point(index)
    try:
        left, left_error = approx(a, at)
        right, right_error = approx(b, at)
    except Undefined:
        return None if symbols(a) | symbols(b) else False
    except OverflowError:
        return None if symbols(a) | symbols(b) else _compare_sizes(a, b)
    except (NotExact, ValueError):
        return None
    # Off the real line two formulas may take different branches of one function: says nothing.
    if at.nonreal and not imaginary and (symbols(a) | symbols(b)):
        return None
    gap, size = abs(left - right), max(abs(left), abs(right))
    if gap > 4 * (left_error + right_error) + 1e-14 * size:  # four times for safety
        return False
    # values that agree within a wide bound are no evidence
    return True if left_error + right_error < 1e-7 * size else None


def _compare_sizes(a: Node, b: Node) -> bool | None:
    try:
        (sign, size), (other_sign, other_size) = log_size(a), log_size(b)
    except Undefined:
        return False
    except (NotExact, OverflowError, ValueError):
        return None
    if sign != other_sign:
        return False
    if math.isinf(size) and math.isinf(other_size):
        return None if size == other_size else False
    # True is as little a proof here as equal floats are: residues have to agree as well
    return abs(size - other_size) <= 1e-9 * (1 + abs(size))
