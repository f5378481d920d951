"""Statistics of one metric over steps: windows, running means, trends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev
from typing import Any

from rlvr.runs.reader import RunData

Points = Sequence[tuple[int, float]]

MAX_POINTS = 1200
"""Points that one line of a chart draws; longer series keep the extremes of every bucket."""


def window_len(num_steps: int) -> int:
    """Steps that a running mean averages: a twentieth of the run, at least 5."""
    return max(5, round(num_steps / 20))


def running_mean(points: Points, window: int) -> list[tuple[int, float, float]]:
    """(step, mean, half width) over the last `window` points; half width: 2 standard errors."""
    result = []
    for i, (step, _) in enumerate(points):
        part = [value for _, value in points[max(0, i - window + 1) : i + 1]]
        # a trend inside the window counts as spread: the band is rather too wide
        half = 2 * stdev(part) / math.sqrt(len(part)) if len(part) > 1 else 0.0
        result.append((step, fmean(part), half))
    return result


def thin(points: Points, limit: int = MAX_POINTS) -> list[tuple[int, float]]:
    """At most `limit` points: first, last, and the lowest and highest of equal buckets."""
    if len(points) <= limit:
        return list(points)
    size = math.ceil(2 * len(points) / (limit - 2))  # every bucket keeps two points
    kept = {0, len(points) - 1}
    for start in range(0, len(points), size):
        bucket = range(start, min(start + size, len(points)))
        # both extremes, so that no spike is thinned away
        kept.add(min(bucket, key=lambda i: points[i][1]))
        kept.add(max(bucket, key=lambda i: points[i][1]))
    return [points[i] for i in sorted(kept)]


def smoothed(points: Points) -> list[tuple[int, float]]:
    """The running mean alone, thinned for a chart."""
    window = window_len(len(points))
    return thin([(step, mean) for step, mean, _ in running_mean(points, window)])


@dataclass(frozen=True, slots=True)
class Trend:
    """Mean of the first and of the last fifth of a series, and how sure their difference is.

    z: difference over its standard error, from the spread within each fifth; 0 when nothing moves.
    """

    start: float
    end: float
    z: float


def trend(values: Sequence[float]) -> Trend:
    """The trend of at least 4 values."""
    n = max(2, len(values) // 5)  # a single value has no spread
    first, last = values[:n], values[-n:]
    difference = fmean(last) - fmean(first)
    # steps are taken as independent, though each starts from the one before
    error = math.sqrt((stdev(first) ** 2 + stdev(last) ** 2) / n)
    # both fifths constant: any difference between them is certain
    z = difference / error if error > 0 else math.copysign(math.inf, difference or 1.0)
    return Trend(fmean(first), fmean(last), 0.0 if difference == 0 else z)


def ends(run: RunData, metric: str, min_steps: int) -> tuple[float, float] | None:
    """Medians of the first and of the last tenth of a metric (at least 3 values): outliers do not
    count. None where fewer steps than min_steps have it."""
    values = run.values(metric)
    n = max(3, len(values) // 10)
    return (median(values[:n]), median(values[-n:])) if len(values) >= min_steps else None


def evenly(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` items, evenly spaced, with the first and the last; the last alone for 1."""
    if len(items) <= count:
        return list(items)
    if count == 1:
        return [items[-1]]
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def quantile(values: Sequence[float], q: float) -> float:
    """The value below which a share q of the values lies."""
    return sorted(values)[round(q * (len(values) - 1))]
