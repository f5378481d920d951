"""How many parameters a method trains, and the rank that trains as many as wanted."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch

from rlvr.adapters.base import Method, Setup
from rlvr.common.errors import ConfigError
from rlvr.common.log import get_logger
from rlvr.config.adapter import AdapterConfig

logger = get_logger(__name__)

LARGEST_RANK = 4096
_UNITS = {"K": 1e3, "M": 1e6, "B": 1e9}


def count_parameters(method: Method, config: AdapterConfig, model_config: Any) -> int:
    """Trainable parameters on a model of this shape; nothing is allocated."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config, dtype=torch.float32)
        if method.count:
            return method.count(model, Setup(config, seed=0))
        adapted = method.apply(model, Setup(config, seed=0))
    return sum(p.numel() for p in adapted.parameters() if p.requires_grad)


def match_rank(method: Method, config: AdapterConfig, model_config: Any) -> AdapterConfig:
    """`config` with the rank whose count comes nearest to adapter.match; says which.

    Counts grow with the rank, or fall with it (randlora: fewer bases). Ties go to the smaller rank.
    Raises: ConfigError for a number of parameters that the method cannot have.
    """
    if config.match is None:
        return config
    number = config.match.removeprefix("params:")
    wanted = float(number.rstrip("KMB")) * _UNITS.get(number[-1], 1)
    step = method.rank_multiple(config)

    @functools.cache  # a count builds a model, on the meta device but not for nothing
    def count(rank: int) -> float:
        try:
            return count_parameters(method, config.model_copy(update={"rank": rank}), model_config)
        except ConfigError:
            return math.inf  # more than the smallest module takes

    falls = count(4 * step) < count(step)

    def reached(rank: int) -> bool:
        return count(rank) <= wanted if falls else count(rank) >= wanted

    low, high = step, step
    while not reached(high) and high <= LARGEST_RANK:
        low, high = high, 2 * high
    while high - low > step and high <= LARGEST_RANK:
        middle = (low + high) // 2 // step * step
        low, high = (low, middle) if reached(middle) else (middle, high)
    if high > LARGEST_RANK or count(high) == math.inf:
        bound, remedy = ("least", "more") if falls else ("most", "fewer")
        raise ConfigError(
            f'adapter.match = "{config.match}": {method.name} has at {bound} {count(low):,}'
            f" trainable parameters on this model (rank {low}); ask for {remedy}"
        )
    rank = min((low, high), key=lambda r: abs(count(r) - wanted))
    logger.info(
        f"adapter.match: {method.name} at rank {rank} trains {count(rank):,} parameters"
        f" (wanted {wanted:,.0f})"
    )
    return config.model_copy(update={"rank": rank})
