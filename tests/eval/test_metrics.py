"""Metrics against hand tables, enumeration over subsets, and invariances."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.metrics import ScoredSample, majority, pass_at_each_k, summarise


def scored(correct, group=None, reason=None, length=10, truncated=None):
    return ScoredSample(
        correct=correct,
        reason=reason or ("correct" if correct else "wrong"),
        answered=reason != "no_answer",
        group=(0 if correct else 1) if group is None and reason != "no_answer" else group,
        length=length,
        truncated=truncated,
    )


@pytest.mark.parametrize(
    ("n", "c", "k", "expected"),
    [(4, 0, 2, 0), (4, 4, 1, 1), (4, 1, 2, 0.5), (4, 2, 2, 5 / 6), (5, 3, 3, 1), (1, 1, 1, 1)],
)
def test_pass_at_k_matches_a_hand_table(n, c, k, expected):
    assert pass_at_each_k([n], [c], k)[-1, 0] == pytest.approx(expected)


@given(st.integers(1, 7), st.data())
def test_pass_at_k_equals_the_mean_over_all_subsets(n, data):
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    outcomes = [1] * c + [0] * (n - c)
    subsets = [any(subset) for subset in combinations(outcomes, k)]
    assert pass_at_each_k([n], [c], k)[-1, 0] == pytest.approx(np.mean(subsets))


def test_pass_at_k_stays_exact_for_thousands_of_samples():
    values = pass_at_each_k([10_000, 10_000], [1, 5_000], 1_000)[-1]
    assert values[0] == pytest.approx(0.1, rel=1e-9)
    assert values[1] == 1.0


def test_asking_for_more_samples_than_exist_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"pass@8: a problem has only 4 samples; sample at least"):
        pass_at_each_k([16, 4], [1, 1], 8)


@pytest.mark.parametrize(
    ("groups", "correct", "expected"),
    [
        ([0, 0, 1], [True, True, False], (1.0, False)),
        ([1, 1, 0], [False, False, True], (0.0, False)),
        ([0, 1], [True, False], (0.5, True)),
        ([2, 0, 1], [False, True, False], (1 / 3, True)),
        ([None, None, 0], [False, False, True], (1.0, False)),
        ([None, None], [False, False], (0.0, False)),
    ],
)
def test_majority_votes_by_class_and_shares_ties(groups, correct, expected):
    assert majority(groups, correct) == pytest.approx(expected)


def test_summary_of_two_problems_matches_the_hand_computed_values():
    easy = [scored(True), scored(True), scored(True), scored(False)]
    hard = [scored(True), scored(False), scored(False, group=2), scored(False, reason="no_answer")]
    result = summarise([easy, hard])
    assert (result["k"], result["samples"], result["samples_per_problem"]) == (4, 8, [4, 4])
    assert result["avg@k"]["value"] == pytest.approx((0.75 + 0.25) / 2)
    assert result["pass@2"]["value"] == pytest.approx((1 + 0.5) / 2)
    assert result["pass@k"] == result["pass@4"]
    assert result["maj@k"]["value"] == pytest.approx((1 + 1 / 3) / 2)
    assert result["maj@k"]["ties"] == 1
    assert result["best_of_n"]["value"] == 1.0
    assert result["format_rate"]["value"] == pytest.approx((1 + 0.75) / 2)
    assert result["reasons"]["no_answer"]["count"] == 1
    assert result["unique_answers"]["value"] == 2.5
    assert result["truncated_frac"] is None


def test_every_rate_carries_an_interval_around_its_value():
    rng = np.random.default_rng(0)
    problems = [[scored(bool(rng.random() < 0.4), truncated=False) for _ in range(6)] for _ in "ab"]
    result = summarise(problems)
    names = ["avg@k", "maj@k", "best_of_n", "format_rate", "truncated_frac", "unique_answers"]
    for name in names + [f"pass@{k}" for k in range(1, 7)]:
        lo, hi = result[name]["ci95"]
        assert lo <= result[name]["value"] <= hi, name
        assert result[name]["over"] == "problems"
    for name in ("avg@k", "pass@6", "maj@k"):
        assert result[name]["ci95_samples"][0] <= result[name]["ci95_samples"][1]
        assert len(result[name]["ci95_both"]) == 2


def test_pass_at_1_is_avg_and_pass_grows_with_k():
    rng = np.random.default_rng(1)
    problems = [[scored(bool(x)) for x in rng.random(8) < p] for p in (0.1, 0.4, 0.8)]
    result = summarise(problems)
    values = [result[f"pass@{k}"]["value"] for k in range(1, 9)]
    assert values[0] == pytest.approx(result["avg@k"]["value"])
    assert values == sorted(values)
    assert values[-1] == result["best_of_n"]["value"]


def test_the_order_of_problems_and_of_samples_changes_nothing():
    rng = np.random.default_rng(2)
    problems = [[scored(bool(x), length=int(9 * x)) for x in rng.random(5) < p] for p in (0.2, 0.7)]
    turned = [list(reversed(samples)) for samples in reversed(problems)]
    assert summarise(problems)["avg@k"] == summarise(turned)["avg@k"]
    assert summarise(problems)["length"] == summarise(turned)["length"]


def test_unequal_sample_counts_use_each_problems_own_and_the_smallest_as_k():
    result = summarise([[scored(True)] * 2, [scored(False)] * 6])
    assert result["k"] == 2
    assert result["samples_per_problem"] == [2, 6]
    assert result["avg@2"]["value"] == 0.5
    assert "pass@3" not in result


def test_a_problem_without_samples_is_refused():
    with pytest.raises(ValueError, match="at least one sample of every problem"):
        summarise([[scored(True)], []])
