"""Adapted weights computed out of place: the base is never written.

In bfloat16 round(round(W + d) - d) != W: merging in place and unmerging at every step moves the
frozen
base by a good part of what was learned. Here each module is copied in float32, merged in the
copy, and
the copy is dropped.
"""

import copy
from collections.abc import Iterator
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn


def plain_name(name: str) -> str:
    """The base model's own name of a parameter or module inside a peft model."""
    return name.removeprefix("base_model.model.").replace(".base_layer", "")


@torch.no_grad()
def merged_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(name, W + delta) of every adapted module, one at a time, float32, under the base's names."""
    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer):
            assert isinstance(module, nn.Module)
            merged = cast(Any, copy.deepcopy(module).float())
            merged.merge()
            for key, value in merged.get_base_layer().named_parameters():
                yield f"{plain_name(name)}.{key}", value.detach()


def full_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(name, W) of every parameter of a plain model; a tied head comes once."""
    for name, value in model.named_parameters():
        yield name, value.detach()
