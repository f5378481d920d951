"""Compare scalar trees by their values at pseudo-random points, in high precision: worker only.

Two expressions are taken as equal when they agree to 60 digits wherever both are defined and real.
Nothing is evaluated before its size has been bounded in log space.
"""

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any
from zlib import crc32

from rewards.equality.approx import Point
from rewards.equality.exact import NotExact, TooLarge, Undefined, exact
from rewards.equality.guard import MAX_LOG
from rewards.equality.scalar import MIN_RIGHT_DIGITS, infinite, literal, rational, same, same_logs
from rewards.syntax.nodes import Node
from rewards.syntax.tree import features, symbols, walk

if TYPE_CHECKING:
    from mpmath.ctx_mp import MPContext


LOW_DIGITS, HIGH_DIGITS = 40, 80  # far apart: the gap of equal values shrinks by 40 digits
MAX_DIGITS = 30_000
REAL_POINTS, WHOLE_POINTS = 12, 20  # more than needed: roots and logarithms lose some points
MIN_AGREED = 3
MAX_TERMS = 400


def same_slow(a: Node, b: Node) -> bool | None:
    """Say whether the scalars are equal; None when too few points hold both."""
    verdict = same(a, b)
    if verdict is not None:
        return verdict
    kinds = features(a) | features(b)
    if "bare log" in kinds:
        return same_logs(a, b, same_slow)
    if infinite(a) or infinite(b) or "c:inf" in kinds:
        return None
    free = symbols(a) | symbols(b)
    if not free:
        verdict = _at_point(a, b, Point(0), True)
        return _rounds_in_high_precision(a, b) if verdict is False else verdict
    agreed = 0
    for point in _points(a, b):
        verdict = _at_point(a, b, point, "c:i" in kinds)
        if verdict is False:
            return False
        agreed += verdict is True
        # all of the usual points first; of the wide ones one is enough then
        if agreed >= MIN_AGREED and isinstance(point, WidePoint):
            break
    return True if agreed >= MIN_AGREED else None


def _rounds_in_high_precision(a: Node, b: Node) -> bool:
    """Say whether one is a literal of ten digits or more that agrees with the other to its step."""
    context = _context(HIGH_DIGITS)
    for node, other in ((a, b), (b, a)):
        shown = literal(node)
        if shown is None or shown.num_digits < MIN_RIGHT_DIGITS or "d" in features(other):
            continue
        value = Evaluator(context, Point(0)).value(other)
        gap = abs(value - context.mpf(shown.value.numerator) / shown.value.denominator)
        return bool(gap < context.mpf(shown.step.numerator) / shown.step.denominator)
    return False


class WholePoint(Point):
    """A point whose symbols are positive whole numbers, for counting formulas."""

    def value(self, name: str) -> float:
        """Return the symbol's value at this point."""
        return 2 + self.index + int(super().value(name) * 1e6) % 3


class WidePoint(Point):
    """A point far from zero whose symbols differ in sign and size, for narrow domains.

    So ln(x - 20) is defined at some, and so is the root of b^2 - 4ac.
    """

    def value(self, name: str) -> float:
        """Return the symbol's value: the same for the same name and index, in every process."""
        seed = crc32(name.encode(), 104_729 * (self.index + 1))
        return super().value(name) * (1 + seed // 2 % 60) * (-1 if seed % 2 else 1)


def _points(a: Node, b: Node) -> Iterator[Point]:
    if counts(a) or counts(b):
        yield from map(WholePoint, range(WHOLE_POINTS))
    else:
        yield from map(Point, range(REAL_POINTS))
        yield from map(WidePoint, range(REAL_POINTS))


def counts(node: Node) -> bool:
    """Say whether the tree reads as a formula in whole numbers."""
    kinds = features(node)
    if kinds & {"f:!", "f:!!", "f:binom", "big:sum", "big:prod", "f:floor", "f:ceil"}:
        return True
    return "^" in kinds and _alternates(node)


def _alternates(node: Node) -> bool:
    for part in walk(node):
        if part[0] == "^" and symbols(part[2]):
            base = rational(part[1])
            if not isinstance(base, str) and base < 0:
                return True
    return False


@cache
def _context(digits: int) -> "MPContext":
    import mpmath

    # a clone: a precision set on mpmath.mp itself would be everybody's
    context = mpmath.mp.clone()
    context.dps = digits
    return context


def _at_point(a: Node, b: Node, at: Point, keep_complex: bool) -> bool | None:
    """Compare at one point in two precisions; the gap of equal values shrinks with precision."""
    import mpmath

    gaps, size = [], None
    for digits in (LOW_DIGITS, HIGH_DIGITS):
        context = _context(digits)
        evaluator = Evaluator(context, at)
        at.nonreal = False
        try:
            left, right = evaluator.value(a), evaluator.value(b)
        except Undefined:
            return None if symbols(a) | symbols(b) else False
        except (NotExact, ValueError, ZeroDivisionError, OverflowError, TypeError):
            return None
        if at.nonreal and not keep_complex:
            return None
        # terms that large may cancel all the digits that are looked at
        if digits == HIGH_DIGITS and evaluator.largest > 10**20:
            return _at_scale(a, b, at, mpmath.mp.clone(), evaluator.largest)
        gaps.append(abs(left - right))
        size = max(abs(left), abs(right))
    if size != size or size == mpmath.inf:  # nan differs from itself
        return None
    # two values of 0 have no digits to agree in: there the gap must shrink with the precision
    low, high = gaps
    return bool(
        high <= size * mpmath.mpf(10) ** (20 - HIGH_DIGITS) or high < low * mpmath.mpf(10) ** -25
    )


def _at_scale(a: Node, b: Node, at: Point, context: Any, largest: Any) -> bool | None:
    """Compare with digits enough to see a one beside the largest term that was added."""
    context.dps = int(HIGH_DIGITS + 2.2 * float(context.log10(largest)))
    if context.dps > MAX_DIGITS:
        return None
    evaluator = Evaluator(context, at)
    left, right = evaluator.value(a), evaluator.value(b)
    size = max(abs(left), abs(right))
    return bool(abs(left - right) <= size * context.mpf(10) ** (20 - context.dps))


class Evaluator:
    """Values of trees in one mpmath context at one point."""

    def __init__(self, context: "MPContext", at: Point):
        self.mp: Any = context
        self.at = at
        self.bound: dict[str, Any] = {}
        self.steps = 0
        self.largest = context.mpf(0)

    def value(self, node: Node) -> Any:
        """Return the value of the tree; raises NotExact or its kin."""
        self.steps += 1
        # sums in sums multiply: MAX_TERMS terms of MAX_TERMS each
        if self.steps > 20_000:
            raise TooLarge
        tag = node[0]
        if tag in ("n", "d"):
            number = exact(node)
            return self.mp.mpf(number.numerator) / number.denominator
        if tag == "s":
            index = self.bound.get(node[1])
            return self.mp.mpf(self.at.value(node[1])) if index is None else index
        rule = getattr(self, _RULES.get(tag, ""), None)
        if rule is None:
            raise NotExact
        return rule(node)

    def constant(self, node: Node) -> Any:
        """Return pi, e or i to the context's digits."""
        if node[1] == "inf":
            raise NotExact
        # * 1: mpmath's constants have no precision until they are computed with
        return {"pi": self.mp.pi, "e": self.mp.e, "i": self.mp.j}[node[1]] * 1

    def sum(self, node: Node) -> Any:
        """Return the sum of the terms; the largest tells how many digits cancel."""
        total = self.mp.mpf(0)
        for term in node[1]:
            value = self.value(term)
            self.largest = max(self.largest, abs(value))
            total += value
        return total

    def product(self, node: Node) -> Any:
        """Return the product of the factors."""
        total = self.mp.mpf(1)
        for factor in node[1]:
            total *= self.value(factor)
        return total

    def quotient(self, node: Node) -> Any:
        """Return the value of a fraction."""
        return self.divide(self.value(node[1]), self.value(node[2]))

    def divide(self, top: Any, bottom: Any) -> Any:
        """Return top / bottom; a bottom that rounding alone keeps from 0 counts as 0."""
        if abs(bottom) < self.mp.mpf(10) ** (10 - self.mp.dps) * (1 + abs(top)):
            raise Undefined
        return top / bottom

    def negative(self, node: Node) -> Any:
        """Return the value with the other sign."""
        return -self.value(node[1])

    def unit(self, node: Node) -> Any:
        """Return the value of a quantity without its unit."""
        return self.value(node[1])

    def power(self, node: Node) -> Any:
        """Return the value of a power."""
        return self.raise_to(self.value(node[1]), self.value(node[2]))

    def raise_to(self, base: Any, exponent: Any) -> Any:
        """Return base ** exponent, principal value, when the result's size is within MAX_LOG."""
        if base == 0:
            if self.mp.re(exponent) <= 0:
                raise Undefined
            return base
        if abs(exponent) * (1 + abs(self.mp.log(abs(base)))) > MAX_LOG:
            raise TooLarge
        whole = self.mp.im(exponent) == 0 and self.mp.isint(self.mp.re(exponent))
        if whole:
            return base ** int(self.mp.re(exponent))
        if self.mp.im(base) == 0 and self.mp.re(base) < 0:
            self.at.nonreal = True
        return self.mp.power(base, exponent)

    def call(self, node: Node) -> Any:
        """Return the value of a named function, for arguments that it can take in time."""
        name, args = node[1], node[2]
        if name == "root":
            return self.root(self.value(args[0]), exact(args[1]))
        if name in ("ln", "log"):
            return self.logarithm([self.value(arg) for arg in args])
        if name in ("floor", "ceil"):
            return self.rounded(name, self.value(args[0]))
        rule = _FUNCTIONS.get(name)
        if rule is None:
            raise NotExact
        values = [self.value(arg) for arg in args]
        if any(abs(value) > 1e5 for value in values):
            raise TooLarge  # sin(1e30) or 1e6! would need as many digits
        try:
            value = rule(self.mp, *values)
        except (ValueError, ZeroDivisionError) as problem:
            raise Undefined from problem
        if self.mp.im(value) != 0 and all(self.mp.im(v) == 0 for v in values):
            self.at.nonreal = True
        return value

    def root(self, value: Any, degree: Any) -> Any:
        """Return the root of the given degree, real for a negative value and an odd degree."""
        if degree == 0:
            raise Undefined
        if self.mp.im(value) == 0 and value < 0 and degree.denominator == 1 and degree % 2:
            return -self.raise_to(-value, self.mp.mpf(1) / int(degree))
        power = self.mp.mpf(degree.denominator) / degree.numerator
        return self.raise_to(value, power) if value != 0 else value

    def logarithm(self, values: list[Any]) -> Any:
        """Return the natural logarithm, or the one to the base that is given second."""
        for value in values:
            if value == 0:
                raise Undefined
            if self.mp.im(value) != 0 or value < 0:
                self.at.nonreal = True
        top = self.mp.log(values[0])
        return self.divide(top, self.mp.log(values[1])) if len(values) == 2 else top

    def rounded(self, name: str, value: Any) -> Any:
        """Return the whole part; a value within rounding of a whole number is that number."""
        nearest = self.mp.nint(value)
        if abs(value - nearest) < self.mp.mpf(10) ** (15 - self.mp.dps) * (1 + abs(value)):
            return nearest
        return self.mp.floor(value) if name == "floor" else self.mp.ceil(value)

    def big(self, node: Node) -> Any:
        """Return a finite sum or product of at most MAX_TERMS terms."""
        name, parts = node[1], node[2]
        limits = {parts[k][1]: parts[k + 1] for k in range(0, len(parts) - 1, 2)}
        below = limits.get("_", ())
        if name not in ("sum", "prod") or len(below) != 3 or below[0] != "rel" or "^" not in limits:
            raise NotExact
        (symbol, start), body = below[2], parts[-1]
        first, last = self.value(start), self.value(limits["^"])
        if symbol[0] != "s" or not (self.mp.isint(first) and self.mp.isint(last)):
            raise NotExact
        if last - first > MAX_TERMS:
            raise TooLarge
        total = self.mp.mpf(0 if name == "sum" else 1)
        # an index may hide a symbol, or an outer index, of its name
        kept = self.bound.get(symbol[1])
        for k in range(int(first), int(last) + 1):
            self.bound[symbol[1]] = self.mp.mpf(k)
            term = self.value(body)
            total = total + term if name == "sum" else total * term
        self.bound.pop(symbol[1], None)
        if kept is not None:
            self.bound[symbol[1]] = kept
        return total


_RULES = {
    "c": "constant",
    "+": "sum",
    "*": "product",
    "/": "quotient",
    "-": "negative",
    "^": "power",
    "f": "call",
    "unit": "unit",
    "big": "big",
}
_FUNCTIONS = {
    "abs": lambda mp, x: abs(x),
    "!": lambda mp, x: mp.factorial(x),
    "!!": lambda mp, x: mp.fac2(x),
    "binom": lambda mp, n, k: mp.binomial(n, k),
    "exp": lambda mp, x: mp.exp(x),
    "max": lambda mp, *xs: max(xs),
    "min": lambda mp, *xs: min(xs),
    "Re": lambda mp, x: mp.re(x),
    "Im": lambda mp, x: mp.im(x),
    "sgn": lambda mp, x: mp.sign(x),
    "erf": lambda mp, x: mp.erf(x),
    "lg": lambda mp, x: mp.log10(x),
}
_CIRCULAR = ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh")
for _name in (*_CIRCULAR, "coth", "sech", "csch"):
    _FUNCTIONS[_name] = lambda mp, x, _name=_name: getattr(mp, _name)(x)
for _name in _CIRCULAR:
    _FUNCTIONS["arc" + _name] = lambda mp, x, _name=_name: getattr(mp, "a" + _name)(x)
_FUNCTIONS["arccot"] = lambda mp, x: mp.pi / 2 - mp.atan(x)  # from 0 to pi, as schools have it
