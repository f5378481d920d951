"""The learning rate of a method: short runs around a prior, a parabola, when not to trust it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rlvr.compare.execution.executors import RunTasks
from rlvr.compare.learning_rate.fit import Fit, diverged_lrs, fit_parabola, means_by_lr, near_best
from rlvr.compare.learning_rate.grid import FACTOR, nearest, rate
from rlvr.compare.learning_rate.prior import Prior
from rlvr.compare.resolve import Comparison
from rlvr.compare.results import RatePoint, read_point
from rlvr.config.compare import FindConfig

FLANK = 2
"""Rates wanted below the best, and above it unless they diverge."""
# 1.01: rates are rounded to 4 digits, and the window ends on one
FIT_WINDOW = FACTOR**FLANK * 1.01
"""The parabola sees rates within FLANK grid steps of the best; further away the curve is none."""


@dataclass(frozen=True)
class LrFind:
    """What a search found. chosen_by: "fit" or "best measured"; cost: steps times seeds."""

    label: str
    method: str
    rank: int | None
    prior: Prior | None
    points: tuple[RatePoint, ...]
    fit: Fit | None
    best_measured_lr: float
    chosen_lr: float
    chosen_by: str
    warnings: tuple[str, ...]

    @property
    def num_steps(self) -> int:
        """Optimizer steps that the search took, over all its runs."""
        return sum(point.steps for point in self.points)

    def to_json(self) -> dict[str, Any]:
        """The object that lr_find.json lists."""
        return asdict(self) | {
            "cost": {
                "runs": len(self.points),
                "steps": self.num_steps,
                "seconds": sum(point.seconds for point in self.points),
            }
        }


def first_grid(centre: float, config: FindConfig) -> list[int]:
    """Grid indices of the first rates, the centre's nearest in the middle; below 1."""
    middle = nearest(centre)
    start = middle - config.num_points // 2
    # optim.lr ends at 1
    return [k for k in range(start, start + config.num_points) if rate(k) <= 1]


def more_rates(tried: Sequence[int], points: Sequence[RatePoint], config: FindConfig) -> list[int]:
    """The grid index to try next, past the end that the best rate or the vertex lies near, or none.

    The best should have FLANK rates on either side: a parabola with one flank has no sure vertex. A
    rate that diverged bounds the search from above. Where all diverged, two lower ones.
    """
    room = max(0, config.max_points - len(tried))
    low, high = min(tried), max(tried)
    means = means_by_lr(points)
    if not means:
        return [low - 1, low - 2][:room]
    best = nearest(max(means, key=lambda lr: means[lr]))
    top_diverged = rate(high) in diverged_lrs(points)
    fit = fit_parabola(near_best(points, FIT_WINDOW))
    vertex = nearest(fit.vertex_lr) if fit else best
    # the best of noisy values may lie inside while the parabola still rises at an end
    if best < low + FLANK or vertex < low:
        return [low - 1][:room]
    near_top = best > high - FLANK or vertex > high
    if near_top and not top_diverged and rate(high + 1) <= 1:
        return [high + 1][:room]
    return []


def conclude(
    label: str,
    method: str,
    rank: int | None,
    prior: Prior | None,
    points: Sequence[RatePoint],
    config: FindConfig,
) -> LrFind:
    """Fits the points and chooses: the vertex, or the best measured rate where the fit is bad."""
    means = means_by_lr(points)
    warnings = []
    bad = sorted(diverged_lrs(points))
    if bad:
        rules = sorted({point.stopped for point in points if point.stopped})
        warnings.append(f"diverged at {', '.join(f'{lr:.3g}' for lr in bad)} ({', '.join(rules)})")
    if not means:
        lowest = min(point.lr for point in points)
        warnings.append("every rate diverged: the smallest is taken; search lower")
        return LrFind(
            label, method, rank, prior, tuple(points), None, lowest, lowest, "best measured",
            tuple(warnings),
        )  # fmt: skip
    best = max(means, key=lambda lr: means[lr])
    if best in (min(means), max(means)) and len(means) > 1:
        end = "smallest" if best == min(means) else "largest"
        warnings.append(f"the best rate is the {end} one that did not diverge")
    window = near_best(points, FIT_WINDOW)
    fit = fit_parabola(window)
    doubt = _doubt(fit, window, config)
    chosen, by = best, "best measured"
    if doubt:
        warnings.append(f"{doubt}: the best measured rate is taken")
    elif fit is not None:
        chosen, by = fit.vertex_lr, "fit"
    return LrFind(label, method, rank, prior, tuple(points), fit, best, chosen, by, tuple(warnings))


def _doubt(fit: Fit | None, window: Sequence[RatePoint], config: FindConfig) -> str | None:
    """Why the parabola is not believed, or None."""
    if fit is None:
        return "no parabola with a maximum fits"
    low, high = min(p.lr for p in window), max(p.lr for p in window)
    if not low <= fit.vertex_lr <= high:
        return f"the vertex {fit.vertex_lr:.3g} lies outside the rates tried"
    if fit.r2 < config.min_r2:
        return f"the parabola explains {fit.r2:.2f} of the variance, less than {config.min_r2:g}"
    if math.log(fit.ci95[1] / fit.ci95[0]) > math.log(high / low):
        return "the vertex's interval is wider than the rates tried"
    return None


class RateSearch:
    """The search of one label so far. points: of the runs that `next_runs` has asked for."""

    def __init__(self, centre: float, config: FindConfig) -> None:
        self._config = config
        self._tried: list[int] = []
        self._centre = centre
        self._num_seeds = 1
        self.points: list[RatePoint] = []

    def next_runs(self) -> list[tuple[int, int]]:
        """(grid index, seed) of the runs to make now; none at the end.

        The first grid with the first seed; further rates while the best lies at an end; then, as
        long as the vertex is not known to find.precision, the rates that the parabola is fitted to
        with one seed more.
        """
        seeds = self._config.seeds
        if not self._tried:
            self._tried = first_grid(self._centre, self._config)
            return [(k, seeds[0]) for k in self._tried]
        if not self.points:  # every run failed for a reason that other rates share
            return []
        rates = more_rates(self._tried, self.points, self._config)
        if rates:
            self._tried += rates
            return [(k, seed) for k in rates for seed in seeds[: self._num_seeds]]
        window = near_best(self.points, FIT_WINDOW)
        if self._num_seeds == len(seeds) or _is_precise(window, self._config):
            return []
        self._num_seeds += 1
        indices = sorted({nearest(point.lr) for point in window})
        return [(k, seeds[self._num_seeds - 1]) for k in indices]


def _is_precise(window: Sequence[RatePoint], config: FindConfig) -> bool:
    fit = fit_parabola(window)
    if fit is None or _doubt(fit, window, config):
        return False
    return max(fit.ci95[1] / fit.vertex_lr, fit.vertex_lr / fit.ci95[0]) <= config.precision


def find_rates(
    comparison: Comparison,
    labels: Sequence[str],
    run: RunTasks,
    priors: Mapping[str, Prior],
) -> dict[str, LrFind]:
    """Searches for all labels together, round by round, so that their runs can go in parallel.

    The grid of a label starts at its prior, or at its reference_lr. A label whose every run failed
    is left out.
    """
    config = comparison.recipe.find
    centres = {label: comparison.reference_lr(label) for label in labels}
    centres |= {label: prior.lr for label, prior in priors.items()}
    searches = {label: RateSearch(centres[label], config) for label in labels}
    while wanted := {label: runs for label in labels if (runs := searches[label].next_runs())}:
        tasks = [
            comparison.short_task(label, seed, rate(k))
            for label, runs in wanted.items()
            for k, seed in runs
        ]
        for task, outcome in zip(tasks, run(tasks), strict=True):
            point = read_point(task, outcome, config)
            searches[task.label].points += [] if point is None else [point]
    return {
        label: _conclude(comparison, label, priors, search.points)
        for label, search in searches.items()
        if search.points
    }


def _conclude(
    comparison: Comparison, label: str, priors: Mapping[str, Prior], points: Sequence[RatePoint]
) -> LrFind:
    adapter = comparison.resolve(label, 0, None).adapter
    return conclude(
        label, adapter.method, adapter.rank, priors.get(label), points, comparison.recipe.find
    )
