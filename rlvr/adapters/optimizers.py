"""Optimizers by name, over the trainable parameters."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from rlvr.common.errors import ConfigError

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from rlvr.config.train import OptimConfig

Parameters = Iterable[torch.nn.Parameter] | Iterable[dict[str, Any]]


def build_optimizer(parameters: Parameters, config: OptimConfig) -> Optimizer:
    """The optimizer that optim.name names, over parameters or groups of them.

    A group's `lr_ratio` multiplies the schedule's rate.
    """
    options = {
        "lr": config.lr,
        "betas": config.betas,
        "eps": config.eps,
        "weight_decay": config.weight_decay,
    }
    scaled: Any = [
        one | {"lr": config.lr * one.get("lr_ratio", 1.0)} if isinstance(one, dict) else one
        for one in parameters
    ]
    return OPTIMIZERS[config.name](scaled, options)


def _adamw(parameters: Parameters, options: Mapping[str, Any]) -> Optimizer:
    return torch.optim.AdamW(parameters, fused=True, **options)


def check_optimizer(config: OptimConfig, method: str, own_optimizer: bool) -> None:
    """Refuses, before anything loads, an optimizer that cannot run here, or that a method with an
    optimizer of its own would ignore. Raises: ConfigError."""
    name = config.name
    if own_optimizer and name != "adamw":
        raise ConfigError(f'optim.name = "{name}": {method} brings its own optimizer; remove it')
    if name != "adamw" and importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            f'optim.name = "{name}": comes with bitsandbytes, which is not installed; pip install'
            " 'rlvr[quantized]' or set it to \"adamw\""
        )
    if name.startswith("paged") and not torch.cuda.is_available():
        raise ConfigError(
            f'optim.name = "{name}": pages its state between GPU and CPU memory and needs a GPU;'
            ' set it to "adamw" or "adamw_8bit"'
        )


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
