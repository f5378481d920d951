"""The parabola through values at learning rates, its vertex, and how well the vertex is known."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlvr.compare.results import RatePoint

FAR = 30.0
"""Ends of an interval this far from the vertex, in ln lr, are cut there: beyond any use."""


@dataclass(frozen=True)
class Fit:
    """value = c0 + c1 u + c2 u^2 with u = ln lr, c0 the mean over seeds.

    ci95: Fieller interval of the vertex. curvature: c2, negative. peak: the value at the vertex.
    r2: share of the variance between rates, within seeds, that the parabola explains.
    """

    vertex_lr: float
    ci95: list[float]
    curvature: float
    peak: float
    r2: float
    coefficients: list[float]


def fit_parabola(points: Sequence[RatePoint]) -> Fit | None:
    """Least squares over points of several seeds, every seed with its own height.

    Seeds are paired: a seed whose problems are easier lifts all its points, which its own intercept
    takes out. Source: the parabola in log lr, 2601.05049.
    The interval is Fieller's (1954): all vertices v at which the slope c1 + 2 c2 v is not
    distinguishable from 0. It has no ends where the curvature does not differ from 0, when the
    vertex must not be believed; the delta method gives some all the same, and a bootstrap over
    three seeds covers 72% (docs/compare.md). Errors are taken as independent and of one size.
    None: too few points, no maximum, or a curvature that is not distinguishable from 0 (the
    interval has no end).
    """
    if len({point.lr for point in points}) < 3:
        return None
    u = np.log([point.lr for point in points])
    centre = float(u.mean())
    solved = _solve(points, u - centre)  # far from 0, u and u^2 are nearly parallel
    if solved is None:
        return None
    c0, c1, c2, variance, freedom, r2 = solved
    ends = _fieller(c1, c2, variance, freedom)
    if c2 >= 0 or ends is None:
        return None
    v = -c1 / (2 * c2)
    moved = [c0 - c1 * centre + c2 * centre**2, c1 - 2 * c2 * centre, c2]
    return Fit(
        math.exp(v + centre),
        [math.exp(min(max(end, v - FAR), v + FAR) + centre) for end in ends],
        c2,
        c0 + c1 * v / 2,  # c0 + c1 v + c2 v^2 with c2 v = -c1 / 2
        r2,
        moved,
    )


def _solve(
    points: Sequence[RatePoint], x: NDArray
) -> tuple[float, float, float, NDArray, int, float] | None:
    """(c0, c1, c2, covariance of c1 and c2, degrees of freedom, R2); None with too few points."""
    seeds = sorted({point.seed for point in points})
    heights = np.array([[point.seed == seed for seed in seeds] for point in points], dtype=float)
    design = np.column_stack([heights, x, x**2])
    y = np.array([point.value for point in points])
    freedom = len(y) - design.shape[1]
    if freedom < 1 or np.linalg.matrix_rank(design) < design.shape[1]:
        return None
    solution = np.linalg.lstsq(design, y, rcond=None)[0]
    residuals = y - design @ solution
    # what every seed's own mean leaves
    within = y - heights @ (heights.T @ y / heights.sum(axis=0))
    total = float(within @ within)
    r2 = 1 - float(residuals @ residuals) / total if total > 0 else 0.0
    covariance = np.linalg.inv(design.T @ design) * float(residuals @ residuals) / freedom
    c1, c2 = (float(c) for c in solution[-2:])
    return float(solution[:-2].mean()), c1, c2, covariance[-2:, -2:], freedom, r2


def _fieller(c1: float, c2: float, variance: NDArray, freedom: int) -> tuple[float, float] | None:
    """Ends of {v : (c1 + 2 c2 v)^2 <= t^2 Var(c1 + 2 c2 v)}, t of 95%; None where unbounded."""
    from scipy.special import stdtrit

    t2 = float(stdtrit(freedom, 0.975)) ** 2
    a = 4 * (c2**2 - t2 * variance[1, 1])
    b = 4 * (c1 * c2 - t2 * variance[0, 1])
    c = c1**2 - t2 * variance[0, 0]
    if a <= 0:  # the curvature could be 0, and the vertex then lies anywhere
        return None
    root = math.sqrt(max(0.0, b * b - 4 * a * c))  # the vertex is inside: below 0 by rounding only
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


def means_by_lr(points: Sequence[RatePoint]) -> dict[float, float]:
    """Mean value over seeds at every rate where no seed diverged, ascending."""
    values: dict[float, list[float]] = defaultdict(list)
    for point in points:
        values[point.lr].append(point.value)
    bad = diverged_lrs(points)
    return {lr: sum(v) / len(v) for lr, v in sorted(values.items()) if lr not in bad}


def diverged_lrs(points: Sequence[RatePoint]) -> set[float]:
    """Rates at which a rule ended at least one seed's run."""
    return {point.lr for point in points if point.stopped is not None}


def near_best(points: Sequence[RatePoint], factor: float) -> list[RatePoint]:
    """The points that the parabola is fitted to: no seed diverged, and within `factor` of the best.

    Far from the best rate the curve is no parabola: flat where nothing is learned, a cliff above.
    """
    means = means_by_lr(points)
    if not means:
        return []
    best = max(means, key=lambda lr: means[lr])
    # 1e-9: rates are rounded to 4 digits, and the window ends on one
    inside = {lr for lr in means if 1 / factor <= lr / best * (1 + 1e-9) and lr / best <= factor}
    return [point for point in points if point.lr in inside]
