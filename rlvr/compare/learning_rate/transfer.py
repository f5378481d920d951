"""A power law of the learning rate over rank, batch, steps and size, from earlier searches."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eval.formats.jsonl import read_lines
from rlvr.common.errors import ConfigError

FEATURES = ("rank", "batch", "steps", "num_params")
"""What the law multiplies powers of. Source: the law in model and data size of 2601.05049, with
rank and batch beside them; exponents and constant are always fitted, never taken from elsewhere."""


@dataclass(frozen=True)
class PastSearch:
    """One finished search. rank: 0 where the method has none; batch: responses per step;
    num_params: of the model; width: its hidden size."""

    method: str
    lr: float
    rank: int
    batch: int
    steps: int
    num_params: int
    width: int
    task: str = ""


@dataclass(frozen=True)
class Prediction:
    """lr with its 95% prediction interval. outside: features beyond the fitted range, in words."""

    lr: float
    lo: float
    hi: float
    outside: tuple[str, ...]


@dataclass(frozen=True)
class PowerLaw:
    """lr = c times the product of feature^power, fitted in logarithms.

    powers: of the features that varied. residual_sd: in ln lr. loo_factor: geometric mean factor by
    which the law misses a search left out of the fit; None where it cannot be left out.
    """

    c: float
    powers: dict[str, float]
    residual_sd: float
    freedom: int
    loo_factor: float | None
    ranges: dict[str, tuple[float, float]]
    covariance: NDArray

    def predict(self, features: Mapping[str, float]) -> Prediction:
        """The rate for these features, by Student's t with the error of a new search included."""
        from scipy.special import stdtrit

        x = np.array([1.0, *(math.log(features[name]) for name in self.powers)])
        value = math.log(self.c) + sum(
            power * math.log(features[name]) for name, power in self.powers.items()
        )
        # the law's own variance, and the scatter of one search about it
        error = math.sqrt(float(x @ self.covariance @ x) + self.residual_sd**2)
        half = float(stdtrit(self.freedom, 0.975)) * error
        outside = tuple(
            f"{name} = {features[name]:g} (fitted on {low:g} to {high:g})"
            for name, (low, high) in self.ranges.items()
            if not low <= features[name] <= high
        )
        return Prediction(math.exp(value), math.exp(value - half), math.exp(value + half), outside)


def fit_power_law(finds: Sequence[PastSearch]) -> PowerLaw:
    """Least squares of ln lr on the logarithms of the features that vary.

    Raises: ValueError with fewer searches than numbers to fit plus one, or features that only vary
    together.
    """
    values = {name: [float(getattr(find, name)) for find in finds] for name in FEATURES}
    # a method without a rank has 0, which has no logarithm
    varied = [name for name, column in values.items() if len(set(column)) > 1 and min(column) > 0]
    design, y = _design(finds, varied), np.log([find.lr for find in finds])
    freedom = len(y) - design.shape[1]
    if freedom < 1:
        raise ValueError(
            f"a law over {', '.join(varied) or 'nothing'} needs {design.shape[1] + 1} searches,"
            f" there are {len(y)}"
        )
    if np.linalg.matrix_rank(design) < design.shape[1]:
        raise ValueError(f"{', '.join(varied)} only vary together: their powers cannot be told")
    solution, residuals = _solve(design, y)
    variance = float(residuals @ residuals) / freedom
    inverse = np.linalg.inv(design.T @ design)
    # the leverages: the diagonal of X (X'X)^-1 X'
    hat = np.einsum("ij,jk,ik->i", design, inverse, design)
    return PowerLaw(
        math.exp(solution[0]),
        dict(zip(varied, map(float, solution[1:]), strict=True)),
        math.sqrt(variance),
        freedom,
        _loo_factor(residuals, hat),
        # of all features: about one that never varied the law knows one value
        {name: (min(column), max(column)) for name, column in values.items()},
        inverse * variance,
    )


@dataclass(frozen=True)
class WidthLaw:
    """lr = c / width: muTransfer's rule for matrices under Adam, with c fitted.

    Source: 2203.03466, table 3. It says nothing about rank, batch or steps. loo_factor as in
    PowerLaw.
    """

    c: float
    loo_factor: float | None

    def predict(self, width: float) -> float:
        """The rate for this hidden size."""
        return self.c / width


def fit_width_law(finds: Sequence[PastSearch]) -> WidthLaw:
    """The geometric mean of lr times width. Raises: ValueError without any search."""
    if not finds:
        raise ValueError("a law needs at least one search")
    logs = np.log([find.lr * find.width for find in finds])
    # the leverage of every value in a mean is 1 / n
    residuals, hat = logs - logs.mean(), np.full(len(logs), 1 / len(logs))
    return WidthLaw(math.exp(float(logs.mean())), _loo_factor(residuals, hat))


def _design(finds: Sequence[PastSearch], names: Sequence[str]) -> NDArray:
    columns = [np.ones(len(finds))]
    columns += [np.log([float(getattr(find, name)) for find in finds]) for name in names]
    return np.column_stack(columns)


def _solve(design: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
    solution = np.linalg.lstsq(design, y, rcond=None)[0]
    return solution, y - design @ solution


def _loo_factor(residuals: NDArray, hat: NDArray) -> float | None:
    """exp of the mean absolute leave-one-out error in ln lr, from residual / (1 - leverage)."""
    if (hat > 1 - 1e-9).any():  # one search alone decides a number of the law
        return None
    return math.exp(float(np.abs(residuals / (1 - hat)).mean()))


def store_path() -> Path:
    """The store of searches: lr_finds.jsonl in the cache folder (RLVR_CACHE)."""
    from rlvr.common.checkout import cache_dir

    return cache_dir() / "lr_finds.jsonl"


def remember(find: PastSearch, path: Path) -> None:
    """Adds a search to the store; the same search again replaces nothing and adds nothing."""
    if find in recall(path):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(find)) + "\n")


def recall(path: Path, method: str | None = None) -> list[PastSearch]:
    """The stored searches, of one method or all. Raises: ConfigError for a line that is none."""
    finds = []
    for number, line in read_lines(path) if path.exists() else ():
        try:
            finds.append(PastSearch(**json.loads(line)))
        except (json.JSONDecodeError, TypeError) as error:
            raise ConfigError(
                f"{path}, line {number}: not a search ({error}); delete the line"
            ) from error
    return [find for find in finds if method is None or find.method == method]


def describe_laws(finds: Sequence[PastSearch], target: PastSearch) -> list[str]:
    """What the two laws say about `target`, in lines of text; why not, where there are too few."""
    lines = []
    try:
        law = fit_power_law(finds)
    except ValueError as error:
        lines.append(f"power law: {error}")
    else:
        features = {name: float(getattr(target, name)) for name in FEATURES}
        p = law.predict(features)
        powers = " ".join(f"{name}^{power:+.2f}" for name, power in law.powers.items())
        lines.append(
            f"power law from {len(finds)} searches: lr = {law.c:.3g} {powers}; here {p.lr:.3g},"
            f" 95% of new searches in [{p.lo:.3g}, {p.hi:.3g}]; {_loo(law.loo_factor)}"
        )
        lines += [f"warning: outside the fitted range: {text}" for text in p.outside]
    if finds:
        width = fit_width_law(finds)
        lines.append(
            f"muTransfer (lr = {width.c:.3g} / width): here {width.predict(target.width):.3g};"
            f" {_loo(width.loo_factor)}"
        )
    return lines


def _loo(factor: float | None) -> str:
    if factor is None:
        return "no search can be left out"
    return f"a search left out is missed by a factor of {factor:.2f} on average"
