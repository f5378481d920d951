"""Rewrite other ways to write the same answer into the one that the parser knows.

Everything here works on normalised text and only where a mark of the habit stands in it.
"""

import re
from collections.abc import Callable

from rewards.syntax.units import CJK_UNITS, PLAIN_UNITS, unit_name

_SUPER_SUB = re.compile(  # x^2_1 for x_1^2
    r"((?:[A-Za-z]|\\[a-zA-Z]+) ?)(\^(?:\{[^{}]*\}|\w|\\[a-z]+))(_(?:\{[^{}]*\}|\w))"
)
_LONE_GROUP = re.compile(r"(?<![A-Za-z}^_\]])\{([A-Za-z]|\\[a-z]+)\}(?=_)")  # {x}_1 for x_1
_SIGN_GROUP = re.compile(r"(?<![\^_A-Za-z}\]])\{([-+])\}")  # {-}5 for -5
_WRAPPED = re.compile(r"\\(?:mathbf|boldsymbol|bm|mathit|pmb|bold|underline|emph)\s*\{(.*)\}", re.S)
_MATHEMATICS = re.compile(r"[\d=+^\\]")  # bold words stay what they are: text
_ORDINAL = re.compile(  # 12th, 12^{\text{th}}
    r"(?<=\d)\s?\^?\s?\{?\s?(?:\\(?:text|mathrm|textsuperscript|rm)\w*\s?\{)?\s?(?:st|nd|rd|th)\s?\}?\}?"
    r"(?=$|[\s,.;)}])(?!\w)"
)
_ALIGNED = re.compile(
    r"\\begin\{(aligned|align\*?|gathered|split|equation\*?)\}(.*?)\\end\{\1\}", re.S
)
_ROWS = re.compile(r"\\\\(?:\[[^\]]*\])?")
_CONDITION = re.compile(
    r",?\s*&\s*(?:\\text\{[, ]*(?:if|when|for|where)?\s*\}|(?:if|when|for)\b)?\s*"
)
_UNIT_FRACTION = re.compile(  # a fraction of units: miles over hours
    r"\\[dt]?frac\s?\{\s?\\(?:text|mathrm)\s?\{([^{}]*)\}\s?\}\s?\{\s?\\(?:text|mathrm)\s?\{([^{}]*)\}\s?\}"
)
_UNIT_POWER = re.compile(  # \text{m} \cdot \text{s}^{-1}
    r"\\(?:text|mathrm)\s?\{\s*([A-Za-z]+)\s*\}?\s*(?:\\cdot|\*)?\s*(?:\\(?:text|mathrm)\s?\{)?\s*"
    r"([A-Za-z]+)\s*\}?\s*\^\s*\{-([123])\}\s*\}?"
)
_LARGE = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_LARGE_NUMBER = re.compile(  # 3 million
    r"(?<=\d)\s*(?:\\text\w*\{\s*)?(hundred|thousand|million|billion|trillion)\b\s*(?:\}|(?=[^}]*$))"
)
_ABOUT = r"(?:which is |or |i\.e\.,? )?(?:about|approximately|approx\.?|roughly|around)"
_ABOUT_FIRST = re.compile(  # about 3.14
    rf"\\text\w*\{{\s*{_ABOUT}\s*\}}\s*(?=[-\d.\\])|(?<![\\A-Za-z])(?i:{_ABOUT}) (?=[-\d.\\])"
)
_ABOUT_BEHIND = re.compile(  # \pi (about 3.14)
    rf"(.*?)\s*(?:,\s*)?(?:\\text\w*\{{\s*)?\(\s*(?:\\text\w*\{{\s*)?(?:{_ABOUT}|\\approx)\s*\}}?\s*"
    r"(-?\d[\d.,]*)\s*(?:\\text\w*\{)?\s*[A-Za-z ]*\}?\s*\)?\s*\}?\s*\)?",
    re.S,
)
_CALLED = re.compile(  # P(A|B) = , E[X] = : the bars and signs inside are no operators
    r"(?:\\mathbb\s?\{?\s?[PE]\s?\}?|\\operatorname\s?\{\w+\}|\\Pr|\\(?:mathrm|text)\s?\{\w+\}|[A-Z][a-z]{0,3})"
    r"(?:_\{?\w{1,6}\}?)?\s?(?:\((?=[^()]*(?:[|=<>]|\\(?:mid|le|ge|in|vert|cap|cup)\b))[^()]*\)|\[[^\[\]]*\])"
    r"\s?(?==|\\approx)"
)
_REASON = re.compile(  # 5, since x > 0
    r"\s*,?\s*(?:\(\s*)?\\text\w*\{\s*\(?\s*(?:since|because)\b.*$|\s*\(\s*(?:since|because)\b.*$",
    re.S,
)
_INTRODUCTION = re.compile(  # \text{So the solutions are } 5
    r"\\text\w*\{\s*(?:(?:so|thus|hence|therefore|the|our|only|unique|solutions?|answers?|values?|final"
    r"|correct|is|are|equals?|there)\b[,:]?\s*)+\}\s*(?=\S)",
    re.I,
)
_CAPTION = re.compile(r"\\text\w*\{\s*[A-Za-z][A-Za-z ]{0,30}:\s*\}\s*")  # \text{Area: } 5
_FOR = re.compile(  # 2n+1 for all n \in \mathbb{Z}: the condition becomes an item
    r"\s*,?\s*(?:\\text\w*\{\s*,?\s*(?:for|where|with)\s*(?:all|any|every|each|some)?\s*(?:integers?)?\s*\}"
    r"|\b(?:for|where)\b(?: (?:all|any|every|each|some)\b)?)\s*(?=[A-Za-z\\])"
)
_TAIL = re.compile(  # 5 square units
    r"(?P<head>.*(?:[\d)}]|\\pi|\\circ))(?P<gap> ?)"
    r"(?P<tail>[A-Za-z]+(?:\^\{?[23]\}?)?(?:[ /]+[A-Za-z]+(?:\^\{?[23]\}?)?){0,4})[.]?",
    re.S,
)
_NUMBER = re.compile(r"-?[\d.,]+")
_NO_TAIL = frozenset(
    "and or mod to choose over pi sin cos tan cot sec csc log ln exp arcsin arccos arctan sinh "
    "cosh tanh alpha beta gamma delta theta lambda mu sigma omega phi infty infinity in max min "
    "gcd lcm times".split()
)
_PREFIX_CURRENCY = re.compile(  # Rs. 500
    r"^(?:\\text\w*\{\s*)?(Rs\.?|INR|USD|US\s?\\\$|EUR|GBP|RMB|CNY|JPY|HK\\\$)\s*\}?\s*(?=[-\d.])"
)
_PREFIXES = {"Rs": "rupee", "INR": "rupee", "USD": "dollar", "EUR": "euro", "GBP": "gbp"}
_PREFIXES |= {"RMB": "yuan", "CNY": "yuan", "JPY": "yen"}
_FOREIGN_TAIL = re.compile(  # 5 and a word in Cyrillic or Chinese letters
    r"(.*[\d)}])\s*(?:\\text\w*\{)?\s*([\u0400-\u04ff]{1,8}\.?|[\u4e00-\u9fff]{1,6}[\u00b2\u00b3]?)\s*\}?",
    re.S,
)
_NO_COUNTER = set("不非或和且与及万亿百千十以上下多余约左右至少无则")
_NO_CYRILLIC = {"или", "не", "и"}
_MINUTES = re.compile(r"(\d{1,3})\^\{?\s*\\circ\s*\}?\s*(\d{1,2})\s?'(?:\s*(\d{1,2})\s?(?:''|\"))?")
_TURNS = re.compile(  # 360^\circ k
    r"(?<![\w}.])(\d+)\^\{? ?\\circ ?\}? ?(?:\\cdot|\\times|\*)? ?([a-z])(?![a-z(_^])"
)
_HOURS = re.compile(  # 2 h 30 min
    r"(\d+)\s*(?:\\text\s?\{)?\s*(?:h|hr|hrs|hours?)\s*(?:and )?\}?\s*(\d+)\s*(?:\\text\s?\{)?\s*"
    r"(?:min|mins|minutes?)\s*\}?"
)


_CONSTANT = re.compile(  # , \text{where } C \text{ is a constant}
    r"\s*,?\s*\\text\w*\{[^{}]*\b(?:constants?|parameters?|arbitrary)\b[^{}]*\}\s*"
    r"(?:[A-Za-z](?:_\{?\w\}?)?(?:, ?)?)*$"
)
_INTEGER = re.compile(  # 2n+1, \text{ for any integer } n
    r"\s*,?\s*\\text\w*\{\s*,?\s*(?:for|where|with)?\s*(?:any|some|every|each|all|an)?\s*integers?\s*\}"
    r"\s*([a-z])$"
)
_IS_INTEGER = re.compile(  # 2n+1, n \text{ is an integer}
    r"([a-z])\s*\\text\w*\{\s*(?:is|being|are)?\s*(?:an|any)?\s*integers?\s*\}$"
)
_CONDITION_BEHIND = re.compile(r"\s\(([^()]*(?:\\(?:geq?|leq?|neq?|in)\b|[<>])[^()]*)\)$")
_SAME_IN_PERCENT = re.compile(r"(-?[\d.]+)\s?\((-?[\d.]+\\?%)\)")  # 0.25 (25%)
_NTH_THING = re.compile(r"(?<=\d)\\text\s?\{(?:st|nd|rd|th)\s+")  # 5\text{th floor}


def _per(found: re.Match[str]) -> str:
    power = "" if found[3] == "1" else f"^{found[3]}"
    return rf"\text{{ {found[1]}/{found[2]}{power}}}"


def _integers(plain: str) -> str:
    plain = _INTEGER.sub(r", \1 \\in \\mathbb{Z}", plain)
    return _IS_INTEGER.sub(r"\1 \\in \\mathbb{Z}", plain)


# Whether any habit can stand in a text: words, wrappers, indices, brackets behind a space. It must
# match wherever a mark of _HABITS does, or that habit is never tried.
_TRIGGER = re.compile(
    r"(?<![\\A-Za-z])[A-Za-z]{2}|\\(?:text|math|bold|bm|pmb|underline|emph|begin|Pr|operat|frac\{\\|circ)"
    r"|_|\*\*|\{[-+]\}|%\)| \(|[A-Z] ?[(\[]|\^\{-[123]\}"
)
_UNIT_TRIGGER = re.compile(r"(?:[\d)}]|\\pi|\\circ) ?[A-Za-z]{2}|[\d}] [A-Za-z](?![A-Za-z])|m\^\{")


def reworded(plain: str) -> str:
    """Return the text with every known habit replaced."""
    # Most answers have none of them: one search, then plain `in`, spare them the substitutions.
    if _TRIGGER.search(plain):
        for marks, change in _HABITS:
            for mark in marks:
                if mark in plain:
                    plain = change(plain)
                    break
    return _plain_unit(plain) if _UNIT_TRIGGER.search(plain) else plain


def _unwrapped(plain: str) -> str:
    for _ in range(4):  # \mathbf in \boldsymbol: deeper nests are no answers
        found = _WRAPPED.fullmatch(plain)
        if found is None or not _MATHEMATICS.search(found[1]) or not _balanced(found[1]):
            return plain
        plain = found[1].strip()
    return plain


def _balanced(text: str) -> bool:
    depth = 0
    for letter in text.replace("\\{", "").replace("\\}", ""):
        depth += (letter == "{") - (letter == "}")
        if depth < 0:
            return False
    return depth == 0


def _without_alignment(plain: str) -> str:
    def rows(found: re.Match[str]) -> str:
        parts = [row.replace("&", " ").strip(" ,") for row in _ROWS.split(found[2])]
        text = ""
        for part in filter(None, parts):
            text += part if not text else f" {part}" if part[0] in "=<>" else f", {part}"
        return text

    plain = _ALIGNED.sub(rows, plain)
    return _CONDITION.sub(" & ", plain) if "cases" in plain else plain


def _large(found: re.Match[str]) -> str:
    return rf" \cdot 10^{{{_LARGE[found[1]]}}}"


def _about(plain: str) -> str:
    plain = _ABOUT_FIRST.sub(r"\\approx ", plain)
    found = _ABOUT_BEHIND.fullmatch(plain)
    return rf"{found[1]} \approx {found[2]}" if found and found[1] else plain


def _currency(found: re.Match[str]) -> str:
    name = found[1].rstrip(".")
    return rf"\text{{{_PREFIXES.get(name, 'dollar')}}} "


def foreign(plain: str) -> str:
    """Return the text with a unit in Chinese or Cyrillic letters behind a number named."""
    found = _FOREIGN_TAIL.fullmatch(plain)
    if found is None:
        return plain
    word = found[2].rstrip(".")
    known = CJK_UNITS.get(word)
    if known is None and (_NO_COUNTER & set(word) or word in _NO_CYRILLIC):
        return plain
    return rf"{found[1]}\text{{ {known or 'counter ' + word}}}"


def _minutes(found: re.Match[str]) -> str:
    return rf"({found[1]}+\frac{{{found[2]}}}{{60}}+\frac{{{found[3] or 0}}}{{3600}})^{{\circ}}"


def _hours(plain: str) -> str:
    found = _HOURS.fullmatch(plain)
    if found is None or len(found[1]) > 6 or len(found[2]) > 6:
        return plain
    return rf"{60 * int(found[1]) + int(found[2])}\text{{ minutes}}"


def _quantity(plain: str) -> str:
    found = _CALLED.match(plain)
    return "\\text{value} " + plain[found.end() :] if found else plain


def _attached(tail: str) -> bool:
    """Say whether a unit may stand right behind its number: `5cm`; of one letter only `5m²`."""
    return 2 <= len(tail) <= 3 or tail in ("m^{2}", "m^{3}")


def _plain_unit(plain: str) -> str:
    """Return the text with the unit behind its number marked as text."""
    if not plain[-1:].isalpha() and plain[-1:] not in ".}23":
        return plain
    found = _TAIL.fullmatch(plain)
    if found is None or not any(letter.isdigit() for letter in found["head"]):
        return plain
    head, tail = found["head"], found["tail"]
    if len(tail) == 1 and not (_NUMBER.fullmatch(head) or ("circ" in head[-6:] and tail in "CF")):
        return plain
    words = re.findall(r"[A-Za-z]+", tail)
    if any(word.lower() in _NO_TAIL for word in words) or (unit_name(tail) or "") == "":
        return plain
    known = all(word in PLAIN_UNITS or word.rstrip("s") in PLAIN_UNITS for word in words)
    if found["gap"] == "" and not (known and head[-1].isdigit() and _attached(tail)):
        return plain
    if not known and ((len(words) == 1 and len(words[0]) < 4) or any(len(w) < 2 for w in words)):
        return plain
    if head.count("{") != head.count("}") or head.count("(") != head.count(")"):
        return plain
    return rf"{head}\text{{ {tail.replace('{', '').replace('}', '')}}}"


_HABITS: tuple[tuple[tuple[str, ...], Callable[[str], str]], ...] = (
    (("\\mathbf", "\\bold", "\\bm", "\\mathit", "\\pmb", "\\underline", "\\emph"), _unwrapped),
    (("**",), lambda t: t[2:-2].strip() if t.startswith("**") and t.endswith("**") else t),
    (("\\begin{",), _without_alignment),
    (("_",), lambda t: _SUPER_SUB.sub(r"\1\3\2", _LONE_GROUP.sub(r"\1", t))),
    (("{-}", "{+}"), lambda t: _SIGN_GROUP.sub(r"\1", t)),
    (("st", "nd", "rd", "th}", "th"), lambda t: _ORDINAL.sub("", _NTH_THING.sub(r"\\text{ ", t))),
    (
        ("frac{\\text", "frac{\\math", "frac{ \\"),
        lambda t: _UNIT_FRACTION.sub(r"\\text{ \1/\2}", t),
    ),
    (("^{-1}", "^{-2}", "^{-3}"), lambda t: _UNIT_POWER.sub(_per, t)),
    (("hundred", "thousand", "illion"), lambda t: _LARGE_NUMBER.sub(_large, t)),
    (("about", "approx", "roughly", "around"), _about),
    (("|", "=", "["), _quantity),
    (("constant", "parameter", "arbitrary"), lambda t: _CONSTANT.sub("", t)),
    (("integer",), _integers),
    (("(",), lambda t: _CONDITION_BEHIND.sub(r", \1", t)),
    (("%)",), lambda t: _SAME_IN_PERCENT.sub(r"\1=\2", t)),
    (("since", "because"), lambda t: _REASON.sub("", t)),
    (("\\text",), lambda t: _CAPTION.sub("", _INTRODUCTION.sub("", t))),
    (("for", "where", "with"), lambda t: _FOR.sub(", ", t)),
    (
        ("Rs", "INR", "USD", "US", "EUR", "GBP", "RMB", "CNY", "JPY", "HK"),
        lambda t: _PREFIX_CURRENCY.sub(_currency, t),
    ),
    (("\\circ",), lambda t: _TURNS.sub(r"\2 \\cdot \1^{\\circ}", _MINUTES.sub(_minutes, t))),
    (("min",), _hours),
)
