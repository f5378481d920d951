"""Compare an answer with a gold that states a set by a condition still to be solved: worker only.

`{x : x^2 < 5}` is turned into a sympy set and compared with the answer's interval by interval.
The other way round nothing is solved: an answer that leaves the question's work undone is not paid.
"""

from typing import Any

from rewards.equality.build import NotSymbolic, build
from rewards.equality.simplify import hopeless
from rewards.equality.symbolic import STEP_S, OutOfTime, TimeLeft, is_zero, within
from rewards.syntax.nodes import Node
from rewards.syntax.tree import symbols

SOLVE_S = 4 * STEP_S
MAX_WHOLE = 200
_INEQUALITIES = {"<", "<=", ">", ">=", "!="}


def same_solutions(a: Node, g: Node) -> bool | None:
    """Say whether both describe the same set of real or whole numbers; None when that is open."""
    # `|S| >= 8` says nothing of n.
    if a[0] == g[0] == "rel" and symbols(a) != symbols(g):
        return False
    try:
        with within(SOLVE_S):
            pieces, gold_pieces = _pieces(as_set(a)), _pieces(as_set(g))
    except (OutOfTime, NotSymbolic, *hopeless()):
        return None
    if len(pieces) != len(gold_pieces):
        return False
    left = TimeLeft.of_a_pair()
    verdicts = [
        mine.left_open == other.left_open
        and mine.right_open == other.right_open
        and _same_end(mine.start, other.start, left)
        and _same_end(mine.end, other.end, left)
        for mine, other in zip(pieces, gold_pieces, strict=True)
    ]
    return False if False in verdicts else None if None in verdicts else True


def _same_end(mine: Any, other: Any, left: TimeLeft) -> bool | None:
    if mine == other:
        return True
    # oo - oo is nan, of which nothing can be said
    return False if mine.is_infinite or other.is_infinite else is_zero(mine - other, left)


def _pieces(found: Any) -> list[Any]:
    """Return a set of real numbers as intervals in order, a point as one that starts at its end."""
    import sympy

    parts = found.args if isinstance(found, sympy.Union) else (found,)
    pieces = []
    for part in parts:
        if isinstance(part, sympy.FiniteSet):
            pieces += [_Point(value) for value in part]
        elif isinstance(part, sympy.Interval):
            pieces.append(part)
        elif part is not sympy.S.EmptySet:
            raise NotSymbolic
    return sorted(pieces, key=lambda piece: piece.start.n(30))


class _Point:
    """An interval of one number, which sympy itself would turn into a FiniteSet."""

    left_open = right_open = False

    def __init__(self, value: Any):
        self.start = self.end = value


def as_set(node: Node) -> Any:
    """Return the tree as a sympy set; raises NotSymbolic."""
    import sympy

    tag = node[0]
    if tag == "tuple" and len(node[2]) == 2:
        low, high = (_end(end) for end in node[2])
        return sympy.Interval(low, high, node[1][0] == "(", node[1][1] == ")")
    if tag == "set":
        return sympy.FiniteSet(*(build(item) for item in node[1]))
    if tag == "field":
        return _field(node)
    if tag == "cup":
        return sympy.Union(as_set(node[1]), as_set(node[2]))
    if tag == "cap":
        return sympy.Intersection(as_set(node[1]), as_set(node[2]))
    if tag == "setminus":
        return sympy.Complement(as_set(node[1]), as_set(node[2]))
    if tag == "such":
        return _where(node[1], node[2])
    if tag == "list":
        join = sympy.Union if node[2] == "or" else sympy.Intersection
        return join(*(as_set(item) for item in node[1]))
    if tag == "rel":
        return _solved(node)
    raise NotSymbolic


def _end(node: Node) -> Any:
    import sympy

    # `build` refuses infinity: it is no number
    if node == ("c", "inf"):
        return sympy.oo
    return -sympy.oo if node == ("-", ("c", "inf")) else build(node)


def _field(node: Node) -> Any:
    import sympy

    fields = {"R": sympy.S.Reals, "Z": sympy.S.Integers, "N": sympy.S.Naturals0}
    fields |= dict.fromkeys(("Z^+", "N^*", "Z_+", "Z_{+}"), sympy.S.Naturals)
    if node[1] not in fields:
        raise NotSymbolic
    return fields[node[1]]


def _where(member: Node, condition: Node) -> Any:
    """Return the members of a set for which the condition holds; whole ones are listed."""
    import sympy

    if member[0] == "s":
        return as_set(condition)
    if member[0] != "rel" or member[1] != ("in",) or member[2][0][0] != "s":
        raise NotSymbolic
    domain, found = as_set(member[2][1]), as_set(condition)
    if domain not in (sympy.S.Integers, sympy.S.Naturals, sympy.S.Naturals0):
        return sympy.Intersection(domain, found)
    # Membership is asked of each whole number, so there must be few.
    span = sympy.Intersection(found, sympy.Interval(-MAX_WHOLE, MAX_WHOLE))
    if not found.is_subset(span):
        raise NotSymbolic
    low, high = sympy.floor(span.inf), sympy.ceiling(span.sup)
    whole = (sympy.Integer(k) for k in range(int(low), int(high) + 1))
    return sympy.FiniteSet(*(k for k in whole if k in found and k in domain))


def _solved(node: Node) -> Any:
    """Return the real solutions of a chain of relations in one unknown."""
    import sympy

    if node[1] == ("in",):
        return as_set(node[2][1])
    names = symbols(node)
    if len(names) != 1:
        raise NotSymbolic
    # as `build` has it: for sympy a symbol with other assumptions is another one
    unknown = sympy.Symbol(next(iter(names)), real=True)
    solutions = sympy.S.Reals
    for op, left, right in zip(node[1], node[2], node[2][1:], strict=False):
        difference = build(left) - build(right)
        if op == "=":
            found = sympy.solveset(difference, unknown, sympy.S.Reals)
        elif op in _INEQUALITIES:
            relation = sympy.Rel(difference, sympy.Integer(0), op)
            found = sympy.solve_univariate_inequality(relation, unknown, relational=False)
        else:
            raise NotSymbolic
        solutions = sympy.Intersection(solutions, found)
    return solutions
