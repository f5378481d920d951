"""Which tokens of an update give a policy gradient, and which are held by a penalty.

Chosen once per optimizer step from the tokens of all its rows and ranks, before any parameter has
moved, so that neither the split into micro-batches nor that into ranks changes the choice.
Shapes: K tokens of the update, all rows' tokens one after another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rlvr.config.algorithm import AlgorithmConfig

    Floats = NDArray[np.float64]
    Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Selection:
    """[K] flags. kept: the token gives a policy gradient. held: its drift is penalised."""

    kept: Bools
    held: Bools


def selects(config: AlgorithmConfig) -> bool:
    """Whether the settings choose among tokens at all."""
    return config.top_entropy_quantile < 1 or config.cov != "none"


def select(
    config: AlgorithmConfig,
    logp_K: Floats,
    advantage_K: Floats,
    entropy_K: Floats | None,
    seed: int,
) -> Selection:
    """The tokens that the settings choose.

    logp_K: by the engine. entropy_K: of the policy at the start of the step, nats; None where
    top_entropy_quantile is 1. seed: of the draw of Clip-Cov.
    """
    kept, held = np.ones(len(logp_K), dtype=bool), np.zeros(len(logp_K), dtype=bool)
    if entropy_K is not None and config.top_entropy_quantile < 1:
        kept &= top_entropy(entropy_K, config.top_entropy_quantile)
    if config.cov == "clip":
        cov_K = covariances(logp_K, advantage_K)
        kept &= ~clip_cov(cov_K, config.cov_frac, config.cov_range, seed)
    if config.cov == "kl":
        held = kl_cov(covariances(logp_K, advantage_K), config.cov_frac)
    return Selection(kept, held)


def top_entropy(entropy_K: Floats, quantile: float) -> Bools:
    """[K] whether the entropy is among the highest `quantile` of the tokens.

    Source: "Beyond the 80/20 Rule", 2506.01939; the threshold is trl's, interpolated between two
    tokens.
    """
    return entropy_K >= np.quantile(entropy_K, 1 - quantile)


def covariances(logp_K: Floats, advantage_K: Floats) -> Floats:
    """[K] each token's share of the covariance of log-probability and advantage, which drives the
    change of entropy. Source: "The Entropy Mechanism of RL", 2505.22617 eq. 10."""
    return (logp_K - logp_K.mean()) * (advantage_K - advantage_K.mean())


def clip_cov(cov_K: Floats, frac: float, between: tuple[float, float], seed: int) -> Bools:
    """[K] true for `frac` of all tokens, at least one, drawn from those whose covariance lies in
    the range; for all of these where they are fewer. Source: Clip-Cov, 2505.22617 eq. 11 and 12."""
    (inside,) = np.nonzero((cov_K > between[0]) & (cov_K < between[1]))
    # the paper's 2e-4 of fewer than 5,000 tokens would be none
    count = min(len(inside), max(1, int(frac * len(cov_K))))
    chosen = np.zeros(len(cov_K), dtype=bool)
    chosen[np.random.default_rng(seed).choice(inside, count, replace=False)] = True
    return chosen


def kl_cov(cov_K: Floats, frac: float) -> Bools:
    """[K] true for the `frac` of tokens, at least one, of highest covariance.

    Source: KL-Cov, 2505.22617 eq. 13 and 14.
    """
    count = max(1, int(frac * len(cov_K)))
    chosen = np.zeros(len(cov_K), dtype=bool)
    # stable: of equal ones the first, whatever their number
    chosen[np.argsort(-cov_K, kind="stable")[:count]] = True
    return chosen
