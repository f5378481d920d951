"""Artificial entanglement: how strongly the two sides of each cut through a matrix depend on each
other, when the matrix is read as the state of a chain of small systems.

Source: 2601.06788. The matrix is reshaped to a tensor whose legs are the prime factors of its rows,
then of its columns, and brought into the form of a matrix product state by one sweep of SVDs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

NEGLIGIBLE = 1e-6
"""Singular values below this share of the largest are rounding of float32: their bond is closed."""


@dataclass(frozen=True, slots=True)
class Profile:
    """entropy[i] (nats) of the cut before which the legs cuts[i] multiply to that many rows of the
    unfolding; bonds[i]: singular values kept there; bounds[i]: the largest entropy possible, the
    log of the smaller side."""

    cuts: list[int]
    entropy: list[float]
    bonds: list[int]
    bounds: list[float]


def prime_factors(number: int) -> list[int]:
    """The prime factors in ascending order; [] for 1."""
    factors, divisor = [], 2
    while divisor * divisor <= number:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return factors + [number] * (number > 1)


def legs(rows: int, columns: int) -> list[int]:
    """Dimensions of the chain: the rows' prime factors ascending, then the columns'. The cut
    between the two is the matrix itself."""
    return prime_factors(rows) + prime_factors(columns)


def profile(matrix: Tensor) -> Profile:
    """The entropy S = -sum p log p, p = s^2 / sum s^2, at every cut between neighbouring legs.

    Cut k (from 1) has k legs to its left. Exact up to bonds below `NEGLIGIBLE`, which carry an
    entropy of rounding. A zero matrix has entropy 0 everywhere.
    Source: 2601.06788. Deviation: factors are ascending; their order is not given there.
    """
    dims = legs(*matrix.shape)
    rest = matrix.reshape(1, -1)
    total = matrix.numel()
    left, bond = 1, 1
    entropies, bonds, bounds = [], [], []
    # behind the last leg there is nothing to cut off
    for dim in dims[:-1]:
        left *= dim
        rest = rest.reshape(bond * dim, -1)
        # the left factor is dropped: its columns are orthonormal, so later cuts do not see it
        singular, rest = _split(rest)
        bond = len(singular)
        entropies.append(entropy(singular))
        bonds.append(bond)
        bounds.append(math.log(min(left, total // left)))
    return Profile(list(range(1, len(dims))), entropies, bonds, bounds)


def _split(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """(s, diag(s) V^T) of the singular values that are more than rounding, at least one."""
    _, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    # bonds of rounding would grow the remaining matrix without adding entropy
    kept = max(int((s > NEGLIGIBLE * s[0]).sum()), 1)
    return s[:kept], s[:kept, None] * vh[:kept]


def entropy(singular_values: Tensor) -> float:
    """-sum p log p (nats) with p = s^2 / sum s^2; 0 where all are zero."""
    squares = singular_values.double() ** 2
    total = squares.sum()
    if not float(total):
        return 0.0
    # float64: a sum of squares over many magnitudes loses the small ones in float32
    p = squares / total
    return max(float(-torch.xlogy(p, p).sum()), 0.0)


def mean_profile(matrices: Tensor) -> Profile:
    """The profile with the entropies of several matrices of one shape [H, rows, columns] averaged;
    bonds are the largest."""
    found = [profile(matrix) for matrix in matrices]
    return Profile(
        found[0].cuts,
        [sum(column) / len(found) for column in zip(*(p.entropy for p in found), strict=True)],
        [max(column) for column in zip(*(p.bonds for p in found), strict=True)],
        found[0].bounds,
    )
