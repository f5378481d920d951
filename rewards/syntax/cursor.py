"""A place in a list of tokens, and the levels of the grammar that can be read from there."""

from abc import ABC, abstractmethod

from rewards.syntax.lexer import Token, Unparsed
from rewards.syntax.nodes import Node


class Cursor(ABC):
    """Walks the tokens, one in view; past the last one it stays on the end.

    The abstract methods are the levels of the grammar, which `parse.Parser` implements. The files
    for names, numbers, commands, brackets and units call them for what stands inside their own
    constructs, and so need not import the parser that calls them.
    """

    def __init__(self, tokens: list[Token]):
        self.tokens, self.at, self.depth = tokens, 0, 0
        self.bars = self.in_function = 0
        self.peek = tokens[0]

    def next(self) -> Token:
        """Return the token in view and move on to the one behind it."""
        token = self.peek
        self.at = min(self.at + 1, len(self.tokens) - 1)
        self.peek = self.tokens[self.at]
        return token

    def look(self, ahead: int) -> Token:
        """Return the token that many places behind the one in view."""
        return self.tokens[min(self.at + ahead, len(self.tokens) - 1)]

    def accept(self, value: str) -> bool:
        """Pass over an operator or command of this value, if it is in view, and say so."""
        if self.peek.value == value and self.peek.kind in ("op", "cmd"):
            self.next()
            return True
        return False

    def expect(self, value: str) -> None:
        """Pass over an operator or command of this value; raises Unparsed for anything else."""
        if not self.accept(value):
            raise Unparsed(f"expected {value!r}, found {self.peek.value!r}")

    @abstractmethod
    def items(self) -> Node: ...

    @abstractmethod
    def separator(self) -> str | None: ...

    @abstractmethod
    def relation(self) -> Node: ...

    @abstractmethod
    def sum(self) -> Node: ...

    @abstractmethod
    def starts_factor(self) -> bool: ...

    @abstractmethod
    def signed_factor(self) -> Node: ...

    @abstractmethod
    def factor(self) -> Node: ...

    @abstractmethod
    def postfix(self, node: Node) -> Node: ...

    @abstractmethod
    def atom(self) -> Node: ...

    @abstractmethod
    def argument(self) -> Node: ...

    @abstractmethod
    def nested(self, inner: str) -> Node: ...
