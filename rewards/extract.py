"""Find the answer in a response by one linear scan from the end, without fallback between modes."""

import re
from typing import NamedTuple

from rewards.types import Reason

MODES = ("boxed", "answer_line", "hash", "last_number")
MAX_PARTS = 16

_BRACE = re.compile(r"\\.|[{}]", re.S)
_BARE_BOX = re.compile(r"\s*(\\[A-Za-z]+|[^\s\\$.,;]+)")
# What may stand between the boxes of one answer: punctuation, and / or, the next unknown's name.
_BETWEEN = re.compile(
    r"(?:[\s,;$&*，、；。和且与及或]|\\[()\[\],;:!]|\\\\|\\q?quad\b"
    r"|\\text\{(?:\s|and|or|[和且与及或，]|(?:for|in) (?:part|case) \(?[a-z0-9]\)?)*\}"
    r"|\b(?:and|or)\b|(?:\\[a-z]+|[A-Za-z])(?:_\{?\w{1,4}\}?)?'*(?:(?:\\left)?\([^()=$]{1,40}\))?\s*=)*"
)
_OR = re.compile(r"\bor\b|或")
_ANSWER_SAID = re.compile(r"answer(?:\*\*)?\s*(?:is\b(?:\*\*)?\s*[:=]?|:|=)[\s*]*(?=[^\s*])", re.I)
# The answer ends with its line, or where a full stop is followed by a new sentence.
_SENTENCE = re.compile(
    r"(?:\$[^$\n]*\$|\\\((?:(?!\\[()])[^\n]){0,200}\\\)|[^\n])*?"
    r"(?=\.\**\s+[A-Z\u4e00-\u9fff]|\u3002|\n|$)"
)
_NUMBER = re.compile(
    r"(?:(?<![\w)}\]])[-+\u2212\u2013])?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+(?!\d)|(?<!\d)(?=\.\d))"
    r"(?:\.\d+)?(?:[eE][-+]?\d{1,3}(?![\w.]))?(?:/\d+)?"
)
_OPEN, _THINK = "<think>", "</think>"
_BLANKS = " \n\r\t"
"""White space without the form feed, with which a damaged `\\frac` begins."""


class Extraction(NamedTuple):
    """answer: the text to judge, or None; reason: why there is none; stage: which rule found it."""

    answer: str | None
    reason: Reason | None
    stage: str


def extract(response: str, mode: str = "boxed", require_closed_think: bool = False) -> Extraction:
    r"""Return the answer that stands after the last `</think>`, by one rule and no other.

    require_closed_think: the response begins inside its thinking, which a `</think>` has to end;
    what stands in thinking that is opened again afterwards is no answer either.

    boxed: the last `\boxed{}`, or the neighbouring boxes that are the parts of one answer, joined
    by "; " (by " or " when the response says or). answer_line: what follows the last "answer is" or
    "answer:". hash: what follows the last `####`. last_number: the last number of the text.
    """
    if require_closed_think:
        closed = response.rfind(_THINK)
        if closed < 0:
            return _none("think")
        response = response[closed + len(_THINK) :].partition(_OPEN)[0]
    if mode == "boxed":
        return _boxed(response)  # before the copy below: a long response is scanned from its end
    text = response[response.rfind(_THINK) + len(_THINK) :] if _THINK in response else response
    if mode == "answer_line":
        found = _last_match(_ANSWER_SAID, text)
        said = _SENTENCE.match(text, found.end()) if found else None
        answer = said.group().strip().rstrip(".").strip("* ") if said else ""
    elif mode == "hash":
        _, mark, tail = text.rpartition("####")
        answer = tail.strip().partition("\n")[0].strip().strip("*").strip() if mark else ""
    elif mode == "last_number":
        found = _last_match(_NUMBER, text[-4096:])  # numbers before the last lines are no answers
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
        if "\\fbox{" in response:
            return _boxed(response.replace("\\fbox{", "\\boxed{"))
        return _none("boxed")
    if response.find(_THINK, start) >= 0:
        return _none("boxed")
    before = response.rfind("\\boxed", 0, start)
    if before < 0 and response[start + 6 : start + 7] == "{":
        # The common case without regular expressions: one box with a plain number.
        close = response.find("}", start)
        answer = response[start + 7 : close]
        if close < 0 or "{" in answer or "\\" in answer:
            close = _closing(response, start + 6, {})
            answer = response[start + 7 : close] if close >= 0 else response[start + 7 :]
        answer = answer.strip(_BLANKS)
        return Extraction(answer, None, "boxed") if answer else _none("boxed")
    ends: dict[int, int] = {}
    span = _span(response, start, len(response), ends)
    if before < 0:
        answer = response[span.begin : span.close].strip(_BLANKS)
        return Extraction(answer, None, "boxed") if answer else _none("boxed")
    return _with_neighbours(response, start, before, span, ends)


class _Span(NamedTuple):
    """begin, close: where the content of a box stands; end: the position after the box."""

    begin: int
    close: int
    end: int


_UNCLOSED = -1


def _span(response: str, start: int, following: int, ends: dict[int, int]) -> _Span:
    """Return where the box at start has its content, and enter its end into ends.

    following: where the next box begins. ends: for the opening brace of every later box the place
    after its closing brace; scans jump over these, so that each character is seen once in all.
    A box that never closes (a cut response) holds the rest of the text.
    """
    opening = start + 6
    if response[opening : opening + 1] == " ":
        opening += 1
    if response[opening : opening + 1] != "{":
        bare = _BARE_BOX.match(response, opening)
        return _Span(*bare.span(1), bare.end()) if bare else _Span(opening, opening, opening)
    close = response.find("}", opening, following)
    inner = response[opening + 1 : close] if close >= 0 else ""
    if close < 0 or "{" in inner or "\\" in inner:
        close = _closing(response, opening, ends)
    ends[opening] = close + 1 if close >= 0 else _UNCLOSED
    if close < 0:
        return _Span(opening + 1, len(response), len(response))
    return _Span(opening + 1, close, close + 1)


def _closing(response: str, opening: int, ends: dict[int, int]) -> int:
    """Return the place of the brace that closes the one at opening, or _UNCLOSED."""
    depth, at = 0, opening
    if not ends:
        for brace in _BRACE.finditer(response, opening):
            mark = brace.group()
            if mark == "{":
                depth += 1
            elif mark == "}":
                depth -= 1
                if depth == 0:
                    return brace.start()
        return _UNCLOSED
    # Jumping over boxes already seen keeps a thousand nested boxes linear.
    while (brace := _BRACE.search(response, at)) is not None:
        mark, at = brace.group(), brace.end()
        if mark == "{":
            known = ends.get(brace.start()) if depth else None
            if known == _UNCLOSED:
                return _UNCLOSED
            if known:
                at = known
            else:
                depth += 1
        elif mark == "}":
            depth -= 1
            if depth == 0:
                return brace.start()
    return _UNCLOSED


def _with_neighbours(
    response: str, start: int, before: int, last: _Span, ends: dict[int, int]
) -> Extraction:
    """Join the boxes before the last one that belong to the same answer, or that enclose it."""
    parts, says_or = [last], False
    while before >= 0 and len(parts) < MAX_PARTS:
        # Boxes far apart, or before the thinking ended, are intermediate results.
        if start - before > 4096 or response.find(_THINK, before, start) >= 0:
            break
        outer = _span(response, before, start, ends)
        if outer.end > start:
            parts = [outer]
        else:
            between = _BETWEEN.fullmatch(response, outer.end, start)
            if between is None:
                break
            says_or = says_or or _OR.search(between.group()) is not None
            parts.append(outer)
        start, before = before, response.rfind("\\boxed", 0, before)
    answers = (response[part.begin : part.close].strip(_BLANKS) for part in reversed(parts))
    kept = list(dict.fromkeys(answer for answer in answers if answer))
    if not kept:
        return _none("boxed")
    if len(kept) == 1:
        return Extraction(kept[0], None, "boxed")
    return Extraction((" or " if says_or else "; ").join(kept), None, "boxes")
