"""A bounded parser from normalised LaTeX to the small tree of `nodes`; it evaluates nothing."""

from rewards.syntax.brackets import OPENING, bracketed
from rewards.syntax.commands import STOPS, command, function, text
from rewards.syntax.cursor import Cursor
from rewards.syntax.lexer import Token, Unparsed, tokenize
from rewards.syntax.measures import at_unit_letter, with_unit
from rewards.syntax.names import field, symbol
from rewards.syntax.nodes import Node, added, as_set, is_whole, negative, primed, product
from rewards.syntax.normalise import words
from rewards.syntax.numbers import mixed_number, number
from rewards.syntax.units import CURRENCY_SIGNS

MAX_DEPTH = 80  # far below Python's 1,000 frames: brackets in brackets count 4 for 9 calls
RELATIONS = {"=", "==", "<", ">", "<=", ">=", "!=", "approx", "equiv", "in", "to", "~"}
_CLOSERS = {")", "]", "\\}", "}", "&", "\\\\", "rangle", "rfloor", "end"}
_JOINING_WORDS = {
    **dict.fromkeys(("and", "and also"), ","),
    **dict.fromkeys(("or", "or else", "either"), "or"),
}
_STARTS = {"num", "sym", "const", "fn", "cmd", "field"}
_UNIT_LETTERS = set("msgLhJNWVAKC")
_MODS = {"pmod", "bmod", "mod"}
_NOT_AFTER_FACTOR = STOPS | RELATIONS | CURRENCY_SIGNS.keys()
_ATOMS = {
    "num": number,
    "sym": symbol,
    "const": symbol,
    "field": field,
    "fn": function,
    "text": text,
    "cmd": command,
    "op": bracketed,
}
"""What reads an atom, by the kind of its first token."""


def parse(plain: str) -> Node:
    """Return the tree of normalised text; raises Unparsed when the text is outside the language."""
    parser = Parser(tokenize(plain))
    node = parser.items()
    if parser.peek.kind != "end":
        raise Unparsed(f"unexpected {parser.peek.value!r}")
    return node


class Parser(Cursor):
    """Recursive descent, one method a level, bounded by MAX_DEPTH and the lexer's MAX_TOKENS."""

    def items(self) -> Node:
        """Parse what stands between brackets or is the whole answer: one item or a list."""
        found, separators = [], set()
        while True:
            while (separator := self.separator()) is not None:
                separators.add(separator)
            if self.peek.kind == "end" or self.at_closer() or (found and not separators):
                break
            found.append(self.relation())
            separator = self.separator()
            if separator is None:
                break
            separators.add(separator)
        if not found:
            raise Unparsed("nothing to read")
        if len(found) == 1:
            return found[0]
        kind = "or" if "or" in separators else ";" if ";" in separators else ","
        return ("list", tuple(found), kind)

    def separator(self) -> str | None:
        """Parse what separates two items: a comma, a semicolon or a joining word."""
        kind, value, _ = self.peek
        if kind == "op" and value in (",", ";"):
            return self.next().value
        if kind == "text" and value:
            said = words(value)
            if said in _JOINING_WORDS or not said:  # no words: a comma that stands in \text
                self.next()
                return _JOINING_WORDS.get(said, ",")
        return None

    def at_closer(self) -> bool:
        """Say whether the token in view ends what a bracket or a command has opened."""
        if self.peek.value == "]" and self.depth == 0:
            return False  # `]0, 1[` opens with it
        return self.peek.value in _CLOSERS

    def relation(self) -> Node:
        """Parse a chain of equations or inequalities, or one operand, with its modulus."""
        if self.peek.kind == "op" and self.peek.value in ("=", "approx", "~"):
            self.next()  # `= 5` states the right side of an equation that the question began
        operands, operators = [self.operand()], []
        while self.peek.kind in ("op", "cmd") and self.peek.value in RELATIONS:
            operators.append(self.next().value)
            operands.append(self.operand())
            if self.at_mod() and operators == ["="]:
                break
        value = self.peek.value
        if not operators and value in _MODS and (rest := self.remainder(operands[0])):
            return rest
        node = ("rel", tuple(operators), tuple(operands)) if operators else operands[0]
        if value in _MODS and self.at_mod():
            self.next()
            node = ("mod", node, self.factor())
        elif self.peek.value == "(" and self.look(1).value == "mod":
            self.next()
            self.next()
            node = ("mod", node, self.sum())
            self.expect(")")
        if self.peek.kind == "text" and words(self.peek.value) in ("since", "because"):
            self.move(len(self.tokens) - 1)  # a reason is no part of the answer
        return node

    def at_mod(self) -> bool:
        """Say whether a modulus follows."""
        return self.peek.value in ("pmod", "bmod") or self.peek[:2] == ("text", "mod")

    def remainder(self, number: Node) -> Node | None:
        """Parse `17 mod 5 = 2`; stay put when no equation follows the modulus."""
        if not self.at_mod():
            return None
        start = self.at
        self.next()
        modulus = self.factor()
        if self.peek.value != "=" or self.peek.kind != "op":
            self.move(start)
            return None
        self.next()
        return ("rel", ("=",), (("f", "rem", (number, modulus)), self.operand()))

    def operand(self) -> Node:
        """Parse one side of a relation: a sum, set algebra over sums, or a ratio of sums."""
        self.descend()
        braced = self.peek.value == "{"
        node = self.sum()
        while self.peek.value in ("cup", "cap", "setminus") and self.peek.kind == "op":
            sign, also_braced = self.next().value, self.peek.value == "{"
            other = self.sum()
            node = (sign, as_set(node) if braced else node, as_set(other) if also_braced else other)
        if self.at_ratio():
            parts = [node]
            while self.at_ratio():
                self.next()
                parts.append(self.sum())
            node = ("ratio", tuple(parts))
        self.depth -= 1
        return node

    def at_ratio(self) -> bool:
        """Say whether the next part of a ratio follows: `3:4`, `3 to 4`; not in `{x : x > 0}`."""
        return (self.peek.value == ":" and not self.bars) or self.peek[:2] == ("text", "to")

    def descend(self) -> None:
        """Go one level down; every way back up lowers depth again."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unparsed("nested too deeply")

    def sum(self) -> Node:
        """Parse signed terms, and the unit behind them."""
        self.descend()
        terms, degrees = [], False
        while True:
            sign = self.peek.value if self.peek.kind == "op" else ""
            if sign in ("+", "-", "pm", "mp"):
                self.next()
            elif terms:
                break
            else:
                sign = ""
            # `1 + -2`: the second sign is the term's own
            if sign == "+" and self.peek.value in ("-", "pm") and self.peek.kind == "op":
                continue
            term = self.term()
            # `30 deg + 45 deg`: the unit waits until the sum is complete
            if self.peek.value == "deg" and self.look(1).value in ("+", "-"):
                self.next()
                degrees = True
            terms.append(
                term if sign in ("", "+") else negative(term) if sign == "-" else (sign, term)
            )
        node = terms[0] if len(terms) == 1 else added(terms)
        # TeX's infix commands split their whole group: all read so far stands on top
        if self.accept("choose"):
            node = ("f", "binom", (node, self.sum()))
        elif self.accept("over"):
            node = ("/", node, self.sum())
        self.depth -= 1
        node = with_unit(self, node)
        return ("unit", node, "deg") if degrees and node[0] != "unit" else node

    def term(self) -> Node:
        """Parse a product: explicit or by juxtaposition, quotients, mixed numbers."""
        factors = [self.factor()]
        while True:
            kind, value, _ = self.peek
            if kind == "op" and value == "*":
                self.next()
                factors.append(self.signed_factor())
            elif kind == "op" and value == "/" and self.look(1).kind != "text":
                self.next()
                over = self.signed_factor()
                mixed = mixed_number(factors, over) if len(factors) == 2 else None
                factors = [mixed or ("/", product(factors), over)]
            # the m of `5 m` is left for `with_unit`, that of `5m` is a factor
            elif at_unit_letter(self) and len(factors) == 1 and factors[0][0] in ("n", "d"):
                break
            elif self.starts_factor():
                factors = self.juxtaposed(factors)
            else:
                break
        if any(factor[0] == "gap" for factor in factors):
            raise Unparsed("two numbers side by side")
        return product(factors)

    def juxtaposed(self, factors: list[Node]) -> list[Node]:
        """Return the factors with the next one, which no sign of multiplication precedes.

        `1 2/3` is a mixed number: its 2 is kept as a "gap" until the slash behind it is seen.
        """
        spaced, bracketed = self.peek.spaced, self.peek.value == "("
        factor = self.factor()
        if factor[0] == "n" and is_whole(factors[-1]) and spaced and self.peek.value == "/":
            return [*factors, ("gap", factor)]
        mixed = None if bracketed else mixed_number(factors, factor)
        if mixed:
            return [mixed]
        if factor[0] in ("n", "d") and factors[-1][0] in ("n", "d"):
            raise Unparsed("two numbers side by side")
        return [*factors, factor]

    def starts_factor(self) -> bool:
        """Say whether the token in view begins another factor of the product before it."""
        kind, value, spaced = self.peek
        if kind == "cmd":
            return value not in _NOT_AFTER_FACTOR
        if kind == "op":
            if value == "[" and self.bars == 0:  # after a factor `[` may close `]0, 1[`
                return self.tokens[self.at - 1].value in (")", "]") and self.at > 0
            if value == "(" and self.look(1)[:2] == ("text", "mod"):
                return False
            return value in OPENING or (value in ("|", "||") and not self.bars)
        if kind == "text":
            return len(value) == 1 and value.isalpha() and not spaced and value not in _UNIT_LETTERS
        return kind in _STARTS

    def signed_factor(self) -> Node:
        """Parse a factor behind any signs, as in `2 * -3`."""
        if self.peek.kind == "op" and self.peek.value in ("-", "+", "pm"):
            sign = self.next().value
            factor = self.signed_factor()
            return factor if sign == "+" else negative(factor) if sign == "-" else (sign, factor)
        return self.factor()

    def factor(self) -> Node:
        """Parse an atom with what follows it: factorials, primes, a power."""
        self.descend()
        node = self.postfix(self.atom())
        if self.peek.kind == "op" and self.peek.value in ("^", "**"):
            self.next()
            node = self.postfix(self.power(node))
        self.depth -= 1
        return node

    def power(self, base: Node) -> Node:
        """Parse a superscript: an exponent, a prime, or the T of a transposed matrix."""
        if self.peek.value in ("prime", "'"):
            self.next()
            return primed(base)
        if self.peek.kind == "op" and self.peek.value in ("*", "+", "dagger"):
            # z^* is a conjugate, A^+ a pseudo-inverse
            raise Unparsed("a superscript that is no power")
        if self.peek.value == "{":
            self.next()
            exponent = self.sum()
            self.expect("}")
            if self.peek.value in ("^", "**"):
                self.next()
                exponent = self.power(exponent)
        else:
            exponent = self.signed_factor()
        if base[0] == "matrix" and exponent in (("s", "T"), ("s", "\\top")):
            return ("matrix", tuple(zip(*base[1], strict=True)))
        if exponent[0] == "unit" and exponent[2] == "deg":
            raise Unparsed("a degree in an exponent")
        return ("^", base, exponent)

    def postfix(self, node: Node) -> Node:
        """Parse the factorials, primes and degree signs behind an atom."""
        while self.peek.kind == "op":
            value = self.peek.value
            if value == "!":
                self.next()
                node = ("f", "!!" if self.accept("!") else "!", (node,))
            elif value == "'":
                self.next()
                node = primed(node)
            elif value == "deg" and self.in_function:
                self.next()  # sin 30 degrees: elsewhere a degree is the unit of the answer
                node = ("*", (node, ("/", ("c", "pi"), ("n", 180, 1))))
            else:
                break
        return node

    def atom(self) -> Node:
        """Parse a number, a name, a call, a command, a text or what stands in brackets."""
        self.descend()
        kind, value, _ = self.next()
        if kind == "const" and (self.peek.value != "_" or value not in ("e", "i")):
            node = ("c", value)
        elif kind == "end":
            raise Unparsed("the text ends too early")
        else:
            node = _ATOMS[kind](self, value)
        self.depth -= 1
        return node

    def argument(self) -> Node:
        """Parse the argument of a LaTeX command: a group, or the next single digit or token."""
        if self.accept("{"):
            node = self.items()
            self.expect("}")
            return node
        value = self.peek.value
        if self.peek.kind == "num" and len(value) > 1 and value.isdigit():
            # TeX takes one digit: `\frac12` is one half, `\frac123` one half times 3.
            self.peek = self.tokens[self.at] = Token("num", value[1:], False)
            return ("n", int(value[0]), 1)
        if value == "-" and self.peek.kind == "op":
            self.next()
            return negative(self.atom())
        return self.atom()

    def nested(self, inner: str) -> Node:
        """Parse the text of a wrapper as an answer of its own."""
        return parse(inner)
