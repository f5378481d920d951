"""Entropy profiles of states whose entanglement is known."""

import math
from functools import reduce

import pytest
import torch

from rlvr.analysis.entanglement import entropy, legs, mean_profile, prime_factors, profile


@pytest.mark.parametrize(
    ("number", "factors"),
    [
        (1, []),
        (2, [2]),
        (12, [2, 2, 3]),
        (97, [97]),
        (1536, [2] * 9 + [3]),
        (8960, [2] * 8 + [5, 7]),
    ],
)
def test_prime_factors(number, factors):
    assert prime_factors(number) == factors


def test_a_product_state_has_no_entropy_at_any_cut():
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(dim, generator=generator) for dim in legs(12, 20)]
    state = reduce(torch.kron, parts).reshape(12, 20)
    found = profile(state)
    assert found.entropy == pytest.approx([0.0] * 5, abs=1e-5)
    assert found.bonds == [1] * 5


def test_the_identity_is_maximally_entangled_at_its_middle_cut():
    """Row leg k is paired with column leg k: log 2 for each pair that a cut separates."""
    found = profile(torch.eye(8))
    expected = [math.log(2) * pairs for pairs in (1, 2, 3, 2, 1)]
    assert found.entropy == pytest.approx(expected, abs=1e-5)
    assert found.bounds == pytest.approx(expected)
    assert found.bonds == [2, 4, 8, 4, 2]
    assert found.cuts == [1, 2, 3, 4, 5]


def test_a_rank_one_update_is_cut_in_two_halves():
    """Nothing connects rows with columns, whatever lies within them."""
    u = torch.tensor([1.0, 0, 0, 1]) / math.sqrt(2)  # a Bell pair of the two row legs
    found = profile(torch.outer(u, u))
    assert found.entropy == pytest.approx([math.log(2), 0.0, math.log(2)], abs=1e-6)


def test_a_low_rank_update_has_its_valley_at_the_middle():
    generator = torch.Generator().manual_seed(0)
    b, a = torch.randn(64, 4, generator=generator), torch.randn(4, 64, generator=generator)
    found = profile(b @ a)
    middle = len(legs(64, 64)) // 2 - 1
    assert found.bonds[middle] == 4
    assert found.entropy[middle] <= math.log(4)
    assert found.entropy[middle - 1] > found.entropy[middle] < found.entropy[middle + 1]


def test_every_cut_equals_the_singular_values_of_its_unfolding():
    """The sweep against the definition, with uneven legs."""
    matrix = torch.randn(12, 30, generator=torch.Generator().manual_seed(1))
    dims, found = legs(12, 30), profile(matrix)
    for cut in range(1, len(dims)):
        unfolding = matrix.reshape(math.prod(dims[:cut]), -1)
        slow = entropy(torch.linalg.svdvals(unfolding))
        assert found.entropy[cut - 1] == pytest.approx(slow, abs=1e-5)


def test_scaling_changes_nothing_and_zero_has_no_entropy():
    matrix = torch.randn(8, 6, generator=torch.Generator().manual_seed(2))
    assert profile(1e-4 * matrix).entropy == pytest.approx(profile(matrix).entropy, abs=1e-5)
    assert profile(torch.zeros(8, 6)).entropy == [0.0] * 4


def test_the_mean_profile_averages_entropies():
    both = torch.stack([torch.eye(4), torch.ones(4, 4)])
    assert mean_profile(both).entropy == pytest.approx(
        [math.log(2) / 2, math.log(2), math.log(2) / 2], abs=1e-5
    )
