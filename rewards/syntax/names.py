"""Parse names: symbols with their indices and primes, calls of named functions, number fields."""

from rewards.syntax.cursor import Cursor
from rewards.syntax.lexer import Unparsed
from rewards.syntax.nodes import Node

_FUNCTION_LETTERS = set("fghFGH")


def symbol(parser: Cursor, name: str) -> Node:
    """Parse the index and primes behind a name; with arguments it is an unknown function."""
    if parser.peek.value == "_" and parser.peek.kind == "op":
        parser.next()
        name = f"{name}_{index(parser)}"
    name += _marks(parser, name)
    # `a(b+1)` is a product: only f, g and h, `P(x)=` and `a(3)` are calls.
    called = name[0] in _FUNCTION_LETTERS or (
        parser.look(1).kind == "sym" and (parser.look(2).value, parser.look(3).value) == (")", "=")
    )
    called = called or (parser.look(1).kind == "num" and parser.look(2).value == ")")
    if called and parser.peek.value == "(" and parser.peek.kind == "op":
        parser.next()
        return ("f", f"@{name}", arguments(parser, ")"))
    return ("s", name)


def _marks(parser: Cursor, name: str) -> str:
    """Parse the primes of a name, and the inverse of a function's name."""
    marks = ""
    while parser.peek.value in ("'", "^"):
        ahead = [parser.look(k).value for k in range(6)]
        if ahead[0] == "'":
            parser.next()
            marks += "'"
        elif ahead[:2] == ["^", "prime"] or ahead[:3] == ["^", "{", "prime"]:
            parser.next()
            braced = parser.accept("{")
            while parser.accept("prime"):
                marks += "'"
            if braced:
                parser.expect("}")
        elif ahead == [*"^{-1}", "("] and name[0] in _FUNCTION_LETTERS:
            parser.move(parser.at + 5)
            marks += "^-1"
        else:
            break
    return marks


def index(parser: Cursor) -> str:
    """Return the text of an index, in braces or of one token; it is a name and no value."""
    if not parser.accept("{"):
        token = parser.next()
        if token.kind in ("end", "op"):
            raise Unparsed("an index that is missing")
        if token.kind == "num" and len(token.value) > 1:
            # TeX reads a_12 as a_1 times 2, its writer meant a_{12}
            raise Unparsed("an index of several digits without braces")
        return token.value
    parts, depth = [], 1
    while parser.peek.kind != "end":
        token = parser.next()
        depth += (token.value == "{") - (token.value == "}")
        if depth == 0:
            return "".join(parts)
        parts.append(token.value)
    raise Unparsed("an index that never ends")


def arguments(parser: Cursor, closer: str) -> tuple[Node, ...]:
    """Parse a list of arguments and the bracket that closes it."""
    inner = parser.items()
    parser.expect(closer)
    return inner[1] if inner[0] == "list" else (inner,)


def field(parser: Cursor, letter: str) -> Node:
    """Parse the mark behind the letter of a number field, as in N^*, R^+, Z_5."""
    name = letter
    if parser.peek.value in ("^", "_") and parser.peek.kind == "op":
        mark = parser.next().value
        name += mark + (parser.next().value if parser.peek.value in "+-*" else index(parser))
    return ("field", name)
