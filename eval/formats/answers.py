"""The gold answers that a row's field holds: one text, or several of which any counts."""

import math
import re
from numbers import Number
from typing import Any

_THOUSANDS = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?")


def answers_of(value: Any, field: str, mark: str | None = None) -> tuple[str, ...]:
    """The field's golds as texts, at least one; those of a list are alternatives.

    mark: the gold is what follows its last occurrence, as `####` in GSM8K.
    Raises: ValueError with the reason for what is no answer: an object, a date, an infinity, an
    empty list, a text without the mark.
    """
    if not isinstance(value, list | tuple):
        return (_text(value, field, mark),)
    if not value:
        raise ValueError(f"{field} is empty")
    # the same answer twice is compared once
    return tuple(dict.fromkeys(_text(one, field, mark) for one in value))


def behind(text: str, mark: str) -> str | None:
    """What follows the last mark, None without one; a plain number loses its thousands commas."""
    _, found, answer = text.rpartition(mark)
    answer = answer.strip()
    # GSM8K writes 1,234 for a number; elsewhere a comma separates the parts of a set
    if _THOUSANDS.fullmatch(answer):
        answer = answer.replace(",", "")
    return answer if found else None


def _text(value: Any, field: str, mark: str | None) -> str:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise ValueError(f"{field} is empty")
    if isinstance(value, dict):
        keys = ", ".join(map(str, value))
        raise ValueError(f"{field} is an object with {keys}; name the one that is the answer")
    if not isinstance(value, str | Number):
        kind = type(value).__name__
        raise ValueError(f"{field} is a {kind} ({value!s:.40}), not a text or a number")
    # str() gives "inf", which no reader of answers takes for infinity
    if isinstance(value, float) and math.isinf(value):
        raise ValueError(f"{field} is the number {value}; write \\infty as a text")
    text = str(value).strip()
    if mark is None:
        return text
    found = behind(text, mark)
    if not found:
        raise ValueError(f"{field} has nothing behind {mark!r} ({text[-40:]!r})")
    return found
