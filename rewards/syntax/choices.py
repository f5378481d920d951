"""Answers that name choices: one letter, several, a letter with its content, or a list of them."""

import re
from itertools import pairwise

from rewards.syntax.normalise import words

_LETTER = re.compile(
    r"(?:(?:answer|option|choice)\s*:?\s*)?(?:\\(?:text|math)\w*\{)?\s*(?:(?:answer|option|choice)\s*:?\s*)?"
    r"(\()?\s*(?:\\(?:text|math)\w*\{)?([A-J])\}?\s*(\))?(?(1)(?<=\))|)[.:]?\s*\}?",
    re.I,
)
_LABELLED = re.compile(
    r"(?:\\(?:text|math)\w*\{)?\s*(?:\(\s*([A-J])\s*\)|([A-J])[).:])\s*\}?[.:]?\s*"
    r"(?:\\[ ,;]|\\q?quad)*\s*(\S.*)",
    re.S,
)
_GOLD_LABEL = re.compile(
    r"\\(?:text|math)\w*\{\s*\(?\s*([A-J])\s*[).]\s*\}\s*(\S.*)|\(([A-J])\) +(\S.*)", re.S
)
_REMARKED = re.compile(
    r"(?:\\(?:text|math)\w*\{\s*)?([A-J])\s*\}?\s*(?:\\text\w*\{\s*)?\((.*)\)\s*\}?", re.S
)
# How Chinese outputs say that they choose.
_CHOSEN = re.compile(r"^(\\text\{)?\s*(?:故?选择?|(?:故?正确)?(?:答案|选项)[是为]?)\s*:?\s*")
_JOINED = re.compile(r"[,;]|\\text\{\s*(?:and|or)\s*\}|\b(?:and|or)\b|\\text\{|&")
_RUN = re.compile(r"(?:\\(?:text|math)\w*\{)?\s*([A-J]{2,7})\s*\}?")
# A further label, or a further letter that stands alone as a word does.
_LABEL = re.compile(r"(?<![A-Za-z})])\(\s*[A-J]\s*\)|(?<![A-Za-z(\\])[A-J][).:](?!\d)")
_LONE_LETTER = re.compile(r"(?<![A-Za-z\\^_])[A-J](?![A-Za-z_^(])")
_DOUBT = re.compile(r"\b(?:or|and|not|maybe|either|neither|but|wrong|instead|else)\b")


def letters(plain: str) -> tuple[str, ...] | None:
    """Return the letters of an answer that names one choice or several, None for anything else."""
    if not plain.isascii():
        plain = _CHOSEN.sub(r"\1", plain)
    one = _letter(plain)
    if one:
        return (one,)
    parts = [part for part in _JOINED.split(plain) if part.strip()]
    if not 1 < len(parts) <= 10:
        return None
    named = [_letter(part.strip(" {}")) for part in parts]
    return tuple(letter for letter in named if letter) if all(named) else None


def _letter(text: str) -> str | None:
    found = _LETTER.fullmatch(text)
    # A small letter alone is a symbol: `a` is no choice, `(a)` is one.
    if found and (found[2].isupper() or found[1] or "\\text" in text):
        return found[2].upper()
    return None


def letter_run(plain: str) -> tuple[str, ...]:
    """Return the letters of several choices written as one word, as ACD; () for anything else."""
    found = _RUN.fullmatch(plain)
    if found is None or any(x >= y for x, y in pairwise(found[1])):
        return ()  # BAD is a word or a segment; only letters in order are choices
    return tuple(found[1])


def labelled(plain: str) -> tuple[str, str] | None:
    """Return the letter and the rest of an answer that gives a choice with its content."""
    found = _LABELLED.fullmatch(plain)
    return (found[1] or found[2], found[3]) if found else None


def gold_label(plain: str) -> tuple[str, str] | None:
    """Return the letter and the content of a gold that states both, as `(B) 12`."""
    found = _GOLD_LABEL.fullmatch(plain)
    return (found[1] or found[3], found[2] or found[4]) if found else None


def remarked(plain: str) -> tuple[str, str] | None:
    """Return the letter and the remark of an answer such as `B (6)`."""
    found = _REMARKED.fullmatch(plain)
    return (found[1], found[2]) if found else None


def lists_more(rest: str) -> bool:
    """Say whether what follows the first label names further choices: that is hedging."""
    if _LABEL.search(rest) or letters(rest):
        return True
    return _DOUBT.search(words(rest)) is not None and _LONE_LETTER.search(rest) is not None
