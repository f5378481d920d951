"""The simplifications that show a difference to be zero, in order of cost: worker only."""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sympy import Expr

Step = Callable[["Expr"], "Expr"]


@cache
def steps(with_symbols: bool, force: bool) -> tuple[Step, ...]:
    """Return the simplifications for constants, or for expressions with symbols.

    force: take every logarithm and power apart as for positive arguments.
    """
    import sympy

    def in_logarithms(difference: Any) -> Any:
        # arsinh x is ln(x + sqrt(x^2 + 1)), and only logarithms can be combined
        arcs = (sympy.asinh, sympy.acosh, sympy.atanh)
        apart = sympy.expand_log(difference.rewrite(arcs, sympy.log), force=force)
        return sympy.logcombine(sympy.expand(apart), force=force)

    def in_powers(difference: Any) -> Any:
        return sympy.powsimp(sympy.expand(sympy.powdenest(difference, force=force)), force=force)

    # trigsimp sees through constant angles in 20 ms; in exponentials they need three times as long.
    if not with_symbols:
        return (
            *(_done, sympy.expand, sympy.trigsimp, _in_radicals, _as_algebraic, in_logarithms),
            *(_in_parts, _as_angle, in_powers, sympy.combsimp, _in_exponentials, sympy.simplify),
        )
    # In exponentials every identity of circular functions is one of fractions: before trigsimp.
    return (
        *(_done, sympy.expand, sympy.cancel, _in_exponentials, sympy.combsimp, in_powers),
        *(in_logarithms, sympy.trigsimp, _in_radicals, _by_derivatives, sympy.simplify),
    )


@cache
def hopeless() -> tuple[type[Exception], ...]:
    """Return what sympy raises where an algorithm does not apply; the next step may."""
    from sympy.polys.polyerrors import BasePolynomialError

    return (
        *(BasePolynomialError, ArithmeticError, AttributeError, LookupError, AssertionError),
        *(NotImplementedError, RecursionError, TypeError, ValueError),
    )


def _done(difference: Any) -> Any:
    """Carry out sums and products; write the larger of two numbers with their distance."""
    import sympy

    done = difference.doit()
    return done.rewrite(sympy.Abs) if done.has(sympy.Max, sympy.Min) else done


def _in_radicals(difference: Any) -> Any:
    import sympy

    factored = difference.replace(_is_root, lambda root: sympy.factor(root.base) ** root.exp)
    return sympy.expand(sympy.radsimp(sympy.sqrtdenest(factored)))


def _in_exponentials(difference: Any) -> Any:
    """Make a rational function of exponentials from circular and hyperbolic functions."""
    import sympy

    names = "sin cos tan cot sec csc sinh cosh tanh coth sech csch"
    kinds = tuple(getattr(sympy, name) for name in names.split())
    return sympy.cancel(sympy.expand(difference.rewrite(kinds, sympy.exp)))


def _in_parts(difference: Any) -> Any:
    """Split a complex constant, powers of complex numbers too, into real and imaginary part."""
    import sympy

    if not difference.has(sympy.I):
        return difference
    return difference.rewrite(sympy.exp).expand(complex=True)


def _as_algebraic(difference: Any) -> Any:
    """Return zero for an algebraic number whose minimal polynomial is that of zero."""
    import sympy

    if not difference.is_algebraic:
        return difference
    unknown = sympy.Dummy()
    found = sympy.minimal_polynomial(difference, unknown)
    # the minimal polynomial x is that of 0 alone
    return sympy.Integer(0) if found == unknown else difference


def _as_angle(difference: Any) -> Any:
    """Return zero for a constant below 1 in size whose sine is zero: sums of arcs are such."""
    import sympy

    if not difference.has(sympy.atan, sympy.asin, sympy.acos) or not abs(difference.n(15)) < 1:
        return difference
    # a sine has one zero within 1 of 0: the next is pi away
    sine = sympy.radsimp(sympy.expand(sympy.expand_trig(sympy.sin(difference))))
    return sympy.Integer(0) if sine.is_zero else difference


def _by_derivatives(difference: Any) -> Any:
    """Return the value at one point of an expression whose derivatives are all zero.

    The probes have seen that it is the same constant wherever it is defined.
    """
    import sympy

    symbols = sorted(difference.free_symbols, key=sympy.default_sort_key)
    if not difference.has(sympy.Function) or any(symbol.is_integer for symbol in symbols):
        return difference
    for symbol in symbols:
        slope = sympy.diff(difference, symbol).replace(_is_root, _factored)
        if not slope.is_zero and not sympy.simplify(slope).is_zero:
            return difference
    # 1/2 lies in the domain of arcsin and arccos
    return _as_angle(difference.xreplace({symbol: sympy.Rational(1, 2) for symbol in symbols}))


def _is_root(part: Any) -> bool:
    return part.is_Pow and part.exp.is_Rational and not part.exp.is_Integer


def _factored(root: Any) -> Any:
    import sympy

    return sympy.expand_power_base(sympy.factor(root.base) ** root.exp, force=True)
