"""The judge on the kinds of answers that other people's outputs and tests showed."""

import pytest

from rewards.gold import Gold
from rewards.judging.judge import judge_fast, judge_slow
from rewards.types import Reason
from tests.rewards.pairs_outside import OUTSIDE
from tests.rewards.pairs_symbolic import SYMBOLIC

KINDS = {**OUTSIDE, **SYMBOLIC}
pytestmark = pytest.mark.usefixtures("ample_time")


def pays(answer: str, gold: str) -> bool:
    parsed = Gold.parse(gold)
    ruling = judge_fast(answer, parsed) or judge_slow(answer, parsed)
    return ruling.reason is Reason.CORRECT


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_right_answers_of_every_kind_are_paid(kind):
    assert [pair for pair in KINDS[kind][0] if not pays(pair[1], pair[0])] == []


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_their_false_neighbours_are_not_paid(kind):
    assert [pair for pair in KINDS[kind][1] if pays(pair[1], pair[0])] == []


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_gold_of_a_right_answer_pays_itself(kind):
    golds = {gold for gold, _ in KINDS[kind][0]}
    assert [gold for gold in golds if not pays(gold, gold)] == []
