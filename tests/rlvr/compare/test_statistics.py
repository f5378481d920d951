"""Intervals over seeds and problems on constructed tables whose truth is known."""

import numpy as np
import pytest

from rlvr.compare.statistics import compare_pairs, difference, gain, mean_interval, two_way


def table(rng, seeds=3, problems=200, seed_sd=0.02, problem_sd=0.2, rest_sd=0.4, mean=0.0):
    """[S, P] values with known variances of seeds, problems and the rest."""
    return (
        mean
        + seed_sd * rng.standard_normal((seeds, 1))
        + problem_sd * rng.standard_normal((1, problems))
        + rest_sd * rng.standard_normal((seeds, problems))
    )


@pytest.mark.parametrize("seed_sd", [0.0, 0.02, 0.1])
def test_the_interval_covers_whatever_share_the_seeds_have(seed_sd):
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(1500):
        interval = two_way(table(rng, seed_sd=seed_sd)).interval()
        hits += interval.lo <= 0 <= interval.hi
    assert 0.93 <= hits / 1500 <= 0.985


def test_p_values_of_no_difference_are_below_5_percent_at_most_one_time_in_20():
    rng = np.random.default_rng(2)
    p_values = np.array([two_way(table(rng, seed_sd=0.05)).p_value() for _ in range(1500)])
    assert np.mean(p_values < 0.05) <= 0.065


def test_interval_and_p_value_agree():
    rng = np.random.default_rng(3)
    for mean in np.linspace(0, 0.15, 40):
        found = two_way(table(rng, mean=mean))
        interval = found.interval()
        assert (found.p_value() < 0.05) == (interval.lo > 0 or interval.hi < 0)


def test_problems_alone_give_the_paired_t_over_problems():
    rng = np.random.default_rng(4)
    column = rng.standard_normal(50)
    same = two_way(np.stack([column, column, column]))
    assert same.error == pytest.approx(column.std(ddof=1) / np.sqrt(50))
    assert same.freedom == pytest.approx(49)


def test_one_seed_falls_back_to_problems_and_says_so():
    values = np.r_[np.ones(30), np.zeros(20)]
    assert mean_interval([values]).over == "problems"
    interval, p = difference([values], [np.zeros(50)])
    assert interval.over == "problems"
    assert interval.value == pytest.approx(0.6)
    assert p < 1e-3


def test_equal_runs_differ_by_nothing_with_a_width():
    values = np.tile(np.r_[np.ones(30), np.zeros(20)], (3, 1))
    interval, p = difference(values, values)
    assert (interval.value, p) == (0.0, 1.0)
    assert interval.lo < 0 < interval.hi


def test_pairs_use_the_seeds_that_both_have_and_holm_corrects_over_all_of_them():
    rng = np.random.default_rng(5)
    problems = rng.random(300)

    def runs(right, seeds=(0, 1, 2)):
        return {s: (rng.random(300) < problems * right).astype(float).tolist() for s in seeds}

    values = {"a": runs(1.0), "b": runs(1.0, seeds=(0, 1)), "c": runs(0.3)}
    pairs = {(p.a, p.b): p for p in compare_pairs(values)}
    assert pairs["a", "b"].seeds == (0, 1)
    assert pairs["a", "c"].seeds == (0, 1, 2)
    assert pairs["a", "c"].difference.lo > 0.2
    assert pairs["a", "b"].difference.lo < 0 < pairs["a", "b"].difference.hi
    assert all(p.p_holm >= p.p for p in pairs.values())
    assert min(p.p for p in pairs.values()) * 3 == pytest.approx(
        min(p.p_holm for p in pairs.values())
    )


def test_the_gain_is_after_minus_before_of_the_same_seeds():
    before = {0: [0.0] * 40 + [1.0] * 10, 1: [0.0] * 42 + [1.0] * 8}
    after = {0: [0.0] * 20 + [1.0] * 30, 1: [0.0] * 20 + [1.0] * 30, 2: [1.0] * 50}
    found = gain(before, after)
    assert found is not None
    assert found.value == pytest.approx((20 + 22) / 100)


def test_runs_on_different_problems_are_refused():
    with pytest.raises(ValueError, match="problems"):
        compare_pairs({"a": {0: [1.0, 0.0]}, "b": {0: [1.0, 0.0, 1.0]}})


def test_a_balanced_table_claims_no_certain_difference():
    """Seeds and problems cancel out in it: what remains is noise, not evidence."""
    interval, p = difference([[0.2, 0.0], [0.0, 0.2]], [[0.0, 0.0], [0.0, 0.0]])
    assert interval.lo < 0 < interval.hi
    assert p > 0.05
