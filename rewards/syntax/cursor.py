"""A place in a list of tokens, with one token in view."""

from rewards.syntax.lexer import Token, Unparsed


class Cursor:
    """Walks the tokens; past the last one it stays on the end."""

    def __init__(self, tokens: list[Token]):
        self.tokens, self.at, self.depth = tokens, 0, 0
        self.bars = self.in_function = 0
        self.peek = tokens[0]

    def next(self) -> Token:
        token = self.peek
        self.at = min(self.at + 1, len(self.tokens) - 1)
        self.peek = self.tokens[self.at]
        return token

    def look(self, ahead: int) -> Token:
        return self.tokens[min(self.at + ahead, len(self.tokens) - 1)]

    def accept(self, value: str) -> bool:
        if self.peek.value == value and self.peek.kind in ("op", "cmd"):
            self.next()
            return True
        return False

    def expect(self, value: str) -> None:
        if not self.accept(value):
            raise Unparsed(f"expected {value!r}, found {self.peek.value!r}")
