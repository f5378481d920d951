"""Sentences say what the interval allows and no more."""

import pytest

from eval.intervals import Interval
from rlvr.compare.statistics import Pair
from rlvr.compare.text import gain_sentence, pair_sentence


def pair(value, lo, hi, p_holm, seeds=(0, 1, 2)):
    interval = Interval(value, lo, hi, "seeds and problems", "two-way t")
    return Pair("dora", "lora", interval, p_holm / 3, p_holm, seeds)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            pair(0.004, -0.011, 0.019, 0.9),
            "dora and lora are not distinguishable here: +0.4 [-1.1, +1.9] points"
            " (95% over 3 seeds and problems).",
        ),
        (
            pair(0.05, 0.02, 0.08, 0.003),
            "dora is ahead of lora by +5.0 [+2.0, +8.0] points (95% over 3 seeds and problems;"
            " Holm p = 0.003).",
        ),
        (
            pair(-0.05, -0.08, -0.02, 0.003),
            "lora is ahead of dora by +5.0 [+2.0, +8.0] points (95% over 3 seeds and problems;"
            " Holm p = 0.003).",
        ),
        (
            pair(0.05, 0.001, 0.099, 0.13),
            "dora is ahead of lora by +5.0 [+0.1, +9.9] points taken alone (95% over 3 seeds and"
            " problems), but not after correcting for all pairs (Holm p = 0.13).",
        ),
    ],
    ids=["indistinguishable", "win", "loss", "lost to the correction"],
)
def test_a_pair_gets_the_one_claim_that_it_allows(given, said):
    assert pair_sentence(given) == said


def test_one_seed_says_that_it_is_one():
    assert "one seed, so nothing is said about others" in pair_sentence(
        pair(0.05, 0.02, 0.08, 0.003, seeds=(0,))
    )


def test_a_gain_that_may_be_zero_is_not_called_one():
    unsure = Interval(0.01, -0.01, 0.03, "", "")
    assert "no change from training can be told" in gain_sentence("lora", unsure, 3)
    fell = Interval(-0.05, -0.08, -0.02, "", "")
    assert "accuracy fell by -5.0 [-8.0, -2.0] points" in gain_sentence("lora", fell, 3)
