"""Verdicts, lengths and texts to one reward per response."""

import pytest

from rewards import Reason, Verdict
from rlvr.algorithm.advantage import is_informative
from rlvr.engines.engine import Response
from rlvr.sampling.reward import shaped_rewards
from tests.rlvr.cases import make_recipe

LENGTHS = [4, 6, 9, 12]
CORRECT = [True, False, True, False]
TEXTS = ["<think>a</think>b", "<think>a", "b", "<think>a</think>b"]


def rewards(right=CORRECT, **settings):
    responses = [Response(list(range(n)), [0.0] * n, n == 12) for n in LENGTHS]
    reasons = {True: Reason.CORRECT, False: Reason.WRONG}
    verdicts = [Verdict(c, reasons[c], "1", "fast", 0.1) for c in right]
    config = make_recipe(reward=settings).reward
    return shaped_rewards(config, responses, verdicts, TEXTS, 12)


TABLE = [
    ({}, [1, 0, 1, 0]),
    ({"correct": 1.0, "incorrect": -1.0}, [1, -1, 1, -1]),
    ({"overlong": "mask"}, [1, 0, 1, 0]),
    ({"overlong": "penalty", "overlong_cache_len": 4}, [1, 0, 0.75, -1]),
    ({"format_weight": 0.5}, [1.5, 0, 1, 0.5]),
    ({"length_weight": 1.0}, [1.5, 0, 1 + 0.5 - 5 / 8, -0.5]),
]


@pytest.mark.parametrize(("settings", "expected"), TABLE, ids=str)
def test_parts_of_the_reward_add_up_by_hand(settings, expected):
    assert rewards(**settings) == pytest.approx(expected)


def test_a_repeated_n_gram_costs_its_share():
    responses = [Response([7] * 5, [0.0] * 5, False)] + [
        Response([1, 2, 3, 4, 5], [0.0] * 5, False) for _ in range(3)
    ]
    verdicts = [Verdict(False, Reason.WRONG, "1", "fast", 0.1)] * 4
    config = make_recipe(reward={"repetition_weight": 2.0, "repetition_ngram_len": 2}).reward
    assert shaped_rewards(config, responses, verdicts, TEXTS, 12) == pytest.approx([-1.5, 0, 0, 0])


def test_normalised_parts_weigh_the_same_whatever_their_range():
    small = rewards(normalise=True, format_weight=1.0)
    large = rewards(normalise=True, format_weight=1.0, correct=1000.0)
    assert large == pytest.approx(small, abs=1e-3)


def test_normalising_leaves_a_group_without_signal_without_signal():
    assert not is_informative(rewards(right=[True] * 4, normalise=True))
