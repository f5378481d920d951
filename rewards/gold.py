"""Parse the gold answer of a problem, once, when data loads."""

import re
from dataclasses import dataclass, replace
from enum import StrEnum

from rewards.extract import extract
from rewards.syntax.nodes import Node
from rewards.syntax.normalise import MAX_LEN, compact, normalise, unescaped, words


class Kind(StrEnum):
    """The kinds of golds."""

    INTEGER = "integer"
    RATIONAL = "rational"
    DECIMAL = "decimal"
    EXPRESSION = "expression"
    EQUATION = "equation"
    TUPLE = "tuple"
    SET = "set"
    LIST = "list"
    INTERVAL = "interval"
    RELATION = "relation"
    MATRIX = "matrix"
    COMPLEX = "complex"
    BASED = "based"
    TIME = "time"
    RATIO = "ratio"
    CHOICE = "choice"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Gold:
    """A gold answer ready for comparison: picklable, small, and never shrunk to a part of itself.

    text: as given, stripped. kind: what it is. node: its tree, None for a text that is only
    compared as text. plain: its normalised form. number: (numerator, denominator) of a plain
    number. letters: the choices that it names.
    """

    text: str
    kind: Kind
    node: Node | None
    plain: str
    number: tuple[int, int] | None
    letters: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Gold":
        """Return the gold that text states: LaTeX, plain text, in `$...$` or in a `\\boxed{}`.

        Raises ValueError with the reason and the remedy for a gold that nothing could equal.
        """
        # Imported here: `rewards` must import quickly, and the parser's patterns take their time.
        from rewards.equality.scalar import rational
        from rewards.syntax.choices import gold_label, letter_run, letters
        from rewards.syntax.read import plain_number, read

        if not isinstance(text, str):
            raise ValueError(f"gold is a {type(text).__name__}; give it as a string")
        text = _unwrap(unescaped(text).strip())
        number = plain_number(text)
        if number is not None:
            kind = Kind.INTEGER if number[1] == 1 else Kind.RATIONAL
            if "." in text:
                kind = Kind.DECIMAL
            return cls(text, kind, read(text), text, number)
        plain = _checked(text)
        _refuse_solution(text)
        label = gold_label(plain)
        if label:
            # either answers the question: the letter, or its content
            return replace(cls.parse(label[1]), text=text, letters=(label[0],))
        node = read(plain)
        if node is None:
            return cls(text, Kind.TEXT, None, compact(plain), None)
        if rational(node) == "undefined":
            raise ValueError(f"gold {text[:60]!r} has no value; correct or drop the row")
        named = letters(plain) or ()
        run = letter_run(plain)
        kind = Kind.CHOICE if named else Kind.TEXT if _WORD.fullmatch(plain) else _kind(node)
        if kind is Kind.TEXT:
            # as a product of its letters `odd` would equal `dod`
            node = ("text", words(plain)) if node[0] == "*" else node
        return cls(text, kind, node, compact(plain), None, named or run)


MAX_WRAPPINGS = 8
_HASHES = re.compile(r"(?:\s*####)*\s*")


def _unwrap(text: str) -> str:
    for _ in range(MAX_WRAPPINGS):
        if "\\boxed" not in text:
            break
        inner = extract(text).answer
        if inner is None:
            raise ValueError(f"gold {text[:60]!r} holds an empty box; put the answer into it")
        text = _short(inner)
    else:
        raise ValueError(f"gold {text[:60]!r} has boxes in boxes; put the answer into one")
    hashes = _HASHES.match(text)
    text = text[hashes.end() :].strip() if hashes else text
    if text[:8].lower() == "<answer>" and text[-9:].lower() == "</answer>":
        text = text[8:-9].strip()
    lead = _LEAD.match(text)
    if lead is not None:
        text = text[lead.end() :].strip().removesuffix(".")
    return text


# What stands before an answer that is stated in words.
_LEAD = re.compile(
    r"(?:(?:so|thus|hence|therefore),? )?(?:the )?(?:final )?answer(?: is\b:?|:| ?=)\s*",
    re.IGNORECASE,
)
_COMMAND = re.compile(r"\\(?:[A-Za-z]+|.)")
_PROSE = re.compile(r"[A-Za-z]{2,}")
MAX_WORDS = 8
"""Words of two letters and more, LaTeX's own left out, from which on a gold is taken for prose. Of
91,046 golds of 23 data sets none has more than 3."""


def _refuse_solution(text: str) -> None:
    """Raises: ValueError for a worked solution, which no answer could equal."""
    if "####" in text:
        raise ValueError(f"gold {text[:60]!r} is a worked solution with its answer behind '####'")
    num_words = len(_PROSE.findall(_COMMAND.sub(" ", text)))
    if num_words >= MAX_WORDS or (num_words >= MAX_WORDS // 2 and "\n" in text):
        raise ValueError(
            f"gold {text[:60]!r} is prose of {num_words} words; give the final answer alone"
        )


# A bare word of a gold: letters that would otherwise be a product of symbols.
_WORD = re.compile(r"[A-Za-z][a-z]{3,}(?: [A-Za-z]+)*|(?i:yes|no|odd|all|true|false)")
_UNDEFINED = {"nan", "n/a"}


def _short(text: str) -> str:
    if len(text) > MAX_LEN:
        raise ValueError(f"gold has {len(text)} characters, more than {MAX_LEN}; shorten it")
    return text


def _checked(text: str) -> str:
    if not text:
        raise ValueError("gold is empty; give the row an answer or drop it")
    plain = normalise(_short(text))
    if not plain or not re.search(r"[^\s\W]|\\[a-zA-Z]", plain):
        raise ValueError(f"gold {text[:60]!r} says nothing; give the row an answer or drop it")
    if words(plain) in _UNDEFINED:
        raise ValueError(f"gold {text[:60]!r} is no value; give the row an answer or drop it")
    # `\{` is a sign of the answer's own; only the braces that group have to match
    bare = plain.replace("\\{", "").replace("\\}", "")
    if bare.count("{") != bare.count("}"):
        raise ValueError(f"gold {text[:60]!r} has braces that do not match; correct the LaTeX")
    return plain


_KINDS = {tag: Kind(tag) for tag in "text time ratio based matrix set list".split()}
_KINDS |= {"such": Kind.SET, "field": Kind.SET, "mod": Kind.RELATION, "d": Kind.DECIMAL}
_KINDS |= dict.fromkeys(("cup", "cap", "setminus"), Kind.INTERVAL)


def _kind(node: Node) -> Kind:
    match node:
        case ("unit", inner, _):
            return _kind(inner)
        case ("rel", operators, _):
            return Kind.EQUATION if set(operators) <= {"=", "=="} else Kind.RELATION
        case ("tuple", ends, items):
            return Kind.TUPLE if ends == "()" or len(items) != 2 else Kind.INTERVAL
        case (tag, *_) if tag in _KINDS:
            return _KINDS[tag]
    from rewards.equality.scalar import rational
    from rewards.syntax.tree import features

    value = rational(node)
    if not isinstance(value, str):
        return Kind.INTEGER if value.denominator == 1 else Kind.RATIONAL
    return Kind.COMPLEX if "c:i" in features(node) else Kind.EXPRESSION
