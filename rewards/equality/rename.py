"""Rename bound, free and constant symbols of an answer to the letters of its gold."""

from itertools import permutations

from rewards.syntax.nodes import Node
from rewards.syntax.tree import symbols

_CONSTANTS = {"C", "c", "K", "k", "D", "A", "B", "C_1", "C_2", "c_1", "c_2", "K_1", "K_2", "C_0"}
_PARAMETERS = {"t", "s", "k", "n", "m", "u", "v", "r", "l", "j", "\\lambda", "\\mu", "\\ell"}


def replaced(node: Node, old: Node, new: Node) -> Node:
    """Return the node, of any kind, with one part in the place of another."""
    if node == old:
        return new
    return tuple(replaced(part, old, new) if isinstance(part, tuple) else part for part in node)


def renamed(node: Node, old: str, new: str) -> Node:
    """Return the node, of any kind, with one symbol in the place of another."""
    return replaced(node, ("s", old), ("s", new))


def definition(node: Node | None) -> tuple[str, tuple[str, ...]] | None:
    """Return the name and the arguments of `f(x, y)`; None when they are no plain symbols."""
    match node:
        case ("f", name, arguments) if name[0] == "@" and all(x[0] == "s" for x in arguments):
            return name, tuple(argument[1] for argument in arguments)
    return None


def with_arguments(value: Node, old: tuple[str, ...], new: tuple[str, ...]) -> Node:
    """Return the right side of a definition for other names of the arguments."""
    # By way of fresh names: f(x, y) for f(y, x) would otherwise merge the two.
    for k, name in enumerate(old):
        value = renamed(value, name, f"~{k}")
    for k, name in enumerate(new):
        value = renamed(value, f"~{k}", name)
    return value


def with_constants(a: Node, g: Node, *, anywhere: bool) -> list[Node]:
    """Return a with its constants of integration under the gold's letters, in every order.

    Nothing is returned where the letters that differ are no constants of integration: they must
    have a constant's name, and stand alone as a term unless anywhere is set.
    """
    mine, wanted = symbols(a) - symbols(g), symbols(g) - symbols(a)
    if not mine or len(mine) != len(wanted) or len(mine) > 2 or not symbols(a) & symbols(g):
        return []
    if not mine | wanted <= _CONSTANTS:
        return []
    if not anywhere and not (_terms(a) >= mine and _terms(g) >= wanted):
        return []
    return [with_arguments(a, tuple(sorted(mine)), order) for order in permutations(sorted(wanted))]


def _terms(node: Node) -> set[str]:
    return {term[1] for term in node[1] if term[0] == "s"} if node[0] == "+" else set()


def with_parameter(a: Node, g: Node) -> Node | None:
    """Return tuple a under the gold's letter for the one parameter that each has."""
    mine, wanted = symbols(a), symbols(g)
    if len(mine) != 1 or len(wanted) != 1 or mine == wanted or not mine | wanted <= _PARAMETERS:
        return None
    if any(sum(bool(symbols(part)) for part in node[2]) < 2 for node in (a, g)):
        return None  # a letter that stands once is a quantity, not a parameter
    return renamed(a, next(iter(mine)), next(iter(wanted)))
