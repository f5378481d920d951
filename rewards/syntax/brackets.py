"""Parse what stands in brackets: groups, tuples, intervals, sets, absolute values, matrices."""

from rewards.syntax.cursor import Cursor
from rewards.syntax.lexer import Unparsed
from rewards.syntax.nodes import Node

OPENING = {"(", "[", "\\{", "{"}
_CLOSERS = {"(": (")", "]", "["), "[": ("]", ")", "["), "]": ("]", "[")}
_OPEN_ENDS = str.maketrans("][", "()")
"""How `]0, 1[` writes what others write as `(0, 1)`."""
_MATRICES = {"pmatrix", "bmatrix", "matrix", "array", "smallmatrix", "Bmatrix", "vmatrix", "cases"}


def bracketed(parser: Cursor, opener: str) -> Node:
    """Parse what an opening bracket, a bar or a currency sign begins, from behind that sign."""
    if opener in ("|", "||"):
        parser.bars += 1
        node = parser.items()
        parser.bars -= 1
        parser.expect(opener)
        return ("f", "abs", (node,))
    if opener in ("\\$", "$"):
        amount = parser.sum()
        return ("unit", amount[1] if amount[0] == "unit" else amount, "dollar")
    if opener == "...":
        return ("...",)
    if opener not in OPENING and opener != "]":
        raise Unparsed(f"unexpected {opener!r}")
    # In `\{x | x > 0\}` a bar is a separator, in brackets inside of `|...|` it opens again.
    bars, parser.bars = parser.bars, 1 if opener == "\\{" else 0
    try:
        return _group(parser, opener)
    finally:
        parser.bars = bars


def _group(parser: Cursor, opener: str) -> Node:
    if parser.peek.value in (")", "\\}", "]"):
        closer = parser.next().value
        if (opener, closer) == ("\\{", "\\}"):
            return ("set", ())
        raise Unparsed("empty brackets")
    inner = parser.items()
    if opener == "\\{":
        return _set_of(parser, inner)
    closer = parser.next().value
    if opener == "{":
        if closer != "}":
            raise Unparsed("braces that do not match")
        return inner
    if closer not in _CLOSERS[opener]:
        raise Unparsed("brackets that do not match")
    if opener == "]" or closer == "[":  # the French way to write an open end
        opener = opener.translate(_OPEN_ENDS) if opener == "]" else opener
        closer = closer.translate(_OPEN_ENDS) if closer == "[" else closer
        if inner[0] != "list" or len(inner[1]) != 2:
            raise Unparsed("brackets turned outwards round something that is no interval")
    if inner[0] == "list" and inner[2] != "or":
        if len(inner[1]) > 2 and opener + closer not in ("()", "[]"):
            raise Unparsed("brackets that do not match")
        return ("tuple", opener + closer, inner[1])
    if opener + closer == "()" or (opener + closer == "[]" and inner[0] != "list"):
        return inner
    raise Unparsed("brackets round one item")  # `(5]` is half of an interval


def _set_of(parser: Cursor, inner: Node) -> Node:
    if parser.peek.value in ("|", ":") and parser.peek.kind == "op":
        parser.next()
        condition = parser.items()
        parser.expect("\\}")
        return ("such", inner, condition)
    parser.expect("\\}")
    return ("set", inner[1] if inner[0] == "list" else (inner,))


def environment(parser: Cursor) -> Node:
    """Parse a matrix, a determinant, a system of equations or a function by cases."""
    name = _word_in_braces(parser)
    if name not in _MATRICES:
        raise Unparsed(f"environment {name}")
    if name == "array" and parser.accept("{"):
        while parser.peek.kind != "end" and not parser.accept("}"):
            parser.next()
    rows, row = [], []
    while True:
        if parser.accept("\\\\"):
            rows, row = [*rows, tuple(row)] if row else rows, []
        elif parser.accept("end"):
            _word_in_braces(parser)
            break
        elif not parser.accept("&") and not parser.accept("hline"):
            row.append(parser.relation())
            while name == "cases" and parser.separator():
                pass  # commas between a case and its condition
        if parser.peek.kind == "end":
            break
    rows = [*rows, tuple(row)] if row else rows
    if len({len(r) for r in rows}) != 1 and name != "cases":
        raise Unparsed("a matrix with rows of different lengths")
    if name == "cases":
        return _piecewise(rows)
    if len(rows) == 1 and len(rows[0]) == 1 and name == "array":
        return rows[0][0]
    node = ("matrix", tuple(rows))
    if name == "vmatrix":
        return ("big", "det", (node,))
    return node


def _piecewise(rows: list[tuple[Node, ...]]) -> Node:
    """Return a system as a list of equations, a function by cases as pairs (value, where)."""
    if rows and all(len(row) == 1 for row in rows):
        return ("list", tuple(row[0] for row in rows), ",") if len(rows) > 1 else rows[0][0]
    if any(len(row) > 2 for row in rows):
        raise Unparsed("cases with more than two columns")
    return ("f", "cases", tuple(("tuple", "()", row) for row in rows))


def _word_in_braces(parser: Cursor) -> str:
    parser.expect("{")
    name = ""
    while parser.peek.kind != "end" and not parser.accept("}"):
        name += parser.next().value
    return name
