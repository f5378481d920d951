"""Intervals against scipy, hand tables, and simulated coverage."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from eval.intervals import (
    fraction_over_problems,
    mean_over_problems,
    paired_difference,
    redraw,
    resampled_difference,
    stratified,
    wilson,
)


@pytest.mark.parametrize(("successes", "trials"), [(0, 30), (1, 30), (15, 30), (30, 30), (1, 1)])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
def test_wilson_equals_scipy(successes, trials, level):
    ours = wilson(successes, trials, level)
    theirs = stats.binomtest(successes, trials).proportion_ci(level, method="wilson")
    assert (ours.lo, ours.hi) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert ours.value == successes / trials


@pytest.mark.parametrize(("successes", "trials"), [(1, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_what_is_not_a_proportion(successes, trials):
    with pytest.raises(ValueError, match="not a proportion"):
        wilson(successes, trials)


def test_yes_no_problems_get_exactly_the_wilson_interval():
    values = [1] * 12 + [0] * 18
    ours, reference = fraction_over_problems(values, draws_per_problem=1), wilson(12, 30)
    assert ours.bounds == pytest.approx(reference.bounds)
    assert ours.over == "problems"


@given(st.lists(st.integers(0, 8), min_size=2, max_size=40))
def test_more_samples_never_widen_a_fraction_beyond_one_trial_per_problem(counts):
    values = np.array(counts) / 8
    interval = fraction_over_problems(values, draws_per_problem=8)
    widest = wilson(values.mean() * len(values), len(values))
    narrowest = wilson(values.mean() * len(values) * 8, len(values) * 8)
    assert 0 <= interval.lo <= interval.value <= interval.hi <= 1
    width = interval.hi - interval.lo
    assert narrowest.hi - narrowest.lo - 1e-9 <= width <= widest.hi - widest.lo + 1e-9


def test_unsolved_and_fully_solved_benchmarks_keep_an_interval_of_some_width():
    assert fraction_over_problems([0.0] * 30, 32).hi == pytest.approx(wilson(0, 30).hi)
    assert fraction_over_problems([1.0] * 30, 32).lo == pytest.approx(wilson(30, 30).lo)


def test_mean_over_problems_equals_scipy_and_is_infinite_for_one_problem():
    lengths = [100.0, 220.0, 90.0, 400.0]
    reference = stats.ttest_1samp(lengths, 0).confidence_interval(0.95)
    assert mean_over_problems(lengths).bounds == pytest.approx([reference.low, reference.high])
    assert mean_over_problems([3.0]).bounds == [-np.inf, np.inf]


def test_paired_difference_is_close_to_scipys_bca_on_many_problems():
    rng = np.random.default_rng(3)
    a, b = rng.binomial(8, 0.4, 400) / 8, rng.binomial(8, 0.5, 400) / 8
    ours = paired_difference(a, b)
    reference = stats.bootstrap((b - a,), np.mean, method="BCa", rng=rng).confidence_interval
    assert ours.value == pytest.approx((b - a).mean())
    assert ours.bounds == pytest.approx([reference.low, reference.high], abs=0.002)


def test_a_skewed_difference_gets_the_shifted_interval_of_scipys_bca():
    d = np.random.default_rng(5).exponential(size=200)
    ours = paired_difference(np.zeros(200), d)
    reference = stats.bootstrap((d,), np.mean, method="BCa", rng=np.random.default_rng(5))
    plain = stats.bootstrap((d,), np.mean, method="percentile", rng=np.random.default_rng(5))
    bounds = reference.confidence_interval
    assert ours.bounds == pytest.approx([bounds.low, bounds.high], abs=0.005)
    assert bounds.high - plain.confidence_interval.high > 0.006


def test_paired_difference_is_seeded_and_changes_sign_with_the_order():
    rng = np.random.default_rng(0)
    a, b = rng.random(50), rng.random(50)
    assert paired_difference(a, b, seed=5) == paired_difference(a, b, seed=5)
    there, back = paired_difference(a, b), paired_difference(b, a)
    assert there.value == -back.value
    assert [there.lo, there.hi] == pytest.approx([-back.hi, -back.lo], abs=0.01)


def test_equal_results_leave_room_for_the_problems_that_were_not_asked():
    interval = paired_difference([1, 0, 1], [1, 0, 1])
    assert interval.value == 0
    assert interval.hi == pytest.approx(1 - 0.025 ** (1 / 3))
    assert interval.lo == -interval.hi


def test_results_over_different_problems_are_refused():
    with pytest.raises(ValueError, match="3 problems against 2"):
        paired_difference([1, 0, 1], [1, 0])


def test_bootstraps_match_a_slow_reference_that_draws_every_index():
    rng = np.random.default_rng(1)
    n, c = np.array([4] * 6 + [8] * 6), np.array([0, 1, 2, 3, 4, 4, 0, 2, 5, 8, 1, 7])
    index = rng.integers(0, 12, (40_000, 12))
    redrawn = rng.binomial(n[index], c[index] / n[index]) / n[index]
    fixed = rng.binomial(n, c / n, (40_000, 12)) / n
    slow = {
        "problems": (c / n)[index].mean(1),
        "problems and samples": redrawn.mean(1),
        "samples": fixed.mean(1),
    }
    for over, means in slow.items():
        redraws = redraw(c, n, over, num_resamples=40_000)
        assert (redraws.weights.sum(axis=1) == 12).all()
        fast = redraws.interval((c / n).mean(), redraws.c / redraws.n)
        grid = 1.01 / 96  # means of these problems are multiples of 1/96
        assert fast.bounds == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=grid)
        assert fast.over == over


def test_an_unknown_source_of_variation_is_refused():
    with pytest.raises(ValueError, match="use 'problems', 'samples'"):
        redraw([1], [2], over="tokens")


def test_the_overall_interval_draws_problems_within_each_benchmark():
    rng = np.random.default_rng(2)
    small, large = rng.random(20), rng.random(200) * 0.2
    slow = (
        small[rng.integers(0, 20, (20_000, 20))].mean(1)
        + large[rng.integers(0, 200, (20_000, 200))].mean(1)
    ) / 2
    fast = stratified([small, large], num_resamples=20_000)
    assert fast.value == pytest.approx((small.mean() + large.mean()) / 2)
    assert fast.bounds == pytest.approx(np.quantile(slow, [0.025, 0.975]), abs=0.004)


def test_differences_over_samples_match_a_slow_reference():
    rng = np.random.default_rng(4)
    n, c_a, c_b = np.full(20, 4), rng.integers(0, 5, 20), rng.integers(0, 5, 20)
    index = rng.integers(0, 20, (20_000, 20))
    for over, which in (("samples", np.arange(20)), ("problems and samples", index)):
        which = np.broadcast_to(which, (20_000, 20))
        redrawn = [rng.binomial(4, c[which] / 4).mean(1) / 4 for c in (c_a, c_b)]
        slow = np.quantile(redrawn[1] - redrawn[0], [0.025, 0.975])
        fast = resampled_difference((n, c_a), (n, c_b), over, num_resamples=20_000)
        assert fast.value == pytest.approx((c_b - c_a).mean() / 4)
        assert fast.bounds == pytest.approx(slow, abs=1.01 / 80)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    """400 simulated benchmarks of 30 problems x 8 samples: 95% +- 3 standard errors of 1.1%."""
    rng, covered, num_runs = np.random.default_rng(0), {"mean": 0, "difference": 0, "both": 0}, 400
    for run in range(num_runs):
        p = rng.beta(0.5, 0.8, 30)
        q = p + 0.1 * (1 - p)
        a, b = rng.binomial(8, p), rng.binomial(8, q)
        mean = fraction_over_problems(a / 8, 8)
        covered["mean"] += mean.lo <= 0.5 / 1.3 <= mean.hi
        difference = paired_difference(a / 8, b / 8, num_resamples=1000, seed=run)
        covered["difference"] += difference.lo <= 0.1 * 0.8 / 1.3 <= difference.hi
        redraws = redraw(a, np.full(30, 8), "problems and samples", 1000, seed=run)
        both = redraws.interval(a.mean() / 8, redraws.c / redraws.n)
        covered["both"] += both.lo <= 0.5 / 1.3 <= both.hi
    assert all(0.917 <= count / num_runs <= 0.985 for count in covered.values()), covered
