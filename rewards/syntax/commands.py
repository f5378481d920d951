"""Parse LaTeX commands and named functions."""

from rewards.syntax.brackets import environment
from rewards.syntax.cursor import Cursor
from rewards.syntax.lexer import FUNCTIONS, Unparsed
from rewards.syntax.names import arguments, symbol
from rewards.syntax.nodes import Node, product, spell
from rewards.syntax.normalise import words
from rewards.syntax.numbers import number
from rewards.syntax.tree import rebuild
from rewards.syntax.units import CURRENCIES, CURRENCY_SIGNS, unit_name

STOPS = {"rangle", "rfloor", "rceil", "end", "choose", "over", "pmod", "bmod", "forall"}
_BIG = {"sum", "prod", "int", "iint", "oint", "lim", "limsup", "liminf", "bigcup", "bigcap"}
_UNFINISHED = {"gcd", "lcm", "det", "trace", "rank", "dim", "ker", "tr", "deg", "sup"}
_WRAPPERS = {"text", "textbf", "mathrm", "mathbf", "mbox", "bm", "boldsymbol", "mathit", "textit"}
_MARKS = {"overline", "bar", "hat", "vec", "tilde", "widehat", "overrightarrow", "dot"}


def text(parser: Cursor, value: str) -> Node:
    """Parse the content of a text command: a symbol, an answer, a function, a currency or words."""
    inner = value.strip()
    if len(inner) == 1 and inner.isalpha():
        return ("c", inner) if inner in "ei" else symbol(parser, inner)
    if inner[:1].isdigit() or (inner[:1] in "-.(\\" and any(c.isdigit() for c in inner)):
        return parser.nested(inner)
    if inner in FUNCTIONS:
        return function(parser, inner)
    currency = CURRENCY_SIGNS.get(inner[1:]) or unit_name(inner)
    if currency in CURRENCIES and parser.starts_factor():
        return ("unit", parser.sum(), currency)
    return ("text", words(inner))


def command(parser: Cursor, name: str) -> Node:
    """Parse the arguments of a command; one that is not known names a symbol."""
    if name in ("frac", "dfrac", "tfrac", "cfrac", "nicefrac", "sfrac", "flatfrac"):
        top = parser.argument()
        bottom = parser.argument()
        # d over dx asks for a derivative; left as a fraction it would cancel to 1/x.
        if top == ("s", "d") and bottom[0] == "*" and bottom[1][0] == ("s", "d"):
            return ("big", "derivative", (bottom,))
        return ("/", top, bottom)
    if name == "sqrt":
        return _root(parser)
    if name in ("binom", "dbinom", "tbinom"):
        top = parser.argument()
        return ("f", "binom", (top, parser.argument()))
    if name in ("lfloor", "lceil"):
        node = parser.sum()
        parser.expect("rfloor" if name == "lfloor" else "rceil")
        return ("f", "floor" if name == "lfloor" else "ceil", (node,))
    if name == "langle":
        return ("tuple", "()", arguments(parser, "rangle"))
    if name in ("emptyset", "varnothing"):
        return ("set", ())
    if name == "begin":
        return environment(parser)
    if name in _BIG:
        return _big(parser, name)
    # macros that papers define, none of LaTeX's own
    if name in ("R", "Z", "N", "Q", "C", "reals"):
        return ("field", "R" if name == "reals" else name)
    if name in CURRENCY_SIGNS:
        return ("unit", parser.sum(), CURRENCY_SIGNS[name])
    if name in _MARKS:
        name = "vec" if name == "overrightarrow" else name
        return ("s", f"{name}({spell(parser.argument())})")
    if name in ("angle", "triangle", "measuredangle"):
        return ("s", name)
    if name in _WRAPPERS:
        return parser.argument()
    if name in STOPS:
        raise Unparsed(f"unexpected \\{name}")
    return symbol(parser, "\\" + name)


def _root(parser: Cursor) -> Node:
    degree = ("n", 2, 1)
    if parser.accept("["):
        degree = parser.sum()
        parser.expect("]")
    if parser.peek.kind == "num":  # `\sqrt12` is the root of 12, unlike TeX: models mean that
        radicand = number(parser, parser.next().value)
    elif parser.peek.value == "(" and parser.peek.kind == "op":
        radicand = parser.atom()
    else:
        radicand = parser.argument()
    return ("f", "root", (radicand, degree))


_NUM_ARGS = {"binom": (2,), "log": (1, 2), "!": (1,), "abs": (1,), "floor": (1,), "ceil": (1,)}
"""How many arguments the functions take that later stages compute exactly."""
_SAME_FUNCTIONS = {"asin": "arcsin", "acos": "arccos", "atan": "arctan"}
_SAME_FUNCTIONS |= {f"{a}{f}": f"arc{f}" for a in ("a", "ar") for f in ("sinh", "cosh", "tanh")}


def function(parser: Cursor, name: str) -> Node:
    """Parse a power, a base and the argument of a named function, under one name for synonyms."""
    power = base = None
    name = _SAME_FUNCTIONS.get(name, name)
    while parser.peek.value in ("^", "_") and parser.peek.kind == "op":
        if parser.next().value == "^":
            power = parser.argument()
        else:
            base = parser.argument()
    if name in _UNFINISHED or (name in ("max", "min") and base):
        return ("big", name, (_function_argument(parser),))
    if name == "sqrt":
        return ("f", "root", (_function_argument(parser), ("n", 2, 1)))
    inner = _function_argument(parser)
    args = inner[1] if inner[0] == "list" else (inner,)
    if name == "cis":
        turn = ("*", (("c", "i"), ("f", "sin", args)))
        return ("+", (("f", "cos", args), turn))
    if name in ("binomial", "comb"):
        name = "binom"
    if name == "factorial":
        name = "!"
    if base is not None:
        args = (*args, base)
    # later stages unpack that many and would fail on others
    if len(args) not in _NUM_ARGS.get(name, (len(args),)):
        raise Unparsed(f"{name} of {len(args)} arguments")
    if power in (("-", ("n", 1, 1)), ("n", -1, 1)):
        return ("f", "arc" + name, args)  # `\sin^{-1} x` is the inverse, not 1 / sin x
    node = ("f", name, args)
    return ("^", node, power) if power is not None else node


def _function_argument(parser: Cursor) -> Node:
    """Parse the argument of a named function: brackets, or factors up to the next function."""
    parser.in_function += 1
    try:
        if parser.peek.value in ("(", "[") and parser.peek.kind == "op":
            node = parser.atom()
            if node[0] == "tuple":
                return ("list", node[2], ",")
            return parser.postfix(node)
        if parser.peek.kind == "cmd" and parser.peek.value == "begin":
            return parser.atom()
        factors = [parser.signed_factor()]
        # `\sin x \cos y`: the next function is a factor beside this one
        while parser.starts_factor() and parser.peek.kind != "fn":
            if parser.peek.value in ("(", "|"):  # `\sin x (x+1)`: a factor beside the sine
                break
            factors.append(parser.factor())
        node = product(factors)
        # `\sin \pi/6` is meant as the sine of the fraction
        while parser.peek.value == "/" and parser.peek.kind == "op":
            parser.next()
            node = ("/", node, parser.factor())
        return node
    finally:
        parser.in_function -= 1


def _big(parser: Cursor, name: str) -> Node:
    parts = []
    while parser.peek.value in ("^", "_") and parser.peek.kind == "op":
        parts.append(("text", parser.next().value))
        braced = parser.accept("{")
        parts.append(parser.items() if braced else parser.atom())
        if braced:
            parser.expect("}")
    parts.append(parser.sum())
    counted = [part[2][0] for part in parts if part[0] == "rel"]
    if ("c", "i") in counted:  # an index, not the imaginary unit
        parts = [_with_index_i(part) for part in parts]
    return ("big", name, tuple(parts))


def _with_index_i(node: Node) -> Node:
    if node[0] == "rel":
        return ("rel", node[1], tuple(_with_index_i(part) for part in node[2]))
    return rebuild(node, lambda part: ("s", "i") if part == ("c", "i") else part)
