"""Accuracies and differences with intervals over seeds and problems, and corrected p-values.

Matrices are [S seeds, P problems] of correct fractions; both seeds and problems are samples of what
could have been. With several evaluation sets the problems of each lie side by side, `sizes` says
how many each has, and the mean is that of the sets' means: sets are chosen, not drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import fmean

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
    over: str = "seeds and problems"

    def interval(self, level: float = 0.95) -> Interval:
        """Student's t interval."""
        from scipy.special import stdtrit

        half = float(stdtrit(self.freedom, 0.5 + level / 2)) * self.error
        lo, hi = self.mean - half, self.mean + half
        return Interval(self.mean, lo, hi, self.over, "two-way t", level)

    def p_value(self) -> float:
        """Two-sided p-value of a mean of 0."""
        from scipy.special import stdtr

        if self.error == 0:  # every difference is the same
            return 1.0 if self.mean == 0 else 0.0
        return float(2 * stdtr(self.freedom, -abs(self.mean) / self.error))


def two_way(values_SP: ArrayLike, sizes: Sequence[int] = ()) -> TwoWay:
    """Mean of a crossed table and its error, seeds and problems both random; of one seed, problems.

    With mean squares of seeds, problems and the rest, Var = (MS_P + max(MS_S - MS_E, 0)) / (S P);
    degrees of freedom by Satterthwaite. Of K sets, MS_P / (S P) and MS_E / (S P) are summed over
    the sets with weight 1 / K^2, and in the place of MS_S / (S P) stands the variance between seeds
    of their means over sets, divided by S: a seed moves all sets at once. A bootstrap that draws
    three seeds with replacement sees two thirds of their variance; one that draws samples within
    problems does not see that a seed moves all problems at once (docs/compare.md has the coverage
    of all three).
    Source: the crossed random-effects model; Satterthwaite 1946.
    Raises: ValueError for a set of fewer than two problems.
    """
    tables = _tables(values_SP, sizes)
    num_seeds, weight = len(tables[0]), 1 / len(tables)
    problems, rest = [], []
    for x in tables:
        rows, columns, p = x.mean(axis=1), x.mean(axis=0), x.shape[1]
        problems.append((weight**2 * float(columns.var(ddof=1)) / p, p - 1))
        odd = x - rows[:, None] - columns[None, :] + x.mean()
        # divided by (S - 1) (P - 1) for the mean square, by S P for its part in the mean's variance
        freedom = (num_seeds - 1) * (p - 1)
        if freedom:
            share = weight**2 / (num_seeds * p)
            rest.append((share * float((odd**2).sum()) / freedom, freedom))
    parts, over = problems, "problems"
    if num_seeds > 1:
        over = "seeds and problems"
        means_S = np.mean([x.mean(axis=1) for x in tables], axis=0)
        seeds = float(means_S.var(ddof=1)) / num_seeds
        # else seeds differ no more than noise: their variance is taken as 0
        if seeds > sum(value for value, _ in rest):
            parts = [*problems, (seeds, num_seeds - 1), *((-value, free) for value, free in rest)]
    # seeds and problems cancel out in a balanced table, which is no evidence: noise remains
    if sum(value for value, _ in parts) <= 0:
        parts = rest or parts
    total = sum(value for value, _ in parts)
    spread = sum(value**2 / free for value, free in parts)
    # no variance: the interval has no width, whatever the degrees of freedom
    freedom = total**2 / spread if spread > 0 else float(problems[0][1])
    mean = float(np.mean([x.mean() for x in tables]))
    # Satterthwaite can give less than one degree of freedom, which no t has
    return TwoWay(mean, math.sqrt(max(total, 0.0)), max(freedom, 1.0), over)


def _tables(values_SP: ArrayLike, sizes: Sequence[int]) -> list[NDArray]:
    """The [S, P] table of each set. Raises: ValueError."""
    x = np.asarray(values_SP, dtype=float)
    if x.ndim != 2 or (sizes and sum(sizes) != x.shape[1]):
        raise ValueError(f"sets of {list(sizes)} problems: the table has {x.shape}")
    tables = np.split(x, np.cumsum(sizes)[:-1], axis=1) if sizes else [x]
    if min(table.shape[1] for table in tables) < 2:
        raise ValueError(f"an interval needs 2 problems of every set, got {list(sizes) or x.shape}")
    return tables


def mean_interval(values_SP: ArrayLike, sizes: Sequence[int] = ()) -> Interval:
    """Interval of an accuracy over seeds and problems; of one seed's, over problems alone."""
    x = np.asarray(values_SP, dtype=float)
    if len(x) == 1 and len(sizes) < 2:
        return fraction_over_problems(x[0])
    found = two_way(x, sizes).interval()
    # Student's t does not know that fractions end at 0 and 1
    return replace(found, lo=max(0.0, found.lo), hi=min(1.0, found.hi))


def difference(
    a_SP: ArrayLike, b_SP: ArrayLike, sizes: Sequence[int] = ()
) -> tuple[Interval, float]:
    """(interval, p-value) of mean(a) - mean(b), paired by seed and problem.

    One seed on one set: a paired bootstrap and a permutation test over problems. One seed says
    nothing about others. Elsewhere p-value and interval come from one model, so they agree.
    """
    a, b = (np.asarray(x, dtype=float) for x in (a_SP, b_SP))
    if a.shape != b.shape:
        raise ValueError(f"paired runs: {a.shape} against {b.shape}; give the same seeds, problems")
    if len(a) == 1 and len(sizes) < 2:
        return paired_difference(b[0], a[0]), permutation_p(b[0], a[0]).value
    if np.array_equal(a, b):
        # no spread to estimate: the exact bound over problems, of several sets the mean of theirs,
        # which is no smaller than that of all
        none = [np.zeros(x.shape[1]) for x in _tables(a, sizes)]
        half = fmean(paired_difference(x, x).hi for x in none)
        return Interval(0.0, -half, half, "problems", "exact bound"), 1.0
    found = two_way(a - b, sizes)
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


def compare_pairs(
    values: Mapping[str, Mapping[int, Sequence[float]]], sizes: Sequence[int] = ()
) -> list[Pair]:
    """All pairs of labels. values: label -> seed -> correct fraction of each problem."""
    found = []
    for a, b in combinations(values, 2):
        seeds = tuple(sorted(values[a].keys() & values[b].keys()))
        if seeds:
            result = difference(_table(values[a], seeds), _table(values[b], seeds), sizes)
            found.append((a, b, seeds, *result))
    adjusted = holm([p for *_, p in found])
    return [
        Pair(a, b, interval, p, p_holm, seeds)
        for (a, b, seeds, interval, p), p_holm in zip(found, adjusted, strict=True)
    ]


def summarise(values: Mapping[int, Sequence[float]], sizes: Sequence[int] = ()) -> Interval | None:
    """Interval of one label's accuracy over its seeds and the problems; None without a run."""
    return mean_interval(_table(values, sorted(values)), sizes) if values else None


def gain(
    before: Mapping[int, Sequence[float]],
    after: Mapping[int, Sequence[float]],
    sizes: Sequence[int] = (),
) -> Interval | None:
    """Interval of after - before, paired by seed and problem; None without a run."""
    seeds = sorted(before.keys() & after.keys())
    return difference(_table(after, seeds), _table(before, seeds), sizes)[0] if seeds else None


def _table(values: Mapping[int, Sequence[float]], seeds: Sequence[int]) -> NDArray:
    lengths = {len(values[seed]) for seed in seeds}
    if len(lengths) != 1:
        raise ValueError(f"runs were scored on {sorted(lengths)} problems; they must be the same")
    return np.array([values[seed] for seed in seeds], dtype=float)
