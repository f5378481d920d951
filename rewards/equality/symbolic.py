"""Settle with sympy what exact arithmetic and probes leave open or only suggest: worker only.

The difference of two scalars is simplified step by step, the cheapest step first, until it is zero
or a constant that is not. Work is bounded by the size of the expressions and by processor time, so
that an identity which sympy cannot show costs little and stays undecided.
"""

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from time import monotonic, process_time
from typing import TYPE_CHECKING, Any, cast

from rewards.equality.build import NotSymbolic, build
from rewards.equality.probe import counts, same_slow
from rewards.equality.scalar import literal, same, same_logs
from rewards.equality.simplify import hopeless, steps
from rewards.syntax.nodes import Node
from rewards.syntax.tree import features, symbols

if TYPE_CHECKING:
    from sympy import Expr

BUDGET_S = 0.12
"""Processor seconds of symbolic work per pair; a worker is killed after 1 s by default."""
STEP_S = 0.05
"""Processor seconds of one step: a hopeless one must leave time for those behind it."""
MAX_WALL_S = 0.4
"""Wall time after which no step is begun: on a busy machine it runs faster than processor time."""
MAX_OPERATIONS = 120
ZERO_DIGITS = 60


class TimeLeft:
    """The time that the steps of one comparison may still take."""

    def __init__(self, budget_s: float, step_s: float, wall_s: float):
        self.step_s = step_s
        self.deadline, self.wall_deadline = process_time() + budget_s, monotonic() + wall_s

    @classmethod
    def of_a_pair(cls) -> "TimeLeft":
        """Return the time for all comparisons of one pair."""
        return cls(BUDGET_S, STEP_S, MAX_WALL_S)

    def for_a_step(self) -> float:
        """Return the processor seconds that the next step may use; 0 ends the search."""
        if monotonic() > self.wall_deadline:
            return 0.0
        return max(0.0, min(self.step_s, self.deadline - process_time()))


class Comparison:
    """Compares scalars for one pair and remembers which stage its verdict rests on.

    Where probes differ the scalars are unequal. Where they agree sympy is asked to confirm; a
    difference that it shows overrules them. Where too few probes hold, sympy alone decides.
    """

    def __init__(self, left: TimeLeft | None = None):
        self.left = left
        self.by_symbols = self.by_probe = False
        self.known: dict[tuple[Node, Node], bool | None] = {}

    @property
    def stage(self) -> str:
        """The part that decided: probe where any equality rests on probes alone."""
        return "symbolic" if self.by_symbols and not self.by_probe else "probe"

    def __call__(self, a: Node, b: Node) -> bool | None:
        verdict = same(a, b)
        if verdict is not None:
            return verdict
        if (a, b) not in self.known:
            self.known[a, b] = self._compare(a, b)
        return self.known[a, b]

    def _compare(self, a: Node, b: Node) -> bool | None:
        probed = same_slow(a, b)
        # A decimal is equal by convention, up to its digits: sympy would only show a difference.
        if probed is False or _is_rounded(a, b):
            return probed
        confirmed = self._confirm(a, b)
        if confirmed is None:
            self.by_probe |= probed is True
            return probed
        self.by_symbols = True
        return confirmed

    def _confirm(self, a: Node, b: Node) -> bool | None:
        if "bare log" in features(a) | features(b):
            return same_logs(a, b, self._confirm)
        self.left = self.left or TimeLeft.of_a_pair()  # it runs from the first use on
        verdict = vanishes(a, b, self.left)
        return False if verdict is None and differs_at_a_point(a, b, self.left) else verdict


def _is_rounded(a: Node, b: Node) -> bool:
    """Say whether one is a decimal that may be equal by its digits, which is no identity."""
    return any(literal(node) and not symbols(other) for node, other in ((a, b), (b, a)))


def vanishes(a: Node, b: Node, left: TimeLeft) -> bool | None:
    """Say whether a - b is zero for every real value of the symbols, or for positive ones.

    Roots and logarithms need positive values; probes have looked at negative ones too. Formulas
    that count are compared for whole numbers.
    """
    # Real symbols first: as positive ones sympy would take sqrt(x^2) for x.
    domains = ("whole",) if counts(a) or counts(b) else ("real", "positive")
    for domain in domains if symbols(a) | symbols(b) else domains[:1]:
        try:
            with within(left.for_a_step()):
                difference = build(a, domain) - build(b, domain)
        except (OutOfTime, NotSymbolic, *hopeless()):
            return None
        verdict = is_zero(difference, left, force=domain == "positive")
        if verdict is not None:
            return verdict
    return None


def differs_at_a_point(a: Node, b: Node, left: TimeLeft) -> bool:
    """Say whether sympy's digits, more than the probes', show a real difference at one point."""
    counted = counts(a) or counts(b)
    try:
        with within(left.for_a_step()):
            difference = build(a) - build(b)
            # without symbols evalf can vouch for its digits
            value = cast("Expr", difference.xreplace(_point(difference, whole=counted)))
            real, imaginary = value.evalf(ZERO_DIGITS, maxn=4 * ZERO_DIGITS).as_real_imag()
            return _is_shown(real) and not _is_shown(imaginary)
    except (OutOfTime, NotSymbolic, *hopeless()):
        return False


def coprime(a: Node, b: Node) -> bool:
    """Say whether the numerators share no factor with a symbol; False where that stays open."""
    import sympy

    try:
        with within(STEP_S):
            numerators = (sympy.fraction(sympy.together(build(node)))[0] for node in (a, b))
            return not sympy.gcd(*(sympy.expand(part) for part in numerators)).free_symbols
    except (OutOfTime, NotSymbolic, *hopeless()):
        return False


def is_zero(difference: "Expr", left: TimeLeft, *, force: bool = False) -> bool | None:
    """Say whether the expression is zero everywhere; None when no step shows it in time.

    force: take every logarithm and power apart as for positive arguments.
    """
    # Most steps make a large expression larger first; the first two stay in proportion to it.
    large = difference.count_ops() > MAX_OPERATIONS
    for step in steps(bool(difference.free_symbols), force)[: 2 if large else None]:
        step_s = left.for_a_step()
        if not step_s:
            return None
        try:
            with within(step_s):
                verdict = _known(step(difference))
        except (OutOfTime, *hopeless()):
            continue
        else:
            if verdict is not None:
                return verdict
    return None


def _known(found: "Expr") -> bool | None:
    if found.is_zero:
        return True
    # f(x) and f(x + 1) are unrelated as long as f is unknown: each is a variable of its own.
    if found.has(_undefined()):
        return False if _differs(found) else None
    return False if found.is_number and _has_digits(found) else None


def _has_digits(number: "Expr") -> bool:
    """Say whether a constant is not zero by the digits that sympy vouches for."""
    # maxn: how far evalf raises its precision while digits cancel
    value = number.evalf(ZERO_DIGITS, maxn=4 * ZERO_DIGITS)
    return any(_is_shown(part) for part in value.as_real_imag())


def _is_shown(part: "Expr") -> bool:
    """Say whether a value is not zero; the precision of one bit marks digits that are noise."""
    return bool(part.is_number) and bool(part) and getattr(part, "_prec", 2) > 1


def _differs(found: "Expr") -> bool:
    """Say whether an expression in unknown functions, each call an unknown of its own, is not zero
    at some point."""
    import sympy

    calls = sorted(found.atoms(_undefined()), key=sympy.default_sort_key)
    found = cast("Expr", found.xreplace({call: sympy.Dummy() for call in calls}))
    return _has_digits(cast("Expr", found.xreplace(_point(found))))


def _point(found: "Expr", *, whole: bool = False) -> dict[Any, Any]:
    """Return values above 1 for the free symbols."""
    import sympy

    unknown = sorted(found.free_symbols, key=sympy.default_sort_key)
    return {
        symbol: sympy.Integer(k + 3) if whole else sympy.Rational(3 * k + 11, 7)
        for k, symbol in enumerate(unknown)
    }


@cache
def _undefined() -> Any:
    from sympy.core.function import AppliedUndef

    return AppliedUndef


class OutOfTime(BaseException):
    """A step has used up its time; sympy catches every Exception in places, so this is none."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise OutOfTime inside the block once it has used so many processor seconds.

    Only the main thread can be interrupted, which is where a worker judges. What sympy has cached
    is cleared then: an interrupted deduction leaves facts marked as unknown.
    """
    import_module("sympy")  # before the clock runs: an import cut short leaves half a package
    if seconds <= 0:
        raise OutOfTime
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    armed = True

    def ring(number: int, frame: object) -> None:
        if armed:  # the signal may arrive after the block has ended
            raise OutOfTime

    before = signal.signal(signal.SIGVTALRM, ring)
    # virtual: processor time of this process alone, whatever else the machine does
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    except OutOfTime:
        armed = False
        import_module("sympy.core.cache").clear_cache()
        raise
    finally:
        armed = False
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def rehearse(pairs: Iterable[tuple[Node, Node]]) -> None:
    """Take every step once without a limit, so that what sympy imports on demand is loaded."""
    for a, b in pairs:
        difference = build(a) - build(b)
        for step in steps(bool(difference.free_symbols), True):
            with suppress(*hopeless()):
                _known(step(difference))
