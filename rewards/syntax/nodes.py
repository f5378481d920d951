r"""The small tree that answers are read into: tuples whose first item is a tag.

A node is a tuple whose first item is its tag. Scalars: `("n", p, q)` the rational p/q,
`("d", digits, decimals)` a decimal literal, `("s", name)`, `("c", "pi" | "e" | "i" | "inf")`,
`("+", nodes)`, `("*", nodes)`, `("/", a, b)`, `("^", a, b)`, `("-", a)`, `("pm", a)`, `("mp", a)`,
`("f", name, nodes)`, `("unit", a, name)`. Structures: `("tuple", "(]", items)`, `("set", items)`,
`("list", items, separator)`, `("rel", ops, nodes)`, `("cup" | "cap" | "setminus", a, b)`,
`("matrix", rows)`, `("field", letter)`, `("text", words)`, `("ratio", items)`, `("such", a, b)`,
`("...",)` and `("big", name, nodes)`, an operation left for the reader to carry out.
"""

from rewards.syntax.lexer import Unparsed

Node = tuple


def negative(node: Node) -> Node:
    if node[0] == "n":
        return ("n", -node[1], node[2])
    if node[0] == "d":
        return ("d", -node[1], node[2])
    if node[0] == "unit":
        return ("unit", negative(node[1]), node[2])
    if node[0] == "based":
        return ("based", "-" + node[1], node[2])
    return ("-", node)


def product(factors: list[Node]) -> Node:
    if len(factors) == 1:
        return factors[0]
    if any(f[0] == "unit" for f in factors):
        inner = tuple(f[1] if f[0] == "unit" else f for f in factors)
        return ("unit", ("*", inner), next(f[2] for f in factors if f[0] == "unit"))
    matrices = [f for f in factors if f[0] == "matrix"]
    if len(matrices) == 1:
        scalars = tuple(f for f in factors if f[0] != "matrix")
        return ("matrix", tuple(tuple(("*", (*scalars, x)) for x in r) for r in matrices[0][1]))
    return ("*", tuple(factors))


def primed(node: Node) -> Node:
    if node[0] == "s":
        return ("s", node[1] + "'")
    if node[0] == "f" and node[1].startswith("@"):
        return ("f", node[1] + "'", node[2])
    raise Unparsed("a prime on something that is no name")


def spell(node: Node) -> str:
    if node[0] == "s":
        return node[1]
    if node[0] == "*":
        return "".join(spell(f) for f in node[1])
    raise Unparsed("a mark on something that is no name")
