"""How many parameters a method trains, and the rank that trains as many as wanted."""

from __future__ import annotations

import functools
import sys
from typing import Any

import torch

from rlvr.adapter_config import AdapterConfig
from rlvr.adapters.base import Method, Setup
from rlvr.recipe import ConfigError

LARGEST_RANK = 4096
_UNITS = {"K": 1e3, "M": 1e6, "B": 1e9}


def count_parameters(method: Method, config: AdapterConfig, model_config: Any) -> int:
    """Trainable parameters on a model of this shape; nothing is allocated."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config, dtype=torch.float32)
        adapted = method.apply(model, Setup(config, seed=0))
    return sum(p.numel() for p in adapted.parameters() if p.requires_grad)


def match_rank(method: Method, config: AdapterConfig, model_config: Any) -> AdapterConfig:
    """`config` with adapter.match replaced by the rank whose count comes nearest; says which.

    Counts grow with the rank. Ties go to the smaller rank.
    """
    if config.match is None:
        return config
    number = config.match.removeprefix("params:")
    wanted = float(number.rstrip("KMB")) * _UNITS.get(number[-1], 1)
    step = method.rank_multiple(config)

    def at(rank: int) -> AdapterConfig:
        return config.model_copy(update={"rank": rank, "match": None})

    @functools.cache
    def count(rank: int) -> int:
        return count_parameters(method, at(rank), model_config)

    low, high = step, step
    while count(high) < wanted:
        low, high = high, 2 * high
        if high > LARGEST_RANK:
            raise ConfigError(
                f'adapter.match = "{config.match}": {method.name} has at most {count(low):,}'
                " trainable parameters at the largest rank; ask for fewer"
            )
    while high - low > step:
        middle = (low + high) // 2 // step * step
        low, high = (middle, high) if count(middle) < wanted else (low, middle)
    rank = min((low, high), key=lambda r: abs(count(r) - wanted))
    print(
        f"adapter.match: {method.name} at rank {rank} trains {count(rank):,} parameters"
        f" (wanted {wanted:,.0f})",
        file=sys.stderr,
    )
    return at(rank)
