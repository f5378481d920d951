"""Answers meet in one class when they are mathematically equal, whatever their spelling."""

import pytest

from eval.votes import answer_groups
from rewards import Verifier


def test_equal_answers_share_a_class_and_different_ones_do_not(verifier):
    answers = ["\\frac{1}{2}", "0.5", "1/2", "\\frac12", "3", "3.0", "x+1", "1+x", "(1,2)", "(2,1)"]
    groups = answer_groups({("b", "x"): answers}, verifier)["b", "x"]
    half = {groups[a] for a in answers[:4]}
    assert len(half) == 1
    assert groups["3"] == groups["3.0"]
    assert groups["x+1"] == groups["1+x"]
    assert groups["(1,2)"] != groups["(2,1)"]
    assert len(set(groups.values())) == 5


def test_problems_do_not_mix(verifier):
    groups = answer_groups({("b", "x"): ["7"], ("b", "y"): ["8", "7"]}, verifier)
    assert groups == {("b", "x"): {"7": 1}, ("b", "y"): {"8": 1, "7": 2}}


def test_an_unreadable_answer_equals_only_its_own_text(verifier):
    groups = answer_groups({("b", "x"): ["\\frac{", "\\frac{", "", "2"]}, verifier)["b", "x"]
    assert len(set(groups.values())) == 3


def test_no_answers_give_no_classes(verifier):
    assert answer_groups({}, verifier) == {}


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("mode", ["boxed", "answer_line", "hash", "last_number"])
@pytest.mark.process
def test_answers_are_compared_in_every_answer_mode(mode, closed):
    """Also by a verifier that wants the end of thinking, which an answer alone has not."""
    with Verifier(answer_mode=mode, require_closed_think=closed, num_workers=1) as judge:
        groups = answer_groups({("b", "x"): ["0.5", "1/2", "3"]}, judge)["b", "x"]
    assert groups == {"0.5": 1, "1/2": 1, "3": 2}
