r"""The small tree that answers are read into, and how its nodes are put together.

A node is a tuple whose first item is its tag. Scalars: `("n", p, q)` the rational p/q,
`("d", digits, decimals)` a decimal literal, `("s", name)`, `("c", "pi" | "e" | "i" | "inf")`,
`("+", nodes)`, `("*", nodes)`, `("/", a, b)`, `("^", a, b)`, `("-", a)`, `("pm", a)`, `("mp", a)`,
`("f", name, nodes)`, `("unit", a, name)`. Structures: `("tuple", "(]", items)`, `("set", items)`,
`("list", items, separator)`, `("rel", ops, nodes)`, `("cup" | "cap" | "setminus", a, b)`,
`("matrix", rows)`, `("field", letter)`, `("text", words)`, `("ratio", items)`, `("such", a, b)`,
`("mod", a, modulus)`, `("based", digits, base)`, `("time", hours, minutes)`, `("...",)` and
`("big", name, nodes)`, an operation left for the reader to carry out. The names of unknown
functions, as the f of f(x), begin with an @.
"""

from rewards.syntax.lexer import Unparsed

# Plain tuples: they hash, compare and cache in C, and the judge does little else with them.
Node = tuple
_SETS = {"such", "set", "cup", "cap", "setminus", "field"}


def negative(node: Node) -> Node:
    """Return -node, with the sign inside a number, so that -5 is one number and no operation."""
    match node:
        case ("n", top, bottom):
            return ("n", -top, bottom)
        case ("d", digits, decimals):
            return ("d", -digits, decimals)
        case ("unit", inner, unit):
            return ("unit", negative(inner), unit)
        case ("based", digits, base):
            return ("based", "-" + digits, base)
    return ("-", node)


def product(factors: list[Node]) -> Node:
    """Return the product; a unit of a factor becomes its unit, a scalar goes into a matrix."""
    if len(factors) == 1:
        return factors[0]
    if any(f[0] == "unit" for f in factors):
        inner = tuple(f[1] if f[0] == "unit" else f for f in factors)
        return ("unit", ("*", inner), next(f[2] for f in factors if f[0] == "unit"))
    # scalars commute with one matrix; a product of several stays as written
    matrices = [f for f in factors if f[0] == "matrix"]
    if len(matrices) == 1:
        scalars = tuple(f for f in factors if f[0] != "matrix")
        return ("matrix", tuple(tuple(("*", (*scalars, x)) for x in r) for r in matrices[0][1]))
    return ("*", tuple(factors))


def added(terms: list[Node]) -> Node:
    """Return the sum; a set minus sets is their difference."""
    if terms[0][0] in _SETS and all(t[0] == "-" and t[1][0] in _SETS for t in terms[1:]):
        node = terms[0]
        for term in terms[1:]:
            node = ("setminus", node, term[1])
        return node
    return ("+", tuple(terms))


def as_set(node: Node) -> Node:
    """Return what stands beside a sign of set algebra: plain `{1,2}` is a set there."""
    if node[0] == "list":
        return ("set", node[1])
    return ("set", (node,)) if node[0] in ("n", "d", "/", "-") else node


def is_whole(node: Node) -> bool:
    """Say whether the node is the literal of a whole number."""
    return node[0] == "n" and node[2] == 1


def primed(node: Node) -> Node:
    """Return a symbol or an unknown function under its name with a prime."""
    match node:
        case ("s", name):
            return ("s", name + "'")
        case ("f", name, arguments) if name.startswith("@"):
            return ("f", name + "'", arguments)
    raise Unparsed("a prime on something that is no name")


def spell(node: Node) -> str:
    """Return the letters of a symbol or of a product of symbols, as the AB under a bar."""
    if node[0] == "s":
        return node[1]
    if node[0] == "*":
        return "".join(spell(factor) for factor in node[1])
    raise Unparsed("a mark on something that is no name")
