"""A bounded parser from normalised LaTeX to the small tree of `nodes`; it evaluates nothing."""

from rewards.syntax.brackets import OPENING, bracketed
from rewards.syntax.commands import STOPS, command, function, text
from rewards.syntax.cursor import Cursor
from rewards.syntax.lexer import Token, Unparsed, tokenize
from rewards.syntax.measures import at_unit_letter, with_unit
from rewards.syntax.names import field, symbol
from rewards.syntax.nodes import Node, negative, primed, product
from rewards.syntax.normalise import words
from rewards.syntax.numbers import mixed_number, number
from rewards.syntax.units import CURRENCY_SIGNS

MAX_DEPTH = 80
RELATIONS = {"=", "==", "<", ">", "<=", ">=", "!=", "approx", "equiv", "in", "to", "~"}
_SEPARATORS = {",", ";"}
_STARTS = {"num", "sym", "const", "fn", "cmd", "field"}
_UNIT_LETTERS = set("msgLhJNWVAKC")


def parse(plain: str) -> Node:
    """Return the tree of normalised text; raises Unparsed when the text is outside the language."""
    parser = Parser(tokenize(plain))
    node = parser.items()
    if parser.peek.kind != "end":
        raise Unparsed(f"unexpected {parser.peek.value!r}")
    return node


class Parser(Cursor):
    """Recursive descent, bounded by MAX_DEPTH and the lexer's MAX_TOKENS."""

    def items(self) -> Node:
        """Parse what stands between brackets or is the whole answer: one item or a list."""
        found, separators = [], set()
        while True:
            while (separator := self.separator()) is not None:
                separators.add(separator)
            if self.peek.kind == "end" or self.at_closer():
                break
            if found and not separators:
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
        kind, value, _ = self.peek
        if kind == "op" and value in _SEPARATORS:
            return self.next().value
        if kind == "text":
            word = words(value)
            if word in ("and", "or", "and also", "or else", "", "either") and value:
                self.next()
                return "or" if word in ("or", "or else", "either") else ","
        return None

    def at_closer(self) -> bool:
        if self.peek.value == "]" and self.depth == 0:
            return False  # `]0, 1[` opens with it
        return self.peek.value in (")", "]", "\\}", "}", "&", "\\\\", "rangle", "rfloor", "end")

    def relation(self) -> Node:
        if self.peek.kind == "op" and self.peek.value in ("=", "approx", "~"):
            self.next()
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
            self.peek = self.tokens[-1]
            self.at = len(self.tokens) - 1
        return node

    def at_mod(self) -> bool:
        return self.peek.value in ("pmod", "bmod") or self.peek[:2] == ("text", "mod")

    def remainder(self, number: Node) -> Node | None:
        """Parse `17 mod 5 = 2`; stay put when no equation follows the modulus."""
        if not self.at_mod():
            return None
        start = self.at
        self.next()
        modulus = self.factor()
        if self.peek.value != "=" or self.peek.kind != "op":
            self.at, self.peek = start, self.tokens[start]
            return None
        self.next()
        return ("rel", ("=",), (("f", "rem", (number, modulus)), self.operand()))

    def operand(self) -> Node:
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
        return (self.peek.value == ":" and not self.bars) or self.peek[:2] == ("text", "to")

    def descend(self) -> None:
        """Go one level down; every way back up lowers depth again."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unparsed("nested too deeply")

    def sum(self) -> Node:
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
            if sign == "+" and self.peek.value in ("-", "pm") and self.peek.kind == "op":
                continue
            term = self.term()
            if self.peek.value == "deg" and self.look(1).value in ("+", "-"):
                self.next()
                degrees = True
            terms.append(
                term if sign in ("", "+") else negative(term) if sign == "-" else (sign, term)
            )
        node = terms[0] if len(terms) == 1 else _added(terms)
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
        spaced, bracketed = self.peek.spaced, self.peek.value == "("
        factor = self.factor()
        if factor[0] == "n" and _is_whole(factors[-1]) and spaced and self.peek.value == "/":
            return [*factors, ("gap", factor)]
        mixed = None if bracketed else mixed_number(factors, factor)
        if mixed:
            return [mixed]
        if factor[0] in ("n", "d") and factors[-1][0] in ("n", "d"):
            raise Unparsed("two numbers side by side")
        return [*factors, factor]

    def starts_factor(self) -> bool:
        kind, value, spaced = self.peek
        if kind == "cmd":
            return value not in STOPS and value not in RELATIONS and value not in CURRENCY_SIGNS
        if kind == "op":
            if value == "[" and self.bars == 0:
                return self.tokens[self.at - 1].value in (")", "]") and self.at > 0
            if value == "(" and self.look(1)[:2] == ("text", "mod"):
                return False
            return value in OPENING or (value in ("|", "||") and not self.bars)
        if kind == "text":
            letter = self.peek.value
            return (
                len(letter) == 1 and letter.isalpha() and not spaced and letter not in _UNIT_LETTERS
            )
        return kind in _STARTS

    def signed_factor(self) -> Node:
        if self.peek.kind == "op" and self.peek.value in ("-", "+", "pm"):
            sign = self.next().value
            factor = self.signed_factor()
            return factor if sign == "+" else negative(factor) if sign == "-" else (sign, factor)
        return self.factor()

    def factor(self) -> Node:
        self.descend()
        node = self.postfix(self.atom())
        if self.peek.kind == "op" and self.peek.value in ("^", "**"):
            self.next()
            node = self.postfix(self.power(node))
        self.depth -= 1
        return node

    def power(self, base: Node) -> Node:
        if self.peek.value in ("prime", "'"):
            self.next()
            return primed(base)
        if self.peek.kind == "op" and self.peek.value in ("*", "+", "dagger"):
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
        while self.peek.kind == "op":
            value = self.peek.value
            if value == "!":
                self.next()
                double = self.peek.value == "!" and self.peek.kind == "op"
                if double:
                    self.next()
                node = ("f", "!!" if double else "!", (node,))
            elif value == "'":
                self.next()
                node = primed(node)
            elif value == "deg" and self.in_function:
                self.next()
                node = ("*", (node, ("/", ("c", "pi"), ("n", 180, 1))))
            else:
                break
        return node

    def atom(self) -> Node:
        self.descend()
        node = self.bare_atom()
        self.depth -= 1
        return node

    def bare_atom(self) -> Node:
        kind, value, _ = self.next()
        if kind == "num":
            return number(self, value)
        if kind == "sym":
            return symbol(self, value)
        if kind == "const":
            if value in ("e", "i") and self.peek.value == "_":
                return symbol(self, value)
            return ("c", value)
        if kind == "field":
            return field(self, value)
        if kind == "fn":
            return function(self, value)
        if kind == "text":
            return text(self, value)
        if kind == "cmd":
            return command(self, value)
        if kind == "op":
            return bracketed(self, value)
        raise Unparsed("the text ends too early")

    def argument(self) -> Node:
        """Parse the argument of a LaTeX command: a group, or the next single digit or token."""
        if self.accept("{"):
            node = self.items()
            self.expect("}")
            return node
        if self.peek.kind == "num" and len(self.peek.value) > 1 and self.peek.value.isdigit():
            digits = self.peek.value
            self.peek = Token("num", digits[1:], False)
            self.tokens[self.at] = self.peek
            return ("n", int(digits[0]), 1)
        return self.signed_atom()

    def nested(self, inner: str) -> Node:
        """Parse the text of a wrapper as an answer of its own."""
        return parse(inner)

    def signed_atom(self) -> Node:
        if self.peek.value == "-" and self.peek.kind == "op":
            self.next()
            return negative(self.atom())
        return self.atom()


_MODS = {"pmod", "bmod", "mod"}
_SETS = {"such", "set", "cup", "cap", "setminus", "field"}


def _added(terms: list[Node]) -> Node:
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


def _is_whole(node: Node) -> bool:
    return node[0] == "n" and node[2] == 1
