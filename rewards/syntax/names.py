"""Parse names: symbols with their indices and primes, calls of named functions, number fields."""

from rewards.syntax.cursor import Cursor
from rewards.syntax.lexer import Unparsed
from rewards.syntax.nodes import Node

_FUNCTION_LETTERS = set("fghFGH")


def symbol(parser: Cursor, name: str) -> Node:
    if parser.peek.value == "_" and parser.peek.kind == "op":
        parser.next()
        name = f"{name}_{index(parser)}"
    name += _marks(parser, name)
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
    while True:
        ahead = [parser.look(k).value for k in range(5)]
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
        elif (
            ahead == ["^", "{", "-", "1", "}"]
            and parser.look(5).value == "("
            and (name[0] in _FUNCTION_LETTERS)
        ):
            for _ in range(5):
                parser.next()
            marks += "^-1"
        else:
            return marks


def index(parser: Cursor) -> str:
    if not parser.accept("{"):
        token = parser.next()
        if token.kind in ("end", "op"):
            raise Unparsed("an index that is missing")
        if token.kind == "num" and len(token.value) > 1:
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
    inner = parser.items()
    parser.expect(closer)
    return inner[1] if inner[0] == "list" else (inner,)


def field(parser: Cursor, letter: str) -> Node:
    name = letter
    if parser.peek.value in ("^", "_") and parser.peek.kind == "op":
        mark = parser.next().value
        name += mark + (parser.next().value if parser.peek.value in "+-*" else index(parser))
    return ("field", name)
