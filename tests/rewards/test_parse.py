"""Normalisation and parsing: what a text is read as, and that every text ends quickly."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.gold import Gold
from rewards.judging.judge import judge_fast
from rewards.syntax.lexer import Unparsed
from rewards.syntax.normalise import compact, normalise, words
from rewards.syntax.parse import parse
from rewards.syntax.units import unit_name
from tests.rewards.counting import num_calls


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        (r"\left( 3 , 4 \right)", "( 3 , 4 )"),
        ("１２", "12"),
        ("7 − 2", "7 - 2"),
        (r"9{,}876", "9876"),
        (r"9\,876", "9876"),
        (r"$\,5\;$", "5"),
        ("√12", r"\sqrt{12}"),
        ("x²", "x^{2}"),
        (r"\\frac{1}{2}", r"\frac{1}{2}"),
        (r"\text{:}", ""),
        ("5.", "5"),
        (r"\displaystyle 5", "5"),
        (r"\textcolor{red}{5}", "{5}"),
        (r"3{:}20", "3:20"),
        ("np.sqrt(2)", "sqrt(2)"),
        (r"1 \\ 2", r"1 \\ 2"),
    ],
)
def test_decoration_disappears(text, plain):
    assert normalise(text) == plain


def test_normalising_twice_changes_nothing():
    for text in (r"\left(1,\,2\right]", "2√3", r"\frac{1}{2}\text{ cm}", "−5", r"x\ \text{or}\ y"):
        once = normalise(text)
        assert normalise(once) == once


def test_words_are_compared_without_case_wrapper_or_article():
    assert words(r"\text{The Blue whale}.") == words("blue  whale")
    assert compact("( 1 , 2 )") == "(1,2)"
    assert compact("1, 234") != "1,234"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("cm", "cm"),
        ("centimeters", "cm"),
        ("square inches", "in^2"),
        ("in^2", "in^2"),
        ("miles per hour", "mph"),
        ("Dollars", "dollar"),
        ("km/h", "km/h"),
        ("tickets", "ticket"),
        ("not", None),
        ("or 6", None),
        ("p.m.", "pm"),
        ("is wrong", None),
    ],
)
def test_units_have_one_name_and_remarks_have_none(text, name):
    assert unit_name(text) == name


N = {k: ("n", k, 1) for k in range(10)}


@pytest.mark.parametrize(
    ("text", "node"),
    [
        (r"\frac12", ("/", N[1], N[2])),
        ("2x", ("*", (N[2], ("s", "x")))),
        ("-x^2", ("-", ("^", ("s", "x"), N[2]))),
        ("x_{12}", ("s", "x_12")),
        (r"\sqrt2", ("f", "root", (N[2], N[2]))),
        ("(1,2]", ("tuple", "(]", (N[1], N[2]))),
        (r"\{1,2\}", ("set", (N[1], N[2]))),
        ("1,2", ("list", (N[1], N[2]), ",")),
        ("f(x)", ("f", "@f", (("s", "x"),))),
        (r"2\frac13", ("n", 7, 3)),
        ("1.50", ("d", 150, 2)),
        ("1,234", ("n", 1234, 1)),
        ("(1,234)", ("tuple", "()", (N[1], ("n", 234, 1)))),
        (r"5\text{ cm}", ("unit", N[5], "cm")),
        (r"\$5", ("unit", N[5], "dollar")),
        ("5!", ("f", "!", (N[5],))),
        ("1:2", ("ratio", (N[1], N[2]))),
        (r"|x|", ("f", "abs", (("s", "x"),))),
        ("2^{3^{2}}", ("^", N[2], ("^", N[3], N[2]))),
        (r"\sin^2 x", ("^", ("f", "sin", (("s", "x"),)), N[2])),
        (r"x \le 3", ("rel", ("<=",), (("s", "x"), N[3]))),
        (r"\pm 2", ("pm", N[2])),
        (r"\sin 2x", ("f", "sin", (("*", (N[2], ("s", "x"))),))),
    ],
)
def test_texts_become_trees(text, node):
    assert parse(normalise(text)) == node


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5-",
        "*",
        "()",
        "7?8",
        "1 2",
        r"\frac",
        "(1,2",
        "{1",
        "x_",
        r"\unknownenv{",
        "[5)",
        "(1,2,3]",
        "1..2",
        "$",
        "' or 1",
    ],
)
def test_what_is_no_mathematics_is_refused(text):
    with pytest.raises((Unparsed, ValueError)):
        parse(normalise(text))


PIECES = [
    *(
        r"\frac",
        r"\sqrt",
        "{",
        "}",
        "(",
        ")",
        "[",
        "]",
        "^",
        "_",
        "+",
        "-",
        "*",
        "/",
        "=",
        "<",
        ",",
        ";",
        ":",
    ),
    *(
        "1",
        "23",
        "4.5",
        "x",
        "y",
        "e",
        "i",
        r"\pi",
        r"\sin",
        r"\ln",
        r"\le",
        r"\cup",
        r"\in",
        r"\pm",
        r"\text{ cm}",
    ),
    *(
        r"\text{ or }",
        "!",
        "|",
        r"\{",
        r"\}",
        r"\infty",
        r"\begin{pmatrix}",
        "&",
        r"\\",
        r"\end{pmatrix}",
        "%",
        r"\$",
    ),
    *(
        r"\binom",
        r"\log_",
        r"\overline",
        "...",
        " ",
        r"\sum_",
        r"\mathbb{Z}",
        "'",
        r"^\circ",
        r"\choose",
    ),
]
GOLDS = [
    Gold.parse(text)
    for text in ("7", r"\frac{1}{2}", "x+1", "(1,2)", "[1,2)", "A", r"\{1,2\}", "y=2x")
]


MOST_CALLS = 2_000


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join) | st.text(max_size=60))
def test_no_answer_raises_or_takes_much_work_in_process(answer):
    for gold in GOLDS:
        assert num_calls(lambda gold=gold: judge_fast(answer, gold)) < MOST_CALLS + 100 * len(
            answer
        )
