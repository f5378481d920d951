"""Extraction: which text of a response is its answer."""

import pytest

from rewards import extract as extraction
from rewards.extract import MODES, extract
from rewards.types import Reason
from tests.rewards.counting import work

BOXED = [
    (r"So $\boxed{12}$.", "12"),
    (r"First \boxed{3}, but on reflection the answer is \boxed{4}.", "4"),
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    (r"\boxed {9}", "9"),
    (r"\boxed 9", "9"),
    (r"\boxed{\{1,2\}}", r"\{1,2\}"),
    (r"\boxed{\left\{x\right.}", r"\left\{x\right."),
    ("\\boxed{\n 5 \n}", "5"),
    (r"<think>\boxed{1}</think> \boxed{2}", "2"),
    (r"\boxed{7", "7"),
    (r"\boxed{\text{\boxed{5}}}", r"\text{\boxed{5}}"),
    (r"$x=\boxed{2}$ and $y=\boxed{3}$", "2; 3"),
    (r"\boxed{2}, \boxed{3}, \boxed{5}", "2; 3; 5"),
    (r"\boxed{4} or \boxed{5}", "4 or 5"),
    (r"\boxed{4}. \boxed{4}", "4"),
    (r"\boxed{6 \text{ or } \boxed{5}}", r"6 \text{ or } \boxed{5}"),
]


@pytest.mark.parametrize(("response", "answer"), BOXED)
def test_the_last_box_or_its_group_is_the_answer(response, answer):
    assert extract(response).answer == answer


@pytest.mark.parametrize(
    "response", ["", "The answer is 5.", r"\boxed{}", r"\boxed{", r"\boxed{5}</think> so", "}{"]
)
def test_without_a_box_after_thinking_there_is_no_answer(response):
    found = extract(response)
    assert found.answer is None
    assert found.reason is Reason.NO_ANSWER


@pytest.mark.parametrize(
    ("mode", "response", "answer"),
    [
        ("answer_line", "Answer: 5", "5"),
        (
            "answer_line",
            "I think.\nThe answer is 12.\nThe answer is $\\frac{1}{2}$.",
            "$\\frac{1}{2}$",
        ),
        ("answer_line", "**Answer:** 7", "7"),
        ("answer_line", "The answer is: 8", "8"),
        ("answer_line", "So the answer is: $\\frac{1}{7}$", "$\\frac{1}{7}$"),
        ("answer_line", "The final answer is $6$. I hope it is correct.", "$6$"),
        ("answer_line", "The answer is 7. Wait. The answer is 9.", "9"),
        ("answer_line", "The answer is 0.25", "0.25"),
        ("answer_line", "Final answer: **5**", "5"),
        ("answer_line", "The answer is not 5", "not 5"),
        ("hash", "#### **12**", "12"),
        ("last_number", "so it is .5", ".5"),
        ("last_number", "so it is −5", "−5"),
        ("last_number", "so it is -.75", "-.75"),
        ("last_number", "about 1e5", "1e5"),
        ("last_number", "from 3–5", "5"),
        ("last_number", "pages 10-12", "12"),
        ("hash", "2+2=4\n#### 4", "4"),
        ("last_number", "We get 3 and then 1,250.", "1,250"),
        ("last_number", "x is -4/7 here", "-4/7"),
    ],
)
def test_the_other_modes_find_their_own_form(mode, response, answer):
    assert extract(response, mode).answer == answer


def test_no_mode_falls_back_to_another():
    assert extract("Answer: 5").answer is None
    assert extract(r"\boxed{5}", "hash").answer is None
    assert extract(r"\boxed{5} and so on", "answer_line").answer is None
    assert extract("no digits", "last_number").answer is None


@pytest.mark.parametrize("mode", MODES)
def test_where_the_prompt_opens_think_only_what_follows_its_end_is_an_answer(mode):
    said = r"the answer is 5 #### 5 \boxed{5}"
    form = {"boxed": r"\boxed{7}", "answer_line": "Answer: 7", "hash": "#### 7"}.get(mode, "7")
    assert extract(said, mode).answer is not None
    for unfinished in (said, f"{said} <think>", f"x</think> done <think> {said}"):
        found = extract(unfinished, mode, require_closed_think=True)
        assert (found.answer, found.reason) == (None, Reason.NO_ANSWER)
    for finished in (f"{said}</think> {form}", f"{said}</think>a</think> {form} <think> {said}"):
        assert extract(finished, mode, require_closed_think=True).answer == "7"


def test_an_unknown_mode_names_the_known_ones():
    with pytest.raises(ValueError, match="boxed, answer_line, hash, last_number"):
        extract("x", "boxes")


@pytest.mark.parametrize(
    "make",
    [
        lambda n: "We note $x_1 = 3$ and so on. " * n + r"\boxed{5}",
        lambda n: r"\boxed{" * n,
        lambda n: r"\boxed{1} " * n,
        lambda n: "{" * n,
        lambda n: r"\boxed{" + "{" * n + "}" * n + "}",
        lambda n: "</think>" * n,
    ],
)
def test_extraction_is_linear_in_the_response(make):
    small, large = (work(extract, make(n), extraction) for n in (2_500, 20_000))
    assert large < 1.3 * 8 * max(small, 100)
    extract(make(300_000))  # quadratic work would not end
