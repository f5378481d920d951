"""Cut normalised LaTeX or plain text into a bounded list of tokens."""

import re
from typing import NamedTuple

from rewards.syntax.digit_groups import digit_groups
from rewards.syntax.units import is_unit

MAX_TOKENS, MAX_WORD = 600, 40
"""No answer needs as many; they bound the parser's work and its depth."""


class Token(NamedTuple):
    r"""A piece of text with its kind.

    kind: num, sym, const, field, fn, cmd, text, op or end. value: its text, in one spelling for all
    that mean the same (`\leq` is `<=`). spaced: whether white space stands before it.
    """

    kind: str
    value: str
    spaced: bool


class Unparsed(ValueError):
    """The text is not in the language of the parser."""


# One match is one token. The alternatives are tried in this order: numbers come before the single
# characters that they are made of. Runs of letters match as one letter and are cut by _words.
_TOKEN = re.compile(
    r"(?P<space>\s*)(?:"
    r"(?P<num>\d{1,3}(?:,\d{3})+(?!,?\d)(?:\.\d+)?|\d{1,3}(?: \d{3})+(?! ?\d)(?:\.\d+)?"
    r"|(?:\d+\.\d+|\d+\.(?![\d.])|\.?\d+)(?:[eE][-+]?\d+(?![\w.]))?)"
    r"|\\(?P<text>(?:text(?:bf|it|rm|sf|sc|tt|normal|up)?|mathrm|mathbf|mathit|mathsf|mathtt|bm"
    r"|mathnormal|boldsymbol|bold|pmb|operatorname\*?|mbox|hbox|emph|underline)\s*\{[^{}]*\})"
    r"|(?P<degree>\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))|\\degree(?![a-zA-Z]))"
    r"|(?P<letter>\\math(?:bb|bf|rm|cal|scr|frak)\s*\{\s*[A-Za-z]\s*\}|\\mathbb\s*[A-Z])"
    r"|\\(?P<cmd>[A-Za-z]+\*?)"
    r"|(?P<op>\\[{}|%$\\&_#]|\*\*|<=|>=|!=|==|\.\.\.|.)"
    r")",
    re.S,
)
_WORD = re.compile(r"[A-Za-z]+")


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


FUNCTIONS = _names("""
    sin cos tan cot sec csc sinh cosh tanh coth sech csch exp ln log lg arcsin arccos arctan arccot
    arcsec arccsc arsinh arcosh artanh arcsinh arccosh arctanh asinh acosh
    atanh asin acos atan sqrt max min gcd lcm
    det sup inf dim ker deg arg Re Im Arg abs floor ceil sgn sign binomial binom comb tr trace rank
    cis erf gamma Gamma zeta Phi phi factorial mod
""")
# Names that mean a function even without a backslash: `phi` or `tr` may be a product of symbols.
_PLAIN_FUNCTIONS = FUNCTIONS - _names("inf gamma Gamma zeta Phi phi mod deg tr")
_WORD_CONSTS = {"pi": "pi", "infty": "inf", "infinity": "inf", "Infinity": "inf", "oo": "inf"}
_GREEK_WORDS = {"alpha", "beta", "gamma", "delta", "theta", "lambda", "mu", "sigma", "omega", "phi"}
_SPACED_OPS = {"and", "or", "to"}


def tokenize(text: str) -> list[Token]:
    """Return the tokens of normalised text; raises Unparsed past MAX_TOKENS."""
    tokens: list[Token] = []
    at, size = 0, len(text)
    groups = digit_groups(text) if "," in text else frozenset()
    while at < size:
        if len(tokens) >= MAX_TOKENS:
            raise Unparsed("too many tokens")
        found = _TOKEN.match(text, at)
        if found is None:
            break
        kind, spaced = found.lastgroup, found.end("space") > at
        at = found.end()
        value = found.group(kind) if kind else ""
        if kind == "op" and value.isalpha() and value.isascii():
            word = _WORD.match(text, at - 1)
            assert word is not None
            at = word.end()
            if at - word.start() > MAX_WORD:
                raise Unparsed("a word of too many letters")
            _words(word.group(), spaced, tokens)
        elif kind == "text":
            inner = value[value.index("{") + 1 : -1]
            name = inner.strip()
            if value[0] in "om" and name in _PLAIN_FUNCTIONS:  # \operatorname, \mathrm, \mbox
                tokens.append(Token("fn", name, spaced))
            else:
                tokens.append(Token("text", name, spaced or inner[:1] == " "))
        elif kind == "letter":
            field = value.startswith("\\mathbb")
            tokens.append(Token("field" if field else "sym", value.rstrip("} ")[-1], spaced))
        elif kind == "cmd":
            tokens.append(_command(value, spaced))
        elif kind == "degree":
            tokens.append(Token("op", "deg", spaced))
        elif kind:
            if kind == "num" and "," in value and at - len(value) not in groups:
                # The comma separates: `1,234` is cut after the 1, and the rest is read again.
                value, _, rest = value.partition(",")
                at -= len(rest) + 1
            tokens.append(Token(kind, "||" if value == "\\|" else value, spaced))
    tokens.append(Token("end", "", False))
    return tokens


_COMMAND_OPS = {
    name: op
    for op, names in (
        *(("*", "cdot times ast star bullet"), ("/", "div slash"), ("%", "percent")),
        *(("<", "lt"), ("<=", "le leq leqslant leqq"), (">", "gt"), (">=", "ge geq geqslant geqq")),
        *(("!=", "ne neq"), ("approx", "approx cong"), ("equiv", "equiv"), ("~", "sim")),
        *(("|", "mid vert lvert rvert"), ("||", "Vert lVert rVert"), ("pm", "pm"), ("mp", "mp")),
        *(("(", "lparen"), (")", "rparen"), ("[", "lbrack"), ("]", "rbrack")),
        *(("\\{", "lbrace"), ("\\}", "rbrace"), (",", "land wedge"), ("or", "lor vee")),
        *(("in", "in"), ("cup", "cup"), ("cap", "cap"), ("setminus", "setminus backslash")),
        *(("...", "dots ldots cdots dotsc vdots"), (":", "colon"), ("to", "to rightarrow")),
    )
    for name in names.split()
}
_COMMAND_FUNCTIONS = FUNCTIONS - _names("gamma Gamma zeta Phi phi mod sqrt binom")


def _command(name: str, spaced: bool) -> Token:
    op = _COMMAND_OPS.get(name)
    if op:
        return Token("text" if op == "or" else "op", op, spaced)
    if name == "mod":
        return Token("text", name, spaced)
    if name in ("pi", "infty"):
        return Token("const", _WORD_CONSTS[name], spaced)
    return Token("fn" if name in _COMMAND_FUNCTIONS else "cmd", name, spaced)


def _words(word: str, spaced: bool, tokens: list[Token]) -> None:
    """Add the tokens of a run of letters: a function, constant, unit, or product of symbols."""
    if len(word) == 1:
        tokens.append(Token("const" if word in "ie" else "sym", word, spaced))
    elif word in _SPACED_OPS or word == "mod":
        tokens.append(Token("text", word, spaced))
    elif word in _WORD_CONSTS:
        tokens.append(Token("const", _WORD_CONSTS[word], spaced))
    elif word in _PLAIN_FUNCTIONS:
        tokens.append(Token("fn", word, spaced))
    elif word in _GREEK_WORDS:
        tokens.append(Token("cmd", word, spaced))
    elif tokens and tokens[-1].kind == "num" and is_unit(word):
        tokens.append(Token("text", word, spaced))
    elif len(word) >= 4 and word[:3] in ("sin", "cos", "tan", "log"):
        tokens.append(Token("fn", word[:3], spaced))
        _words(word[3:], False, tokens)
    else:
        for k, letter in enumerate(word):
            kind = "const" if letter in "ie" else "sym"
            tokens.append(Token(kind, letter, spaced and k == 0))
