"""P-values against enumeration, the sign test and hand tables."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from eval.pvalues import holm, permutation_p


def test_exact_permutation_p_equals_full_enumeration():
    a, b = np.array([0.2, 0.5, 0.1, 0.9, 0.3, 0.4]), np.array([0.4, 0.5, 0.6, 0.8, 0.7, 0.9])
    d = b - a
    means = [np.mean(d * np.array(signs)) for signs in product([-1, 1], repeat=6)]
    by_hand = np.mean(np.abs(means) >= abs(d.mean()) - 1e-12)
    result = permutation_p(a, b)
    assert (result.value, result.exact) == (pytest.approx(by_hand), True)


def test_more_problems_than_a_float_has_assignments_are_drawn():
    draw = np.random.default_rng(0)
    result = permutation_p(draw.random(1_100), draw.random(1_100))
    assert not result.exact
    assert 0 < result.value <= 1


def test_drawn_permutation_p_is_near_the_sign_test_on_many_problems():
    d = np.array([1.0] * 40 + [-1.0] * 20 + [0.0] * 40)
    result = permutation_p(np.zeros(100), d)
    assert not result.exact
    assert result.value == pytest.approx(stats.binomtest(20, 60).pvalue, abs=0.003)


def test_equal_results_have_a_p_value_of_one():
    assert permutation_p([1, 0], [1, 0]).value == 1.0


def test_one_differing_problem_can_never_be_significant():
    result = permutation_p([0, 0, 1], [0, 1, 1])
    assert (result.value, result.exact, result.num_assignments) == (1.0, True, 2)


def test_holm_matches_a_hand_table_and_keeps_the_order():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
