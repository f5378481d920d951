"""Build sympy expressions from trees, object by object and never from text: worker only."""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from rewards.equality.exact import NotExact, Undefined, exact
from rewards.syntax.nodes import Node
from rewards.syntax.tree import symbols, walk

if TYPE_CHECKING:
    from sympy import Expr

MAX_NODES = 300
MAX_POWER = 200
"""The largest exponent of a base that is no rational number; sympy multiplies such powers out."""


class NotSymbolic(Exception):
    """The tree has no sympy expression here, or one that is too large to work on."""


def build(node: Node, domain: str = "real") -> "Expr":
    """Return the scalar tree as a sympy expression.

    domain: what is assumed of every symbol: real, positive, or whole (an integer of at least 1).
    Raises NotSymbolic for what is no scalar, too large or undefined.
    """
    if sum(1 for _ in walk(node)) > MAX_NODES:
        raise NotSymbolic
    try:
        return Builder(domain).expression(node)
    except (NotExact, ValueError, TypeError, OverflowError) as problem:
        raise NotSymbolic from problem


class Builder:
    """Turns the nodes of one tree into sympy objects. domain: what its symbols stand for."""

    def __init__(self, domain: str):
        import sympy

        self.sympy: Any = sympy
        self.assumed = _DOMAINS[domain]
        self.bound: dict[str, Any] = {}

    def expression(self, node: Node) -> Any:
        tag = node[0]
        # First of all the exact value: its size is bounded, that of sympy's own powers is not.
        if not symbols(node):
            number = self.rational(node)
            if number is not None:
                return number
        if tag == "s":
            return self.bound.get(node[1]) or self.sympy.Symbol(node[1], **self.assumed)
        if tag == "c":
            return self.constant(node[1])
        if tag == "unit":
            return self.expression(node[1])
        if tag in ("+", "*"):
            join = self.sympy.Add if tag == "+" else self.sympy.Mul
            return join(*(self.expression(part) for part in node[1]))
        if tag == "-":
            return -self.expression(node[1])
        if tag == "/":
            return self.quotient(self.expression(node[1]), self.expression(node[2]))
        if tag == "^":
            return self.power(self.expression(node[1]), self.expression(node[2]))
        if tag == "f":
            return self.function(node[1], node[2])
        if tag == "big":
            return self.series(node[1], node[2])
        raise NotSymbolic

    def rational(self, node: Node) -> Any:
        """Return the exact value of a constant whose size the guard of `exact` has bounded."""
        try:
            value = exact(node)
        except Undefined as problem:
            raise NotSymbolic from problem
        except NotExact:
            return None
        return self.sympy.Rational(value.numerator, value.denominator)

    def constant(self, name: str) -> Any:
        constants = {"pi": self.sympy.pi, "e": self.sympy.E, "i": self.sympy.I}
        if name not in constants:
            raise NotSymbolic
        return constants[name]

    def quotient(self, top: Any, bottom: Any) -> Any:
        if bottom.is_zero:
            raise NotSymbolic
        return top / bottom

    def power(self, base: Any, exponent: Any) -> Any:
        if exponent.is_Rational and abs(exponent.p) > MAX_POWER:
            raise NotSymbolic
        if base.is_zero:
            raise NotSymbolic
        return base**exponent

    def root(self, value: Any, degree: Any) -> Any:
        """Return the real root where the degree is odd and the radicand a negative number."""
        if not degree.is_Rational or degree.is_zero or max(abs(degree.p), degree.q) > MAX_POWER:
            raise NotSymbolic
        # sympy's own root of a negative number is the complex one.
        if value.is_negative and degree.q == 1 and degree.p % 2:
            return -((-value) ** (1 / degree))
        return value ** (1 / degree)

    def function(self, name: str, args: tuple[Node, ...]) -> Any:
        values = [self.expression(arg) for arg in args]
        if name.startswith("@"):
            # Expanded, so that f(x + 1) and f(1 + x) become one object.
            return self.sympy.Function(name[1:])(*(self.sympy.expand(value) for value in values))
        if name == "root":
            return self.root(*values)
        if name in ("ln", "log", "lg"):
            return self.logarithm(name, values)
        if name in ("!", "!!", "binom") and all(value.is_number for value in values):
            raise NotSymbolic  # what `exact` has refused is large or no whole number
        if name == "binom" and values[1].is_Integer and values[1] > MAX_POWER:
            raise NotSymbolic
        rule = _functions().get(name)
        if rule is None or (name in _UNARY and len(values) != 1):
            raise NotSymbolic
        return rule(*values)

    def logarithm(self, name: str, values: list[Any]) -> Any:
        if any(value.is_zero for value in values):
            raise NotSymbolic
        top = self.sympy.log(values[0])
        if name == "lg":
            return top / self.sympy.log(10)
        return self.quotient(top, self.sympy.log(values[1])) if len(values) == 2 else top

    def series(self, name: str, parts: tuple[Node, ...]) -> Any:
        """Return a sum or product over a whole index in closed form where sympy knows one."""
        limits = {parts[k][1]: parts[k + 1] for k in range(0, len(parts) - 1, 2)}
        below = limits.get("_", ())
        if name not in ("sum", "prod") or len(below) != 3 or below[0] != "rel" or "^" not in limits:
            raise NotSymbolic
        if below[1] != ("=",) or below[2][0][0] != "s":
            raise NotSymbolic
        index = below[2][0][1]
        first, last = self.expression(below[2][1]), self.expression(limits["^"])
        # An index may hide a symbol of the same name outside of the sum.
        kept = self.bound.get(index)
        self.bound[index] = self.sympy.Symbol(f"{index}~", integer=True)
        body = self.expression(parts[-1])
        over = (self.bound.pop(index), first, last)
        if kept is not None:
            self.bound[index] = kept
        return (self.sympy.Sum if name == "sum" else self.sympy.Product)(body, over)


_DOMAINS = {
    "real": {"real": True},
    "positive": {"positive": True},
    "whole": {"integer": True, "positive": True},
}
_CIRCULAR = ("sin", "cos", "tan", "cot", "sec", "csc")
_HYPERBOLIC = ("sinh", "cosh", "tanh", "coth", "sech", "csch")
_UNARY = {*_CIRCULAR, *_HYPERBOLIC, *(f"arc{name}" for name in (*_CIRCULAR, *_HYPERBOLIC))}


@cache
def _functions() -> dict[str, Callable[..., Any]]:
    import sympy

    named: dict[str, Callable[..., Any]] = {
        "abs": sympy.Abs,
        "!": sympy.factorial,
        "!!": sympy.factorial2,
        "binom": sympy.binomial,
        "exp": sympy.exp,
        "floor": sympy.floor,
        "ceil": sympy.ceiling,
        "max": sympy.Max,
        "min": sympy.Min,
        "Re": sympy.re,
        "Im": sympy.im,
        "sgn": sympy.sign,
        "erf": sympy.erf,
        "arccot": lambda x: sympy.pi / 2 - sympy.atan(x),  # the range (0, pi) of the schools
    }
    for name in (*_CIRCULAR, *_HYPERBOLIC):
        named[name] = getattr(sympy, name)
        named.setdefault(f"arc{name}", getattr(sympy, f"a{name}"))
    return named
