"""The log grid of learning rates: 10^(k/4), a factor of 1.778 apart, the same for every method."""

from __future__ import annotations

import math

PER_DECADE = 4
FACTOR = 10 ** (1 / PER_DECADE)
"""Source: the grid of 2602.04998."""


def rate(k: int) -> float:
    """The k-th rate of the grid, 4 significant digits: equal rates are equal numbers."""
    return float(f"{10 ** (k / PER_DECADE):.4g}")


def nearest(lr: float) -> int:
    """Index of the grid's rate nearest to `lr`, in logarithms."""
    return round(PER_DECADE * math.log10(lr))


def between(low: float, high: float) -> list[float]:
    """The grid's rates from `low` to `high`, both rounded to the grid."""
    return [rate(k) for k in range(nearest(low), nearest(high) + 1)]
