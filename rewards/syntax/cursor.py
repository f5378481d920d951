"""A place in a list of tokens, and the levels of the grammar that can be read from there."""

from collections.abc import Callable

from rewards.syntax.lexer import Token, Unparsed
from rewards.syntax.nodes import Node


class Cursor:
    """Walks the tokens with one in view; past the last one it stays on the end.

    bars, in_function: above 0 inside `|...|` and inside the argument of a named function, where a
    bar or a unit reads differently. The levels of the grammar are declared here and defined by
    `parse.Parser`: the files for names, numbers, units, brackets and commands read what stands
    inside their constructs with them, and so need not import the parser that calls them.
    """

    items: Callable[[], Node]  # one item or a list, up to a closing bracket
    separator: Callable[[], str | None]
    relation: Callable[[], Node]
    sum: Callable[[], Node]
    starts_factor: Callable[[], bool]
    signed_factor: Callable[[], Node]
    factor: Callable[[], Node]
    postfix: Callable[[Node], Node]
    atom: Callable[[], Node]
    argument: Callable[[], Node]
    nested: Callable[[str], Node]  # the text of a wrapper, as an answer of its own

    def __init__(self, tokens: list[Token]):
        self.tokens, self.at, self.depth = tokens, 0, 0
        self.bars = self.in_function = 0
        self.peek = tokens[0]

    def next(self) -> Token:
        """Return the token in view and move to the one behind it."""
        token = self.peek
        self.at = min(self.at + 1, len(self.tokens) - 1)
        self.peek = self.tokens[self.at]
        return token

    def move(self, at: int) -> None:
        """Bring the token at this place into view: back to where a reading began, or to the end."""
        self.at, self.peek = at, self.tokens[at]

    def look(self, ahead: int) -> Token:
        """Return the token that many places behind the one in view."""
        return self.tokens[min(self.at + ahead, len(self.tokens) - 1)]

    def accept(self, value: str) -> bool:
        """Pass over an operator or command of this value; say whether it was in view."""
        if self.peek.value == value and self.peek.kind in ("op", "cmd"):
            self.next()
            return True
        return False

    def expect(self, value: str) -> None:
        """Pass over an operator or command of this value; raises Unparsed for anything else."""
        if not self.accept(value):
            raise Unparsed(f"expected {value!r}, found {self.peek.value!r}")
