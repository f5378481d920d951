"""The live tensors of an adapter, bit for bit, for checkpoints that continue."""

from __future__ import annotations

from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from rlvr.distributed.sharded_tensors import copy_into


def adapter_tensors(model: Any) -> dict[str, Tensor]:
    """Every parameter and buffer that is not the base's."""
    found = {n: p for n, p in model.named_parameters() if p.requires_grad}
    for name, layer in model.named_modules():
        if isinstance(layer, BaseTunerLayer):
            # frozen tensors and buffers too, such as VeRA's projections; keep_vars: the live ones
            inside = cast(nn.Module, layer).state_dict(keep_vars=True)
            found |= {
                f"{name}.{key}": value
                for key, value in inside.items()
                if not key.startswith("base_layer.")
            }
    return found


def adapter_state(model: Any) -> dict[str, Tensor]:
    """Copies of the adapter's tensors, by name."""
    return {name: value.detach().clone() for name, value in adapter_tensors(model).items()}


@torch.no_grad()
def load_adapter_state(model: Any, saved: dict[str, Tensor]) -> None:
    """Writes tensors from `adapter_state` into a model made by the same method and settings."""
    live = adapter_tensors(model)
    assert live.keys() == saved.keys(), sorted(live.keys() ^ saved.keys())[:3]
    for name, value in saved.items():
        copy_into(live[name], value)
