"""A mean over several evaluation sets: each keeps its weight, and intervals cover a known truth."""

import numpy as np
import pytest

from rlvr.compare.statistics import compare_pairs, difference, gain, mean_interval, two_way

SIZES = (30, 30, 40, 30, 500, 272)
"""Problems of the sets that the 1.5B comparison evaluates, and below, responses to each."""
SAMPLES = (32, 32, 32, 32, 4, 4)


def drawn(rng, num_seeds=3, seed_sd=0.02, problem_sd=0.15, gain=0.0, sizes=SIZES):
    """[S, sum of sizes] differences of two methods whose mean over sets is `gain` in truth.

    Set k has its own effect on top, which the sets' mean takes out; a seed moves all sets at once
    and each a little apart; problems differ; samples add noise by their number.
    """
    own_K = np.linspace(-0.05, 0.05, len(sizes))
    seeds_S = seed_sd * rng.standard_normal(num_seeds)
    tables = []
    for size, samples, own in zip(sizes, SAMPLES, own_K, strict=False):
        apart_S = seed_sd / 2 * rng.standard_normal(num_seeds)
        problems_P = problem_sd * rng.standard_normal(size)
        noise_SP = np.sqrt(2 * 0.16 / samples) * rng.standard_normal((num_seeds, size))
        tables.append(gain + own + (seeds_S + apart_S)[:, None] + problems_P + noise_SP)
    return np.concatenate(tables, axis=1)


@pytest.mark.parametrize(("num_seeds", "seed_sd"), [(1, 0.0), (3, 0.0), (3, 0.01), (3, 0.04)])
def test_the_interval_of_a_mean_over_sets_covers_the_truth(num_seeds, seed_sd):
    rng = np.random.default_rng(1)
    tables = (drawn(rng, num_seeds, seed_sd, gain=0.03) for _ in range(1000))
    found = [two_way(table, SIZES) for table in tables]
    bounds = [one.interval().bounds for one in found]
    # as on one set, 0.925 to 0.97 by the seeds' share (docs/compare.md), less three standard errors
    assert 0.905 <= np.mean([lo <= 0.03 <= hi for lo, hi in bounds]) <= 0.985
    # the error itself: the spread of the estimates over the simulated tables
    spread = np.std([one.mean for one in found])
    assert np.mean([one.error**2 for one in found]) == pytest.approx(spread**2, rel=0.15)


def test_no_difference_is_found_at_most_one_time_in_20():
    rng = np.random.default_rng(2)
    p_values = [two_way(drawn(rng, seed_sd=0.01), SIZES).p_value() for _ in range(1000)]
    assert np.mean(np.array(p_values) < 0.05) <= 0.065


def test_a_small_set_weighs_as_a_large_one():
    """By hand: sets of 2 and 4 problems with means 0.5 and 0.25, one seed."""
    values = [[1.0, 0.0, 1.0, 0.0, 0.0, 0.0]]
    found = two_way(values, (2, 4))
    assert found.mean == pytest.approx((0.5 + 0.25) / 2)
    # variances of the sets' means: 0.5 / 2 and 0.25 / 4, each with weight 1 / 4
    first, second = 0.5 / 2 / 4, 0.25 / 4 / 4
    assert found.error == pytest.approx((first + second) ** 0.5)
    assert found.freedom == pytest.approx((first + second) ** 2 / (first**2 / 1 + second**2 / 3))
    assert found.interval().over == "problems"


def test_problems_asked_twice_as_often_leave_the_other_set_its_weight():
    rng = np.random.default_rng(3)
    small, large = rng.random((3, 20)), rng.random((3, 50))
    once = two_way(np.hstack([small, large]), (20, 50))
    twice = two_way(np.hstack([small, large, large]), (20, 100))
    assert twice.mean == pytest.approx(once.mean)


def test_the_order_of_sets_and_of_problems_within_them_changes_nothing():
    rng = np.random.default_rng(4)
    table = drawn(rng)
    there = two_way(table, SIZES)
    cut = np.split(table, np.cumsum(SIZES)[:-1], axis=1)
    moved = [part[:, rng.permutation(part.shape[1])] for part in cut[::-1]]
    back = two_way(np.hstack(moved), SIZES[::-1])
    for name in ("mean", "error", "freedom"):
        assert getattr(back, name) == pytest.approx(getattr(there, name))


def test_one_set_gives_what_no_sets_give():
    table = np.random.default_rng(5).random((3, 40))
    assert two_way(table, (40,)) == two_way(table)
    assert mean_interval(table[:1], (40,)) == mean_interval(table[:1])
    assert difference(table[:1], table[1:2], (40,)) == difference(table[:1], table[1:2])


def test_a_seed_that_moves_all_sets_at_once_is_seen():
    """Were the sets taken for independent, six of them would make the seeds' part six times
    smaller."""
    rng = np.random.default_rng(6)
    shift = np.array([[-0.1], [0.0], [0.1]])
    table = shift + 0.01 * rng.standard_normal((3, sum(SIZES)))
    assert two_way(table, SIZES).error == pytest.approx(0.1 / 3**0.5, rel=0.05)


def test_equal_runs_on_several_sets_have_a_bound_no_smaller_than_on_all_problems():
    values = np.tile(np.r_[np.ones(30), np.zeros(20)], (3, 1))
    interval, p = difference(values, values, (10, 40))
    whole, _ = difference(values, values)
    assert (interval.value, p) == (0.0, 1.0)
    assert interval.hi >= whole.hi > 0


def test_pairs_and_gains_take_the_sets_as_they_are():
    before = {s: [0.0, 0.0] + [0.5, 0.0] * 20 for s in (0, 1)}
    after = {s: [1.0, 0.0] + [0.5, 0.0] * 20 for s in (0, 1)}
    found = gain(before, after, (2, 40))
    assert found is not None
    assert found.value == pytest.approx(0.5 / 2)
    (pair,) = compare_pairs({"a": after, "b": before}, (2, 40))
    assert pair.difference.value == pytest.approx(0.25)


def test_sizes_that_do_not_add_up_and_sets_of_one_problem_are_refused():
    with pytest.raises(ValueError, match="sets of"):
        two_way(np.zeros((2, 5)), (2, 2))
    with pytest.raises(ValueError, match="2 problems of every set"):
        two_way(np.zeros((2, 5)), (4, 1))
