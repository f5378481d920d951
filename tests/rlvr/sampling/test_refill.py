"""A step mostly takes one round of prompts, and asks for no more prompts in all than it has to."""

import numpy as np
import pytest

from rlvr.sampling.refill import num_prompts, updated_frac
from tests.benchmarks.refill_rounds import GROUPS, simulate


@pytest.mark.process
def test_a_step_at_half_informative_takes_one_round_for_the_same_prompts():
    found = simulate(0.5, seed=0)
    assert 1.0 <= found["rounds"] <= 1.15
    assert found["stale"] < 0.1, "what is asked for too many is used by the next step"
    assert found["prompts"] == pytest.approx(GROUPS / 0.5, rel=0.03)


@pytest.mark.parametrize("frac", [0.35, 0.5, 0.8])
def test_what_is_asked_gives_the_missing_groups_in_nine_of_ten_rounds(frac):
    draw = np.random.default_rng(0)
    for missing in (1, 4, 16, 128):
        count = num_prompts(missing, frac)
        assert np.mean(draw.binomial(count, frac, 20_000) >= missing) >= 0.89
        assert count * frac <= missing + 1.5 * missing**0.5 + 1


def test_where_every_group_carries_a_signal_none_is_asked_for_in_vain():
    assert num_prompts(16, 1.0) == 16


def test_a_policy_that_is_lost_does_not_ask_without_bound():
    assert num_prompts(16, 0.0) == num_prompts(16, 1 / 3) == 63


def test_the_fraction_follows_the_rounds():
    assert updated_frac(0.5, 10, 10) == pytest.approx(0.6)
    assert updated_frac(0.5, 0, 10) == pytest.approx(0.4)
