"""Paired permutation p-values and Holm's correction for several of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from eval.intervals import paired


@dataclass(frozen=True, slots=True)
class PValue:
    """A two-sided p-value. exact: every sign assignment was counted, none was drawn at random."""

    value: float
    exact: bool
    num_assignments: int


def permutation_p(
    a: ArrayLike, b: ArrayLike, *, num_resamples: int = 20_000, seed: int = 0
) -> PValue:
    """Two-sided p-value that b and a are exchangeable within each problem (sign flips of b - a).

    Ties are dropped, which leaves the distribution unchanged. Exact when the remaining 2^m sign
    assignments are at most num_resamples; otherwise random ones, with the observed one counted.
    """
    from scipy import stats

    d = paired(a, b)
    # flipping the sign of 0 changes nothing, but would count as another assignment
    d = d[d != 0]
    if len(d) < 2:
        return PValue(1.0, True, 2 ** len(d))
    # scipy's own condition for counting every assignment
    exact = 2 ** len(d) <= num_resamples
    result = stats.permutation_test(
        (d,),
        lambda x, axis: x.mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=num_resamples,
        # scipy holds a whole batch of assignments in memory
        batch=max(1, 10_000_000 // len(d)),
        rng=np.random.default_rng(seed),
    )
    drawn = 2 ** len(d) if exact else num_resamples
    return PValue(float(result.pvalue), exact, drawn)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given (family-wise error, any dependence).

    Source: Holm 1979: the i-th smallest of m is multiplied by m - i, then made monotone, at most 1.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted
