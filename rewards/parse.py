r"""A bounded parser from normalised LaTeX to a small tree of tuples; it evaluates nothing.

A node is a tuple whose first item is its tag. Scalars: `("n", p, q)` the rational p/q,
`("d", digits, decimals)` a decimal literal, `("s", name)`, `("c", "pi" | "e" | "i" | "inf")`,
`("+", nodes)`, `("*", nodes)`, `("/", a, b)`, `("^", a, b)`, `("-", a)`, `("pm", a)`, `("mp", a)`,
`("f", name, nodes)`, `("unit", a, name)`. Structures: `("tuple", "(]", items)`, `("set", items)`,
`("list", items, separator)`, `("rel", ops, nodes)`, `("cup" | "cap" | "setminus", a, b)`,
`("matrix", rows)`, `("field", letter)`, `("text", words)`, `("ratio", items)`, `("such", a, b)`,
`("...",)` and `("big", name, nodes)`, an operation left for the reader to carry out.
"""

from rewards.lexer import FUNCTIONS, Token, Unparsed, tokenize
from rewards.numbers import fold_recurring, mixed_number, number_node
from rewards.normalise import words
from rewards.units import unit_name

Node = tuple

MAX_DEPTH = 40
RELATIONS = {"=", "==", "<", ">", "<=", ">=", "!=", "approx", "equiv", "in", "to", "~"}
_BIG = {"sum", "prod", "int", "iint", "oint", "lim", "limsup", "liminf", "bigcup", "bigcap"}
_UNFINISHED = {"gcd", "lcm", "det", "trace", "rank", "dim", "ker", "tr", "deg", "sup"}
_CLOSERS = {"(": ")]", "[": "])", "\\{": ("\\}",), "langle": ("rangle",)}
_SEPARATORS = {",", ";"}
_STARTS = {"num", "sym", "const", "fn", "cmd", "field"}
_OPENING = {"(", "[", "\\{", "{"}
_MATRICES = {"pmatrix", "bmatrix", "matrix", "array", "smallmatrix", "Bmatrix", "vmatrix", "cases"}
_STOP_COMMANDS = {"rangle", "rfloor", "rceil", "end", "choose", "pmod", "bmod", "forall"}
_WRAPPERS = {"text", "textbf", "mathrm", "mathbf", "mbox", "bm", "boldsymbol", "mathit", "textit"}
_FUNCTION_LETTERS = set("fghFGH")


def parse(text: str) -> Node:
    """Return the tree of normalised text; raises Unparsed when the text is outside the language."""
    parser = _Parser(tokenize(text))
    node = parser.items(top=True)
    if parser.peek.kind != "end":
        raise Unparsed(f"unexpected {parser.peek.value!r}")
    return node


class _Parser:
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

    # Lists and relations

    def items(self, top: bool = False) -> Node:
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
        return self.peek.value in (")", "]", "\\}", "}", "&", "\\\\", "rangle", "rfloor", "end")

    def relation(self) -> Node:
        if self.peek.kind == "op" and self.peek.value in ("=", "approx", "~"):
            self.next()
        operands, operators = [self.operand()], []
        while self.peek.kind in ("op", "cmd") and self.peek.value in RELATIONS:
            operators.append(self.next().value)
            operands.append(self.operand())
        node = ("rel", tuple(operators), tuple(operands)) if operators else operands[0]
        if self.peek.value in ("pmod", "bmod") or (self.peek.value, self.peek.kind) == (
            "mod",
            "text",
        ):
            self.next()
            node = ("mod", node, self.factor())
        elif self.peek.value == "(" and self.look(1).value == "mod":
            self.next(), self.next()
            node = ("mod", node, self.sum())
            self.expect(")")
        if self.peek.kind == "text" and words(self.peek.value) in ("since", "because"):
            self.peek = self.tokens[-1]
            self.at = len(self.tokens) - 1
        return node

    def operand(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unparsed("nested too deeply")
        node = self.sum()
        while self.peek.value in ("cup", "cap", "setminus") and self.peek.kind == "op":
            node = (self.next().value, node, self.sum())
        if self.peek.value == ":" and not self.bars:
            parts = [node]
            while self.accept(":"):
                parts.append(self.sum())
            node = ("ratio", tuple(parts))
        self.depth -= 1
        return node

    # Sums, products, powers

    def sum(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unparsed("nested too deeply")
        terms = []
        while True:
            sign = self.peek.value if self.peek.kind == "op" else ""
            if sign in ("+", "-", "pm", "mp"):
                self.next()
            elif terms:
                break
            if sign == "+" and self.peek.value in ("-", "pm") and self.peek.kind == "op":
                continue
            term = self.term(sign)
            terms.append(
                term if sign in ("", "+") else _negative(term) if sign == "-" else (sign, term)
            )
        node = terms[0] if len(terms) == 1 else ("+", tuple(terms))
        if self.accept("choose"):
            node = ("f", "binom", (node, self.sum()))
        self.depth -= 1
        return self.with_unit(node)

    def with_unit(self, node: Node) -> Node:
        if self.peek.kind == "op" and self.peek.value == "deg":
            self.next()
            node = ("unit", node, "deg")
        if self.peek.kind == "op" and self.peek.value in ("%", "\\%"):
            self.next()
            node = ("unit", node, "%")
        if self.peek.kind != "text" or self.in_function:
            return node
        name, start = [], self.at
        while self.peek.kind == "text" or (name and self.peek.value in ("/", "^")):
            if self.peek.kind == "text" and words(self.peek.value) in (
                "since",
                "because",
                "or",
                "and",
            ):
                break
            token = self.next()
            name.append(token.value)
            if token.value == "^":
                power = self.factor()
                name.append(str(power[1]) if power[0] == "n" else "?")
        if self.accept("("):
            raise Unparsed("a remark in brackets")
        unit = unit_name(" ".join(name).replace(" ^ ", "^")) if name else None
        if unit is None:
            self.at, self.peek = start, self.tokens[start]
            return node
        return node if node[0] == "unit" and unit == node[2] else ("unit", node, unit)

    def term(self, sign: str = "") -> Node:
        factors = [self.factor(first=True)]
        while True:
            kind, value, spaced = self.peek
            if kind == "op" and value == "*":
                self.next()
                factors.append(self.signed_factor())
            elif kind == "op" and value == "/":
                if self.look(1).kind == "text":
                    break
                self.next()
                over = self.signed_factor()
                mixed = mixed_number(factors, over) if spaced or True else None
                if mixed:
                    factors = [mixed]
                else:
                    factors[-1:] = (
                        [("/", factors[-1], over)]
                        if len(factors) == 1
                        else [("/", _product(factors), over)]
                    )
                    factors = factors[-1:]
            elif self.starts_factor():
                factor = self.factor()
                if (
                    self.peek.value == "/"
                    and factor[0] == "n"
                    and _is_whole(factors[-1])
                    and spaced
                ):
                    factors.append(("gap", factor))
                    continue
                mixed = mixed_number(factors, factor)
                if mixed:
                    factors[-1] = mixed
                elif factor[0] in ("n", "d") and factors[-1][0] in ("n", "d"):
                    raise Unparsed("two numbers side by side")
                else:
                    factors.append(factor)
            else:
                break
        if any(f[0] == "gap" for f in factors):
            raise Unparsed("two numbers side by side")
        return _product(factors)

    def starts_factor(self) -> bool:
        kind, value, _ = self.peek
        if kind == "cmd":
            return value not in _STOP_COMMANDS and value not in RELATIONS
        if kind == "op":
            if value == "[" and self.bars == 0:
                return False
            return value in _OPENING or (value in ("|", "||") and not self.bars)
        if kind == "text":
            return len(self.peek.value) == 1 and self.peek.value.isalpha() and not self.peek.spaced
        return kind in _STARTS

    def signed_factor(self) -> Node:
        if self.peek.kind == "op" and self.peek.value in ("-", "+", "pm"):
            sign = self.next().value
            factor = self.signed_factor()
            return factor if sign == "+" else _negative(factor) if sign == "-" else (sign, factor)
        return self.factor()

    def factor(self, first: bool = False) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unparsed("nested too deeply")
        node = self.postfix(self.atom())
        if self.peek.kind == "op" and self.peek.value in ("^", "**"):
            self.next()
            node = self.postfix(self.power(node))
        self.depth -= 1
        return node

    def power(self, base: Node) -> Node:
        if self.peek.value in ("prime", "'"):
            self.next()
            return _primed(base)
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
                node = _primed(node)
            elif value == "deg" and self.in_function:
                self.next()
                node = ("*", (node, ("/", ("c", "pi"), ("n", 180, 1))))
            else:
                break
        return node

    # Atoms

    def atom(self) -> Node:
        kind, value, _ = self.next()
        if kind == "num":
            return self.number(value)
        if kind == "sym":
            return self.symbol(value)
        if kind == "const":
            if value in ("e", "i") and self.peek.value == "_":
                return self.symbol(value)
            return ("c", value)
        if kind == "field":
            return self.field(value)
        if kind == "fn":
            return self.function(value)
        if kind == "text":
            return self.text(value)
        if kind == "cmd":
            return self.command(value)
        if kind == "op":
            return self.bracketed(value)
        raise Unparsed("the text ends too early")

    def number(self, value: str) -> Node:
        if self.peek.value == "_" and self.peek.kind == "op":
            self.next()
            base = self.argument()
            if base[0] == "-" and base[1][0] == "n":
                base = ("n", -base[1][1], 1)
            if base[0] != "n" or not value.isdigit():
                raise Unparsed("a number with an index that is no base")
            return ("based", value, base[1])
        if self.peek.value in ("overline", "bar", "dot", "overbar") and self.peek.kind == "cmd":
            return self.recurring(value)
        if self.peek.value == "...":
            whole = fold_recurring(value)
            if whole:
                self.next()
                return whole
        return number_node(value)

    def recurring(self, value: str) -> Node:
        """Parse what follows the fixed digits of a recurring decimal."""
        digits = ""
        while self.peek.value in ("overline", "bar", "dot", "overbar") and self.peek.kind == "cmd":
            self.next()
            self.accept("{")
            if self.peek.kind != "num":
                raise Unparsed("a recurring decimal without digits")
            digits += self.next().value
            self.accept("}")
        return number_node(value, digits)

    def symbol(self, name: str) -> Node:
        if self.peek.value == "_" and self.peek.kind == "op":
            self.next()
            name = f"{name}_{self.index()}"
        called = name[0] in _FUNCTION_LETTERS or (
            self.look(1).kind == "sym" and (self.look(2).value, self.look(3).value) == (")", "=")
        )
        if called and self.peek.value == "(" and self.peek.kind == "op":
            self.next()
            return ("f", f"@{name}", self.arguments(")"))
        return ("s", name)

    def index(self) -> str:
        if not self.accept("{"):
            token = self.next()
            if token.kind == "num" and len(token.value) > 1:
                raise Unparsed("an index of several digits without braces")
            return token.value
        parts, depth = [], 1
        while self.peek.kind != "end":
            token = self.next()
            depth += (token.value == "{") - (token.value == "}")
            if depth == 0:
                return "".join(parts)
            parts.append(token.value)
        raise Unparsed("an index that never ends")

    def arguments(self, closer: str) -> tuple[Node, ...]:
        inner = self.items()
        self.expect(closer)
        return inner[1] if inner[0] == "list" else (inner,)

    def field(self, letter: str) -> Node:
        name = letter
        if self.peek.value in ("^", "_") and self.peek.kind == "op":
            mark = self.next().value
            name += mark + (self.next().value if self.peek.value in "+-*" else self.index())
        return ("field", name)

    def text(self, value: str) -> Node:
        inner = value.strip()
        if len(inner) == 1 and inner.isalpha():
            return (
                ("c", "e") if inner == "e" else ("c", "i") if inner == "i" else self.symbol(inner)
            )
        if inner[:1].isdigit() or inner[:1] in "-.(" and any(c.isdigit() for c in inner):
            return _Parser(tokenize(inner)).whole()
        if inner in FUNCTIONS:
            return self.function(inner)
        return ("text", words(inner))

    def whole(self) -> Node:
        node = self.items()
        if self.peek.kind != "end":
            raise Unparsed("text that is no number")
        return node

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

    def signed_atom(self) -> Node:
        if self.peek.value == "-" and self.peek.kind == "op":
            self.next()
            return _negative(self.atom())
        return self.atom()

    def command(self, name: str) -> Node:
        if name in ("frac", "dfrac", "tfrac", "cfrac"):
            top = self.argument()
            return ("/", top, self.argument())
        if name == "sqrt":
            return self.root()
        if name in ("binom", "dbinom", "tbinom"):
            top = self.argument()
            return ("f", "binom", (top, self.argument()))
        if name in ("lfloor", "lceil"):
            node = self.sum()
            self.expect("rfloor" if name == "lfloor" else "rceil")
            return ("f", "floor" if name == "lfloor" else "ceil", (node,))
        if name == "langle":
            items = self.arguments("rangle")
            return ("tuple", "()", items)
        if name in ("emptyset", "varnothing"):
            return ("set", ())
        if name == "begin":
            return self.environment()
        if name in _BIG:
            return self.big(name)
        if name in ("R", "Z", "N", "Q", "C", "reals"):
            return ("field", "R" if name == "reals" else name)
        if name in ("euro", "pounds"):
            return ("unit", self.sum(), "eur" if name == "euro" else "pound-sterling")
        if name in ("overline", "bar", "hat", "vec", "tilde", "widehat", "overrightarrow", "dot"):
            return ("s", f"{name}({_spell(self.argument())})")
        if name in ("angle", "triangle", "measuredangle"):
            return ("s", name)
        if name in _WRAPPERS:
            return self.argument()
        if name in _STOP_COMMANDS:
            raise Unparsed(f"unexpected \\{name}")
        return self.symbol("\\" + name)

    def root(self) -> Node:
        degree = ("n", 2, 1)
        if self.accept("["):
            degree = self.sum()
            self.expect("]")
        if self.peek.kind == "num":
            radicand = self.number(self.next().value)
        elif self.peek.value == "(" and self.peek.kind == "op":
            radicand = self.atom()
        else:
            radicand = self.argument()
        return ("f", "root", (radicand, degree))

    def function(self, name: str) -> Node:
        power = base = None
        while self.peek.value in ("^", "_") and self.peek.kind == "op":
            if self.next().value == "^":
                power = self.argument()
            else:
                base = self.argument()
        if name in _UNFINISHED or (name in ("max", "min") and base):
            return ("big", name, (self.function_argument(),))
        if name == "sqrt":
            return ("f", "root", (self.function_argument(), ("n", 2, 1)))
        inner = self.function_argument()
        args = inner[1] if inner[0] == "list" else (inner,)
        if name in ("binomial", "comb"):
            name = "binom"
        if name == "factorial":
            name = "!"
        if base is not None:
            args = (*args, base)
        if power == ("-", ("n", 1, 1)) or power == ("n", -1, 1):
            return ("f", "arc" + name, args)
        node = ("f", name, args)
        return ("^", node, power) if power is not None else node

    def function_argument(self) -> Node:
        """Parse the argument of a named function: brackets, or factors up to the next function."""
        self.in_function += 1
        try:
            if self.peek.value in ("(", "[") and self.peek.kind == "op":
                node = self.atom()
                if node[0] == "tuple":
                    return ("list", node[2], ",")
                return self.postfix(node)
            if self.peek.kind == "cmd" and self.peek.value == "begin":
                return self.atom()
            factors = [self.signed_factor()]
            while self.starts_factor() and self.peek.kind != "fn":
                if self.peek.value in ("(", "|"):
                    break
                factors.append(self.factor())
            node = _product(factors)
            while self.peek.value == "/" and self.peek.kind == "op":
                self.next()
                node = ("/", node, self.factor())
            return node
        finally:
            self.in_function -= 1

    def bracketed(self, opener: str) -> Node:
        if opener in ("|", "||"):
            self.bars += 1
            node = self.items()
            self.bars -= 1
            self.expect(opener)
            return ("f", "abs", (node,))
        if opener in ("\\$", "$"):
            return ("unit", self.sum(), "dollar")
        if opener == "...":
            return ("...",)
        if opener not in _OPENING:
            raise Unparsed(f"unexpected {opener!r}")
        bars, self.bars = self.bars, 1 if opener == "\\{" else 0
        try:
            return self.group(opener)
        finally:
            self.bars = bars

    def group(self, opener: str) -> Node:
        start = self.at
        if self.peek.value in (")", "\\}", "]"):
            closer = self.next().value
            if (opener, closer) == ("\\{", "\\}"):
                return ("set", ())
            raise Unparsed("empty brackets")
        inner = self.items()
        if opener == "\\{":
            return self.set_of(inner)
        closer = self.next().value
        if opener == "{":
            if closer != "}":
                raise Unparsed("braces that do not match")
            return inner
        if closer not in _CLOSERS[opener]:
            raise Unparsed("brackets that do not match")
        if inner[0] != "list" and self.at - start == 2:
            inner = _ungrouped(self.tokens[start], inner)
        if inner[0] == "list" and inner[2] != "or":
            return ("tuple", opener + closer, inner[1])
        if opener + closer == "()" or (opener + closer == "[]" and inner[0] != "list"):
            return inner
        raise Unparsed("brackets round one item")

    def set_of(self, inner: Node) -> Node:
        if self.peek.value in ("|", ":") and self.peek.kind == "op":
            self.next()
            condition = self.items()
            self.expect("\\}")
            return ("such", inner, condition)
        self.expect("\\}")
        return ("set", inner[1] if inner[0] == "list" else (inner,))

    def environment(self) -> Node:
        name = self.index_name()
        if name not in _MATRICES:
            raise Unparsed(f"environment {name}")
        if name == "array" and self.accept("{"):
            while self.peek.kind != "end" and not self.accept("}"):
                self.next()
        rows, row = [], []
        while True:
            if self.accept("\\\\"):
                rows, row = [*rows, tuple(row)] if row else rows, []
            elif self.accept("end"):
                self.index_name()
                break
            elif not self.accept("&") and not self.accept("hline"):
                row.append(self.relation())
                while name == "cases" and self.separator():
                    pass
            if self.peek.kind == "end":
                break
        rows = [*rows, tuple(row)] if row else rows
        if len({len(r) for r in rows}) != 1 and name != "cases":
            raise Unparsed("a matrix with rows of different lengths")
        node = ("matrix", tuple(rows))
        if name == "vmatrix":
            return ("big", "det", (node,))
        return ("f", "cases", (node,)) if name == "cases" else node

    def index_name(self) -> str:
        self.expect("{")
        name = ""
        while self.peek.kind not in ("end",) and not self.accept("}"):
            name += self.next().value
        return name

    def big(self, name: str) -> Node:
        parts = []
        while self.peek.value in ("^", "_") and self.peek.kind == "op":
            mark = self.next().value
            self.expect("{") if self.peek.value == "{" else None
            braced = self.tokens[self.at - 1].value == "{"
            parts.append(("text", mark))
            parts.append(self.items() if braced else self.atom())
            if braced:
                self.expect("}")
        parts.append(self.sum())
        return ("big", name, tuple(parts))


def _is_whole(node: Node) -> bool:
    return node[0] == "n" and node[2] == 1


def _negative(node: Node) -> Node:
    if node[0] == "n":
        return ("n", -node[1], node[2])
    if node[0] == "d":
        return ("d", -node[1], node[2])
    if node[0] == "unit":
        return ("unit", _negative(node[1]), node[2])
    return ("-", node)


def _product(factors: list[Node]) -> Node:
    if len(factors) == 1:
        return factors[0]
    if any(f[0] == "unit" for f in factors):
        inner = tuple(f[1] if f[0] == "unit" else f for f in factors)
        return ("unit", ("*", inner), next(f[2] for f in factors if f[0] == "unit"))
    return ("*", tuple(factors))


def _primed(node: Node) -> Node:
    if node[0] == "s":
        return ("s", node[1] + "'")
    if node[0] == "f" and node[1].startswith("@"):
        return ("f", node[1] + "'", node[2])
    raise Unparsed("a prime on something that is no name")


def _ungrouped(token: Token, node: Node) -> Node:
    """Read `(1,234)` as a pair: inside brackets a lone comma separates."""
    if token.kind == "num" and "," in token.value and node[0] == "n":
        return ("list", tuple(number_node(part) for part in token.value.split(",")), ",")
    return node


def _spell(node: Node) -> str:
    if node[0] == "s":
        return node[1]
    if node[0] == "*":
        return "".join(_spell(f) for f in node[1])
    raise Unparsed("a mark on something that is no name")
