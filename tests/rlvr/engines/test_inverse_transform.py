"""Tokens drawn by inverse transform sampling, against exact sums of fractions."""

from fractions import Fraction
from itertools import accumulate

import pytest
import torch

from rlvr.engines.inverse_transform import BLOCK, inverse_transform, uniform

LARGEST = 1 - 2**-53


def exact(probs: list[float], number: float) -> tuple[int, float]:
    """(the token, how far the number is from one that gives another token)."""
    upto = list(accumulate(map(Fraction, probs)))
    target = Fraction(number) * upto[-1]
    token = next(i for i, total in enumerate(upto) if total > target)
    ends = [0, *upto[:-1]]
    return token, float(min(abs(target - end) for end in ends[1:]) / upto[-1]) if ends[1:] else 1.0


@pytest.mark.parametrize("size", [1, 5, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
def test_the_token_is_that_of_exact_sums(size):
    torch.manual_seed(size)
    logits_NV = 8 * torch.randn(30, size)
    probs_NV = logits_NV.softmax(-1) * (torch.rand(30, size) > 0.3)
    probs_NV[:, size // 2] += 1e-9  # no row is empty
    uniform_N = torch.rand(30, dtype=torch.float64)
    uniform_N[0], uniform_N[1] = 0, LARGEST
    tokens = inverse_transform(probs_NV, uniform_N).tolist()
    for probs_V, number, token in zip(probs_NV.tolist(), uniform_N.tolist(), tokens, strict=True):
        wanted, distance = exact(probs_V, number)
        assert token == wanted or distance < 1e-14
        assert probs_V[token] > 0


def test_every_token_is_drawn_as_often_as_it_is_probable():
    torch.manual_seed(0)
    probs_V, count = (2 * torch.randn(300)).softmax(-1), 50_000
    uniform_N = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    tokens_N = inverse_transform(probs_V.expand(count, -1), uniform_N)
    drawn_V = tokens_N.bincount(minlength=300)
    # of numbers at equal distances at most one more or less falls into an interval
    assert (drawn_V - count * probs_V.double()).abs().max() <= 1


def test_a_token_too_rare_for_float32_sums_is_drawn():
    rare = 1e-12
    probs_NV = torch.full((2, 50_000), rare)
    probs_NV[:, 0] = 1
    total = 1 + 49_999 * float(probs_NV[0, 1])
    inside = (1 + 40_000.5 * float(probs_NV[0, 1])) / total
    tokens = inverse_transform(probs_NV, torch.tensor([inside, 0.5], dtype=torch.float64))
    assert abs(int(tokens[0]) - 40_001) <= 1
    assert tokens[1] == 0


@pytest.mark.parametrize("number", [0.0, LARGEST])
def test_a_token_of_probability_zero_is_never_drawn_at_the_ends(number):
    probs_NV = torch.zeros(3, 4 * BLOCK)
    for row, places in enumerate(([BLOCK], [BLOCK - 1, BLOCK], [5, 3 * BLOCK - 1])):
        probs_NV[row, places] = 0.7
    tokens_N = inverse_transform(probs_NV, torch.full((3,), number, dtype=torch.float64))
    assert (probs_NV.gather(1, tokens_N.unsqueeze(1)) > 0).all()


def test_a_row_does_not_depend_on_the_others():
    torch.manual_seed(0)
    probs_NV = (6 * torch.randn(70, 1000)).softmax(-1)
    uniform_N = torch.rand(70, dtype=torch.float64)
    together = inverse_transform(probs_NV, uniform_N).tolist()
    alone = [int(inverse_transform(probs_NV[i : i + 1], uniform_N[i : i + 1])) for i in range(70)]
    assert together == alone


def test_numbers_come_one_from_each_generator():
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2, 1)]
    first_N = uniform(generators, torch.device("cpu"))
    second_N = uniform(generators[1:], torch.device("cpu"))
    assert first_N[0] == first_N[2] != first_N[1]
    assert second_N[0] != first_N[1]
    assert ((first_N >= 0) & (first_N < 1)).all()
