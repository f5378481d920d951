"""Intervals of scores that are means over problems, and of differences between two of them.

Problems are the unit. The samples of one problem are not independent of each other, so an interval
that counted all of them as trials would be far too narrow for any claim about other problems.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its interval.

    over: what could have come out otherwise ("trials", "problems", "samples", "problems and
    samples"). method: how the interval was formed. level: nominal coverage.
    """

    value: float
    lo: float
    hi: float
    over: str
    method: str
    level: float = 0.95

    @property
    def bounds(self) -> list[float]:
        """[lo, hi], as results files hold it."""
        return [self.lo, self.hi]

    def to_json(self) -> dict[str, Any]:
        """{"value", "ci95"}."""
        return {"value": self.value, "ci95": self.bounds}


def wilson(successes: float, trials: float, level: float = 0.95) -> Interval:
    """Wilson score interval of a proportion of independent trials.

    Source: Wilson 1927; stays inside [0, 1] and has width at 0 and at 1. Both arguments may be
    fractional, which `fraction_over_problems` uses for an effective number of trials.
    Raises ValueError unless 0 <= successes <= trials and trials > 0.
    """
    if trials <= 0 or not 0 <= successes <= trials:
        raise ValueError(f"wilson: {successes} successes of {trials} trials is not a proportion")
    p = successes / trials
    z2 = _z(level) ** 2 / trials
    centre = (p + z2 / 2) / (1 + z2)
    half = np.sqrt(z2 * (p * (1 - p) + z2 / 4)) / (1 + z2)
    # exactly 0 and 1 there: rounding would leave the bound a hair inside or outside
    lo = 0.0 if successes == 0 else float(centre - half)
    hi = 1.0 if successes == trials else float(centre + half)
    return Interval(p, lo, hi, "trials", "wilson", level)


def fraction_over_problems(
    values: ArrayLike, draws_per_problem: float = 1.0, level: float = 0.95
) -> Interval:
    """Interval of the mean of per-problem fractions in [0, 1], over problems.

    A Wilson interval whose number of trials is the effective one, p(1-p) / var(mean): the number of
    independent yes/no trials with this much variance. It lies between the number of problems P
    (each all right or all wrong: exactly Wilson) and P * draws_per_problem (problems all alike).
    The variance between problems already contains the noise of sampling within them. A bootstrap
    here would have width zero as soon as all problems agree, and covers less at 30 problems.
    Source: effective sample size as in Korn and Graubard 1998, in Wilson's interval.
    """
    v = _vector(values)
    if v.min() < -1e-12 or v.max() > 1 + 1e-12:
        raise ValueError(f"fractions lie in [0, 1], got {v.min()} to {v.max()}")
    p = float(np.clip(v.mean(), 0.0, 1.0))
    variance = float(v.var(ddof=1)) / len(v) if len(v) > 1 else 0.0
    most = len(v) * max(1.0, draws_per_problem)
    effective = p * (1 - p) / variance if variance > 1e-15 else most
    # no variance was seen, which says nothing about the problems that were not asked
    if p in (0.0, 1.0):
        effective = len(v)
    trials = float(np.clip(effective, len(v), most))
    w = wilson(p * trials, trials, level)
    return Interval(p, w.lo, w.hi, "problems", "wilson with effective trials", level)


def mean_over_problems(values: ArrayLike, level: float = 0.95) -> Interval:
    """Student's t interval of a mean over problems, for values without bounds (lengths, counts).

    A single problem has no spread to estimate from: its interval is infinite, not zero.
    """
    v = _vector(values)
    mean = float(v.mean())
    if len(v) == 1:
        return Interval(mean, -np.inf, np.inf, "problems", "student t", level)
    # imported here: scipy is slow to import, and most commands need none of it
    from scipy.special import stdtrit

    half = float(stdtrit(len(v) - 1, 0.5 + level / 2) * v.std(ddof=1) / np.sqrt(len(v)))
    return Interval(mean, mean - half, mean + half, "problems", "student t", level)


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    *,
    level: float = 0.95,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Interval of mean(b) - mean(a) over problems, where a[i] and b[i] are the same problem.

    BCa bootstrap of the mean difference (Efron 1987): percentile intervals of a skewed difference
    (most problems tied, a few won) are shifted, and BCa corrects for bias and skew. Its levels are
    expanded from normal to Student quantiles (Hesterberg 2014), since resamples of 30 problems
    vary too little: without it 95% intervals covered 92.5% in simulation.
    When no problem differs every resample is zero. The interval is then the exact bound on the
    fraction of problems that could differ, 1 - (alpha/2)^(1/P), instead of a width of zero.
    """
    d = paired(a, b)
    value, alpha = float(d.mean()), 1 - level
    if np.all(d == d[0]):
        bound = 1 - (alpha / 2) ** (1 / len(d))
        return Interval(value, value - bound, value + bound, "problems", "exact bound", level)
    means = _bootstrap_means(d, num_resamples, np.random.default_rng(seed))
    # ties count half: with few problems many resamples equal the estimate exactly
    below = (np.count_nonzero(means < value) + np.count_nonzero(means == value) / 2) / len(means)
    # 0 or 1 would put the bias at infinity
    below = float(np.clip(below, 1 / len(means), 1 - 1 / len(means)))
    bias = NormalDist().inv_cdf(below)
    centred = d - value
    acceleration = float((centred**3).sum() / (6 * ((centred**2).sum()) ** 1.5))
    half = _expanded_z(len(d), level)
    levels = [_bca_level(z, bias, acceleration) for z in (-half, half)]
    lo, hi = np.quantile(means, levels)
    return Interval(value, float(lo), float(hi), "problems", "BCa bootstrap", level)


@dataclass(frozen=True, slots=True)
class Redraws:
    """Resampled benchmarks. weights[b, s]: problems in resample b with c[s] of n[s] correct."""

    n: NDArray
    c: NDArray
    weights: NDArray
    over: str

    def interval(self, value: float, values: ArrayLike, level: float = 0.95) -> Interval:
        """Percentile interval of the mean over problems of values[s]; value: the estimate."""
        means = self.weights @ np.asarray(values, dtype=float) / self.weights[0].sum()
        lo, hi = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
        return Interval(value, float(lo), float(hi), self.over, "percentile bootstrap", level)


def redraw(
    correct: ArrayLike, samples: ArrayLike, over: str, num_resamples: int = 10_000, seed: int = 0
) -> Redraws:
    """Bootstrap the problems, the samples within them, or both (the hierarchical bootstrap).

    over: "samples" redraws the samples of each problem and keeps the problems (this benchmark,
    another run); "problems" redraws problems with their samples; "problems and samples" redraws
    problems, then samples within each (slightly wide: it counts the sampling noise twice).
    Problems with equal (n, c) are exchangeable, so a resample is a multinomial draw over such
    states: exact, and its cost does not grow with the number of problems.
    """
    n, c = _vector(samples).astype(int), _vector(correct).astype(int)
    if n.shape != c.shape or n.min() < 1 or (c < 0).any() or (c > n).any():
        raise ValueError("redraw: needs 0 <= correct <= samples, samples >= 1, per problem")
    # a benchmark of 500 problems with 4 samples has at most 5 states: the cost is theirs
    seen, counts = np.unique(np.stack([n, c]), axis=1, return_counts=True)
    rng = np.random.default_rng(seed)
    if over == "problems":
        return Redraws(
            seen[0], seen[1], rng.multinomial(len(n), counts / len(n), num_resamples), over
        )
    if over not in ("samples", "problems and samples"):
        raise ValueError(f"over = {over!r}: use 'problems', 'samples' or 'problems and samples'")
    states, kernel = _sample_noise(seen)
    if over == "samples":
        weights = np.zeros((num_resamples, states.shape[1]), dtype=int)
        for count, row in zip(counts, kernel, strict=True):
            weights += rng.multinomial(count, row, num_resamples)
    else:
        mixed = counts @ kernel
        weights = rng.multinomial(len(n), mixed / mixed.sum(), num_resamples)
    return Redraws(states[0], states[1], weights.astype(float), over)


def resampled_difference(
    a: tuple[ArrayLike, ArrayLike],
    b: tuple[ArrayLike, ArrayLike],
    over: str,
    *,
    level: float = 0.95,
    num_resamples: int = 2_000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap of mean(b) - mean(a) that draws the samples of both anew.

    a, b: (samples, correct) per problem, the same problems. over: "samples" keeps the problems,
    "problems and samples" draws the same problems for both, then samples within each.
    """
    if over not in ("samples", "problems and samples"):
        raise ValueError(f"over = {over!r}: use 'samples' or 'problems and samples'")
    counts = np.stack([_vector(side).astype(int) for side in (*a, *b)])
    # problems with equal counts on both sides are exchangeable and are drawn together
    states, weights = np.unique(counts, axis=1, return_counts=True)
    rng = np.random.default_rng(seed)
    total = counts.shape[1]
    shape = (num_resamples, len(weights))
    if over == "samples":
        drawn = np.broadcast_to(weights, shape)
    else:
        drawn = rng.multinomial(total, weights / total, num_resamples)
    # problems of one state: their correct samples add up to one binomial draw
    n_a, c_a, n_b, c_b = states
    mean_a = rng.binomial(drawn * n_a, c_a / n_a) @ (1 / n_a) / total
    mean_b = rng.binomial(drawn * n_b, c_b / n_b) @ (1 / n_b) / total
    value = float((counts[3] / counts[2]).mean() - (counts[1] / counts[0]).mean())
    lo, hi = np.quantile(mean_b - mean_a, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(lo), float(hi), over, "percentile bootstrap", level)


def stratified(
    groups: Sequence[ArrayLike],
    *,
    level: float = 0.95,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Interval of the unweighted mean of several benchmarks' means.

    Percentile bootstrap over the problems within each benchmark; the benchmarks themselves are
    fixed. groups: one list of per-problem values per benchmark.
    """
    rng = np.random.default_rng(seed)
    vectors = [_vector(values) for values in groups]
    if not vectors:
        raise ValueError("stratified: needs at least one benchmark")
    value = float(np.mean([v.mean() for v in vectors]))
    # the benchmarks were chosen, not drawn, so they are not resampled
    means = np.mean([_bootstrap_means(v, num_resamples, rng) for v in vectors], axis=0)
    lo, hi = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    over = "problems within each benchmark"
    return Interval(value, float(lo), float(hi), over, "stratified percentile bootstrap", level)


def paired(a: ArrayLike, b: ArrayLike) -> NDArray:
    """b - a per problem. Raises ValueError when the two do not have the same problems."""
    x, y = _vector(a), _vector(b)
    if x.shape != y.shape:
        raise ValueError(f"paired values: {len(x)} problems against {len(y)}; give the same ones")
    return y - x


def _vector(values: ArrayLike) -> NDArray:
    v = np.asarray(values, dtype=float)
    if v.ndim != 1 or len(v) == 0 or not np.isfinite(v).all():
        raise ValueError(f"needs a non-empty list of finite values per problem, got {v.shape}")
    return v


def _z(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level = {level}: use a coverage between 0 and 1, such as 0.95")
    return NormalDist().inv_cdf(0.5 + level / 2)


def _expanded_z(size: int, level: float) -> float:
    from scipy.special import stdtrit

    # the root undoes the n in the resamples' variance, where an estimate has n - 1
    return float(np.sqrt(size / (size - 1)) * stdtrit(size - 1, 0.5 + level / 2))


def _bca_level(z: float, bias: float, acceleration: float) -> float:
    shifted = bias + z
    return NormalDist().cdf(bias + shifted / (1 - acceleration * shifted))


def _bootstrap_means(d: NDArray, num_resamples: int, rng: np.random.Generator) -> NDArray:
    """Means of resamples; equal values are drawn together, so large sets of ties cost little."""
    values, counts = np.unique(d, return_counts=True)
    return rng.multinomial(len(d), counts / len(d), num_resamples) @ values / len(d)


def _sample_noise(seen: NDArray) -> tuple[NDArray, NDArray]:
    """(states, kernel): kernel[u, s] is the probability that redrawing u's samples gives s."""
    from scipy.special import gammaln, xlog1py, xlogy

    sizes = np.unique(seen[0])
    n = np.concatenate([np.full(size + 1, size) for size in sizes])
    c = np.concatenate([np.arange(size + 1) for size in sizes])
    p = (seen[1] / seen[0])[:, None]
    # logarithms: binomial coefficients of 1,000 samples overflow float64
    orders = gammaln(n + 1) - gammaln(c + 1) - gammaln(n - c + 1)
    kernel = np.exp(orders + xlogy(c, p) + xlog1py(n - c, -p)) * (n == seen[0][:, None])
    return np.stack([n, c]), kernel / kernel.sum(axis=1, keepdims=True)
