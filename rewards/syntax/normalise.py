"""Bring the many ways to write the same mathematics to one: Unicode forms, LaTeX decoration."""

import re
import unicodedata

MAX_LEN = 3000  # characters of a gold or an answer; longer ones are refused unread

_GREEK_LETTERS = "αβγδεζηθκλμνξπρστφχψωΓΔΘΛΞΠΣΦΨΩϕ"
_GREEK_NAMES = """
    alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu xi pi rho sigma tau phi chi psi
    omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega phi
"""
_GREEK = {
    letter: f"\\{name} " for letter, name in zip(_GREEK_LETTERS, _GREEK_NAMES.split(), strict=True)
}
_SIGNS = {
    **dict.fromkeys("−‐‑‒–—﹣－", "-"),
    **dict.fromkeys("×✕∙⋅·•∗", "\\cdot "),
    **dict.fromkeys("÷⁄∕／", "/"),
    **dict.fromkeys("≤⩽≦", "\\le "),
    **dict.fromkeys("≥⩾≧", "\\ge "),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad", ""),
    **{"≠": "\\ne ", "≰": "\\nleq ", "≱": "\\ngeq ", "≈": "\\approx ", "≡": "\\equiv "},
    **{"√": "\\sqrt ", "∛": "\\sqrt[3] ", "∞": "\\infty ", "±": "\\pm ", "∓": "\\mp "},
    **{"∪": "\\cup ", "∩": "\\cap ", "∈": "\\in ", "∉": "\\notin ", "∖": "\\setminus "},
    **{"∅": "\\emptyset ", "⌀": "\\emptyset ", "°": "^\\circ ", "º": "^\\circ ", "…": "\\ldots "},
    **{"ℝ": "\\mathbb{R}", "ℤ": "\\mathbb{Z}", "ℕ": "\\mathbb{N}", "ℚ": "\\mathbb{Q}"},
    **{"ℂ": "\\mathbb{C}", "′": "'", "’": "'", "⟨": "\\langle ", "⟩": "\\rangle ", "→": "\\to "},
    **{"，": ", ", "、": ", ", "；": "; ", "∶": ":", "€": "\\euro ", "£": "\\pounds ", "％": "\\%"},
    **{"或": " or ", "且": " and ", "和": " and ", "与": " and ", "及": " and ", "。": ". "},
    **{"¥": "\\yen ", "￥": "\\yen ", "₹": "\\rupee ", "˚": "^\\circ ", "″": "''"},
    **{circled: f"{k}, " for k, circled in enumerate("①②③④⑤⑥⑦⑧⑨⑩", 1)},
    **{"⌊": "\\lfloor ", "⌋": "\\rfloor ", "⌈": "\\lceil ", "⌉": "\\rceil ", "∣": "|"},
    **{"½": "\\frac{1}{2}", "⅓": "\\frac{1}{3}", "⅔": "\\frac{2}{3}", "¼": "\\frac{1}{4}"},
    **{"¾": "\\frac{3}{4}", "⅕": "\\frac{1}{5}", "⅛": "\\frac{1}{8}", "⅙": "\\frac{1}{6}"},
}
_UNICODE = str.maketrans({**_GREEK, **_SIGNS})
_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ"
_TO_PLAIN = str.maketrans(_SUPERSCRIPTS, "0123456789+-ni")
_SUPER_RUN = re.compile(f"[{_SUPERSCRIPTS}]+")
_SUB_RUN = re.compile("[₀-₉]+")
_ROOT_RUN = re.compile(r"([√∛])\s*(\d+)")

# One pass removes or rewrites every decoration; the order of the alternatives matters.
_DECORATION = re.compile(
    r"(?P<group>(?<=\d)(?:\{,\}\s?|\\,|,?\\!\s?|\\!,|\\ |\\;|~)(?=\d{3}(?!\d)))"
    r"|(?P<double>\\\\(?=[A-Za-z]{2}))|(?P<row>\\\\(?!\s*$))"
    r"|\\(?:left|right)\s*\."
    r"|\\(?:left|right|middle|[bB]igg?[lrm]?)(?![A-Za-z])"
    r"|\\(?:displaystyle|textstyle|limits|nolimits|strut|hfill|rm|bf|it|normalsize"
    r"|large|Large|LARGE|huge|Huge|tiny|small|footnotesize|scriptsize|scriptstyle|scriptscriptstyle"
    r"|bfseries|itshape)"
    r"(?![A-Za-z])"
    r"|\{(?P<mark>[:;])\}"
    r"|\\text\s*\{(?P<bare>[^a-zA-Z{}\\]*)\}"
    r"|\\(?:text)?color\s*\{[a-zA-Z0-9]*\}"
    r"|\\(?:v|h)?phantom\{[^{}]*\}|\\label\{[^{}]*\}|\\tag\{[^{}]*\}"
    r"|\\(?:boxed|fbox|mathop|mathopen|mathclose|mathrel|mathbin|mathord|ensuremath)(?![A-Za-z])"
    r"|(?P<space>\\(?:q?quad|enspace|(?:thin|med|thick|negthin|negmed|negthick)space"
    r"|hspace\*?\{[^{}]*\})(?![A-Za-z])|\\[,;:!> \n]|~)"
    r"|(?P<dollar>\\\$|\\%)"
    r"|\\[()\[\]](?![^\\]*pt\])|\$|\\\\(?=\s*$)"
)
# How plain text writes what LaTeX has signs for: numpy's names, +/-, 3 x 10^8, 0.1(6), {}_5C_2.
_PLAIN_HABITS = re.compile(
    r"\b(?:np|numpy)\.(?=[a-z])|(?P<pm>\+/-)|(?<=\d)\s?(?P<times>x)\s?(?=10\s?\^)"
    r"|(?<![\w)}])(?:\{\})?[_^]\{?(?P<all>\d{1,4}|[a-z])\}?\s*C_?\{?(?P<chosen>\d{1,4}|[a-z](?![a-z]))\}?"
    r"|(?<=\.)(?P<fixed>\d{0,12})\((?P<recurring>\d{1,12})\)"
)
# Backslashes that some program has doubled, outside environments, where they end rows.
_DOUBLED = re.compile(r"\\\\(?=[A-Za-z]{2}|[{}])")
_QUAD_BETWEEN = re.compile(
    r"(?<![,;])\s*\\q?quad\s*(?=\\?[A-Za-z]+(?:\\[a-z!]+|[^=,;\\$&<>]){0,20}=)"
)
_SPACES = re.compile(r"\s+")
_KEPT_ENDS = ("...", "\\;", "\\,", "\\:")
_SPACE_ROUND = re.compile(r"\s*([-+*/=<>();:{}\[\]|^]|,(?!\s+\d{3}(?!\d)))\s*")


# What a JSON string makes of `\frac`, `\beta` or `\times`: a control character and the rest
# of the command. Tabs and line breaks may stand there by right, so only whole commands count.
_ESCAPED = re.compile(
    r"([\x07\x08\x0b\x0c])(?=[a-z])"
    r"|\t(?=(?:imes|ext|heta|an|au|frac|riangle|ilde|binom|o)(?![a-z]))"
    r"|\r(?=(?:ho|ight|angle|floor|ceil)(?![a-z]))"
    r"|\n(?=(?:eq|otin|abla|ewline|leq|geq|parallel|mid)(?![a-z]))"
)
_LETTER_OF = {"\a": "a", "\b": "b", "\v": "v", "\f": "f", "\t": "t", "\r": "r", "\n": "n"}


def unescaped(text: str) -> str:
    r"""Return text with the commands repaired that lost their backslash to a string escape.

    `\frac` read as JSON is a form feed and `rac`.
    """
    if text.isprintable():
        return text
    return _ESCAPED.sub(lambda found: "\\" + _LETTER_OF[found.group()], text)


def _undecorate(found: re.Match[str]) -> str:
    kind = found.lastgroup
    if kind == "space":
        return " "
    if kind in ("dollar", "row"):
        return found.group()
    if kind in ("bare", "mark"):
        return found[kind]
    if kind == "double":  # `\\frac` as a program has escaped it, but rows end in `\\` too
        return "\\\\" if "\\begin" in found.string else "\\"
    return ""


def _plain_habit(found: re.Match[str]) -> str:
    if found["pm"]:
        return "\\pm "
    if found["times"]:
        return "\\cdot "
    if found["all"]:
        return f"\\binom{{{found['all']}}}{{{found['chosen']}}}"
    if found["recurring"]:
        return f"{found['fixed']}\\overline{{{found['recurring']}}}"
    return ""


def _plain_unicode(text: str) -> str:
    text = _ROOT_RUN.sub(lambda m: ("\\sqrt" if m[1] == "√" else "\\sqrt[3]") + f"{{{m[2]}}}", text)
    text = _SUPER_RUN.sub(lambda m: "^{" + m.group().translate(_TO_PLAIN) + "}", text)
    text = _SUB_RUN.sub(lambda m: "_{" + unicodedata.normalize("NFKC", m.group()) + "}", text)
    text = text.translate(_UNICODE)
    if text.isascii():
        return text
    # Not before the table: NFKC makes 2½ into 21/2, and of a superscript a digit on the line.
    text = unicodedata.normalize("NFKC", text).translate(_UNICODE)
    if text.isascii():
        return text
    return "".join(
        str(unicodedata.digit(c)) if not c.isascii() and unicodedata.digit(c, -1) >= 0 else c
        for c in text
    )


def normalise(text: str) -> str:
    r"""Return text in ASCII LaTeX without decoration: `\left`, spaces, `$`, colours, boxes.

    Digit groups are joined where the separator can be nothing else (`1{,}234`, `1\,234`).
    """
    text = unescaped(text)
    if not text.isascii():
        text = _plain_unicode(text)
    if "\\\\" in text:
        if "\\\\begin" in text:
            text = text.replace("\\\\", "\\")
        elif "\\begin" not in text:
            text = _DOUBLED.sub("\\\\", text)
    if "quad" in text and text.count("=") > 1:
        text = _QUAD_BETWEEN.sub(", ", text)
    if "\\$" in text:
        text = text.replace("\\text{\\$}", "\\$")
    if "." in text or "x" in text or "C" in text or "+/-" in text:
        text = _PLAIN_HABITS.sub(_plain_habit, text)
    if "\\" in text or "$" in text or "~" in text or "{" in text:
        text = _DECORATION.sub(_undecorate, text)
    text = _SPACES.sub(" ", text).strip(" ")
    # By hand, not by a pattern: `[.,;: ]+$` is quadratic in a run of such characters.
    end = len(text)
    while end and text[end - 1] in ".,;: " and not text.endswith(_KEPT_ENDS, 0, end):
        end -= 1
    return text[:end]


def compact(text: str) -> str:
    """Return normalised text without the spaces that carry no meaning, for a test of identity."""
    return _SPACE_ROUND.sub(r"\1", text)


_WRAPPER = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|sc|tt|normal|up)?|math(?:bf|it|rm|sf|tt|normal)|mbox|hbox|bm"
    r"|boldsymbol|operatorname\*?|underline|emph)\s*(?=\{)"
)
_ARTICLE = re.compile(r"^(?:an?|the) (?=\w)")
_ORDINAL = re.compile(r"(?<=\d)(?:st|nd|rd|th)\b")
_SYNONYMS = {"divergent": "diverges", "convergent": "converges", "dne": "does not exist"}
_NOT_WORDS = re.compile(r"[\s{}$.,;:!?'\"*_`-]+|\\[ ,;]")


def words(text: str) -> str:
    """Return the lower-case words of a text answer, without wrappers and punctuation."""
    said = _NOT_WORDS.sub(" ", _WRAPPER.sub("", text)).strip().lower()
    said = _ORDINAL.sub("", _ARTICLE.sub("", said))
    return _SYNONYMS.get(said, said)
