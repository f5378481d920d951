"""Find the answer in a response: one linear scan from the end, no fallback between modes."""

import re
from typing import NamedTuple

from rewards.types import Reason

MODES = ("boxed", "answer_line", "hash", "last_number")
MAX_PARTS = 16

_BRACE = re.compile(r"\\.|[{}]", re.S)
_BARE_BOX = re.compile(r"\s*(\\[A-Za-z]+|[^\s\\$.,;]+)")
# What may stand between the boxes of one answer: punctuation, and / or, the next unknown's name.
_BETWEEN = re.compile(
    r"(?:[\s,;$&*]|\\[()\[\],;:!]|\\\\|\\q?quad\b|\\text\{\s*(?:and|or)\s*\}|\b(?:and|or)\b"
    r"|[A-Za-z](?:_\{?\w{1,4}\}?)?\s*=)*"
)
_OR = re.compile(r"\bor\b")
_ANSWER_LINE = re.compile(r"(?:answer\s*(?:is|:|=)|answer\*\*\s*:)\s*([^\n]*)", re.I)
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:/\d+)?")
_THINK = "</think>"


class Extraction(NamedTuple):
    """answer: the text to judge, or None; reason: why there is none; stage: which rule found it."""

    answer: str | None
    reason: Reason | None
    stage: str


def extract(response: str, mode: str = "boxed") -> Extraction:
    r"""Return the answer that stands after the last `</think>`, by one rule and no other.

    boxed: the last `\boxed{}`, or the neighbouring boxes that are the parts of one answer, joined
    by "; " (by " or " when the response says or). answer_line: what follows the last "answer is" or
    "answer:". hash: what follows the last `####`. last_number: the last number of the text.
    """
    if mode == "boxed":
        return _boxed(response)
    text = response[response.rfind(_THINK) + len(_THINK) :] if _THINK in response else response
    if mode == "answer_line":
        found = _last_match(_ANSWER_LINE, text)
        answer = found.group(1).strip().rstrip(".").strip("* ") if found else ""
    elif mode == "hash":
        _, mark, tail = text.rpartition("####")
        answer = tail.strip().partition("\n")[0].strip() if mark else ""
    elif mode == "last_number":
        found = _last_match(_NUMBER, text[-4096:])
        answer = found.group().lstrip("+") if found else ""
    else:
        raise ValueError(f"answer mode {mode!r} is unknown; use one of {', '.join(MODES)}")
    return Extraction(answer, None, mode) if answer else _none(mode)


def _none(stage: str) -> Extraction:
    return Extraction(None, Reason.NO_ANSWER, stage)


def _last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    last = None
    for found in pattern.finditer(text):
        last = found
    return last


def _boxed(response: str) -> Extraction:
    start = response.rfind("\\boxed")
    if start < 0:
        return _none("boxed")
    if response.find(_THINK, start) >= 0:
        return _none("boxed")
    answer, _ = _content(response, start)
    before = response.rfind("\\boxed", 0, start)
    if before < 0:
        return Extraction(answer, None, "boxed") if answer else _none("boxed")
    return _with_neighbours(response, start, before, answer)


def _content(response: str, start: int) -> tuple[str, int]:
    """Return the stripped content of the box at start and the position after it.

    A box that never closes (a cut response) holds the rest of the text.
    """
    opening = start + 6
    if response[opening : opening + 1] == " ":
        opening += 1
    if response[opening : opening + 1] != "{":
        bare = _BARE_BOX.match(response, opening)
        return (bare.group(1), bare.end()) if bare else ("", opening)
    closing = response.find("}", opening)
    if closing < 0:
        return response[opening + 1 :].strip(), len(response)
    inner = response[opening + 1 : closing]
    if "{" not in inner and "\\" not in inner:
        return inner.strip(), closing + 1
    depth = 0
    for brace in _BRACE.finditer(response, opening):
        mark = brace.group()
        if mark == "{":
            depth += 1
        elif mark == "}":
            depth -= 1
            if depth == 0:
                return response[opening + 1 : brace.start()].strip(), brace.end()
    return response[opening + 1 :].strip(), len(response)


def _with_neighbours(response: str, start: int, before: int, answer: str) -> Extraction:
    """Join the boxes before the last one that belong to the same answer, or that enclose it."""
    parts, says_or = [answer], False
    while before >= 0 and len(parts) < MAX_PARTS:
        if start - before > 4096 or response.find(_THINK, before, start) >= 0:
            break
        outer, end = _content(response, before)
        if end > start:
            parts = [outer]
        else:
            between = _BETWEEN.fullmatch(response, end, start)
            if between is None:
                break
            says_or = says_or or _OR.search(between.group()) is not None
            parts.append(outer)
        start, before = before, response.rfind("\\boxed", 0, before)
    kept = list(dict.fromkeys(part for part in reversed(parts) if part))
    if not kept:
        return _none("boxed")
    if len(kept) == 1:
        return Extraction(kept[0], None, "boxed")
    return Extraction((" or " if says_or else "; ").join(kept), None, "boxes")
