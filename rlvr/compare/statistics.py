"""Accuracies and differences with intervals over seeds and problems, and corrected p-values.

Matrices are [S seeds, P problems] of correct fractions; both seeds and problems are samples of what
could have been.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eval.intervals import Interval, fraction_over_problems, paired_difference
from eval.pvalues import holm, permutation_p


@dataclass(frozen=True)
class TwoWay:
    """A mean over seeds and problems. error: its standard error; freedom: degrees of freedom."""

    mean: float
    error: float
    freedom: float

    def interval(self, level: float = 0.95) -> Interval:
        """Student's t interval over seeds and problems."""
        from scipy.special import stdtrit

        half = float(stdtrit(self.freedom, 0.5 + level / 2)) * self.error
        return Interval(
            self.mean, self.mean - half, self.mean + half, "seeds and problems", "two-way t", level
        )

    def p_value(self) -> float:
        """Two-sided p-value of a mean of 0."""
        from scipy.special import stdtr

        if self.error == 0:  # every difference is the same
            return 1.0 if self.mean == 0 else 0.0
        return float(2 * stdtr(self.freedom, -abs(self.mean) / self.error))


def two_way(values_SP: ArrayLike) -> TwoWay:
    """Mean of a crossed table and its error, seeds and problems both random.

    With mean squares of seeds, problems and the rest, Var = (MS_P + max(MS_S - MS_E, 0)) / (S P);
    degrees of freedom by Satterthwaite. A bootstrap that draws three seeds with replacement sees
    two thirds of their variance; one that draws samples within problems does not see that a seed
    moves all problems at once (docs/compare.md has the coverage of all three).
    Source: the crossed random-effects model; Satterthwaite 1946.
    Raises: ValueError for fewer than two seeds or two problems.
    """
    x = np.asarray(values_SP, dtype=float)
    if x.ndim != 2 or min(x.shape) < 2:
        raise ValueError(f"two_way: needs at least 2 seeds and 2 problems, got {x.shape}")
    s, p = x.shape
    mean, rows, columns = float(x.mean()), x.mean(axis=1), x.mean(axis=0)
    rest = x - rows[:, None] - columns[None, :] + mean
    ms_seeds = p * float(((rows - mean) ** 2).sum()) / (s - 1)
    ms_problems = s * float(((columns - mean) ** 2).sum()) / (p - 1)
    ms_rest = float((rest**2).sum()) / ((s - 1) * (p - 1))
    parts = [(ms_problems, p - 1)]
    if ms_seeds > ms_rest:  # else seeds differ no more than noise: their variance is taken as 0
        parts += [(ms_seeds, s - 1), (-ms_rest, (s - 1) * (p - 1))]
    total = sum(value for value, _ in parts)
    spread = sum(value**2 / freedom for value, freedom in parts)
    # no variance: the interval has no width, whatever the degrees of freedom
    freedom = total**2 / spread if spread > 0 else float(p - 1)
    # Satterthwaite can give less than one degree of freedom, which no t has
    return TwoWay(mean, math.sqrt(max(total, 0.0) / (s * p)), max(freedom, 1.0))


def mean_interval(values_SP: ArrayLike) -> Interval:
    """Interval of an accuracy over seeds and problems; of one seed's, over problems alone."""
    x = np.asarray(values_SP, dtype=float)
    if len(x) == 1:
        return fraction_over_problems(x[0])
    found = two_way(x).interval()
    # Student's t does not know that fractions end at 0 and 1
    return replace(found, lo=max(0.0, found.lo), hi=min(1.0, found.hi))


def difference(a_SP: ArrayLike, b_SP: ArrayLike) -> tuple[Interval, float]:
    """(interval, p-value) of mean(a) - mean(b), paired by seed and problem.

    One seed: a paired bootstrap and a permutation test over problems, which say nothing about other
    seeds. The p-value and the interval of several seeds come from one model, so they agree.
    """
    a, b = (np.asarray(x, dtype=float) for x in (a_SP, b_SP))
    if a.shape != b.shape:
        raise ValueError(f"paired runs: {a.shape} against {b.shape}; give the same seeds, problems")
    if len(a) == 1:
        return paired_difference(b[0], a[0]), permutation_p(b[0], a[0]).value
    if np.array_equal(a, b):  # no spread to estimate: the exact bound over problems
        return paired_difference(b.mean(axis=0), a.mean(axis=0)), 1.0
    found = two_way(a - b)
    return found.interval(), found.p_value()


@dataclass(frozen=True)
class Pair:
    """mean(a) - mean(b) over the seeds that both finished. p_holm: over all pairs."""

    a: str
    b: str
    difference: Interval
    p: float
    p_holm: float
    seeds: tuple[int, ...]


def compare_pairs(values: Mapping[str, Mapping[int, Sequence[float]]]) -> list[Pair]:
    """All pairs of labels. values: label -> seed -> correct fraction of each problem."""
    found = []
    for a, b in combinations(values, 2):
        seeds = tuple(sorted(values[a].keys() & values[b].keys()))
        if seeds:
            result = difference(_table(values[a], seeds), _table(values[b], seeds))
            found.append((a, b, seeds, *result))
    adjusted = holm([p for *_, p in found])
    return [
        Pair(a, b, interval, p, p_holm, seeds)
        for (a, b, seeds, interval, p), p_holm in zip(found, adjusted, strict=True)
    ]


def summarise(values: Mapping[int, Sequence[float]]) -> Interval | None:
    """Interval of one label's accuracy over its seeds and the problems; None without a run."""
    return mean_interval(_table(values, sorted(values))) if values else None


def gain(
    before: Mapping[int, Sequence[float]], after: Mapping[int, Sequence[float]]
) -> Interval | None:
    """Interval of after - before, paired by seed and problem; None without a run."""
    seeds = sorted(before.keys() & after.keys())
    return difference(_table(after, seeds), _table(before, seeds))[0] if seeds else None


def _table(values: Mapping[int, Sequence[float]], seeds: Sequence[int]) -> NDArray:
    lengths = {len(values[seed]) for seed in seeds}
    if len(lengths) != 1:
        raise ValueError(f"runs were scored on {sorted(lengths)} problems; they must be the same")
    return np.array([values[seed] for seed in seeds], dtype=float)
