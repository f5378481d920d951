"""Optimizers by name, over the trainable parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from rlvr.config.train import OptimConfig

Parameters = Iterable[torch.nn.Parameter] | Iterable[dict[str, Any]]


def build_optimizer(parameters: Parameters, config: OptimConfig) -> Optimizer:
    """The optimizer that optim.name names, over parameters or groups of them.

    A group's `lr_ratio` multiplies the schedule's rate. `rlvr.training.preflight` says whether it
    can run here.
    """
    options = {
        "lr": config.lr,
        "betas": config.betas,
        "eps": config.eps,
        "weight_decay": config.weight_decay,
    }
    # a group's own lr: without one it would take the unscaled rate
    scaled: Any = [
        {"lr": config.lr * one.get("lr_ratio", 1.0)} | one if isinstance(one, dict) else one
        for one in parameters
    ]
    return OPTIMIZERS[config.name](scaled, options)


def _adamw(parameters: Parameters, options: Mapping[str, Any]) -> Optimizer:
    return torch.optim.AdamW(parameters, fused=True, **options)


def _bitsandbytes(kind: str) -> Callable[[Parameters, Mapping[str, Any]], Optimizer]:
    def build(parameters: Parameters, options: Mapping[str, Any]) -> Optimizer:
        from bitsandbytes import optim

        return getattr(optim, kind)(parameters, **options)

    return build


OPTIMIZERS: dict[str, Callable[[Parameters, Mapping[str, Any]], Optimizer]] = {
    "adamw": _adamw,
    "adamw_8bit": _bitsandbytes("AdamW8bit"),
    "paged_adamw": _bitsandbytes("PagedAdamW"),
    "paged_adamw_8bit": _bitsandbytes("PagedAdamW8bit"),
}
"""What optim.name names. Source: AdamW, 1711.05101; 8-bit state, 2110.02861; paging, QLoRA,
2305.14314."""
