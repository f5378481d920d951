"""Tensors of which every rank has a shard: a DTensor under FSDP2, DeepSpeed's own under ZeRO-3.

All ranks have to make each call that gathers one, in the same order. A tensor that is not sharded
passes through everything here as it is.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.optim import Optimizer


def is_sharded(value: Any) -> bool:
    """Whether this is a shard of a tensor."""
    return hasattr(value, "full_tensor") or hasattr(value, "ds_id")


def shape(value: Any) -> torch.Size:
    """The shape of the full tensor."""
    return getattr(value, "ds_shape", value.shape)


def num_elements(value: Any) -> int:
    """The number of elements of the full tensor."""
    return math.prod(shape(value))


def full_tensor(value: Tensor) -> Tensor:
    """The full tensor out of the shards of all ranks, without its history."""
    live: Any = value
    if hasattr(live, "ds_id"):
        from deepspeed import zero

        # cloned, because DeepSpeed frees the gathered weight again when the block ends
        with zero.GatheredParameters([live]):
            return live.detach().clone()
    return live.detach().full_tensor() if is_sharded(live) else live.detach()


@torch.no_grad()
def copy_into(live: Tensor, value: Tensor) -> None:
    """Writes a full tensor into a live one, of which each rank keeps its shard."""
    if hasattr(live, "ds_id"):
        from deepspeed import zero

        with zero.GatheredParameters([live], modifier_rank=0):
            live.copy_(value)
    else:
        live.copy_(local_shard(value, live))


def local_shard(value: Tensor, like: Tensor) -> Tensor:
    """This rank's shard of a full tensor, laid out as `like`."""
    if not is_sharded(like):
        return value
    from torch.distributed.tensor import distribute_tensor

    live: Any = like
    value = value.to(live.device)
    # src_data_rank=None: every rank has read the value itself, so none has to send it
    return distribute_tensor(value, live.device_mesh, live.placements, src_data_rank=None)


def local_state(state: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """A saved optimizer state with every tensor laid out as its parameter."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if not any(map(is_sharded, parameters)):
        return state
    for index, values in state["state"].items():
        like = parameters[index]
        for name, value in values.items():
            # moments have their parameter's shape, the step count has none
            if isinstance(value, Tensor) and value.shape == like.shape:
                values[name] = local_shard(value, like)
    return state


def moved(state: Any, device: torch.device) -> Any:
    """The state with every tensor on the device, at any depth of dicts and lists."""
    if isinstance(state, Tensor):
        return state.to(device)
    if isinstance(state, dict):
        return {key: moved(value, device) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(moved(value, device) for value in state)
    return state


def move_named_state(optimizer: Optimizer) -> None:
    """Moves state that is kept under a name, as by peft's LoRA-FA, to the parameters' device: torch
    moves only what is kept under a parameter."""
    device = optimizer.param_groups[0]["params"][0].device
    for key, values in optimizer.state.items():
        if not isinstance(key, Tensor):
            optimizer.state[key] = moved(values, device)


def full_copy(module: nn.Module) -> Any:
    """A copy of the module with full parameters."""
    shards = [p for p in module.parameters() if is_sharded(p)]
    if not shards:
        return copy.deepcopy(module)
    # deepcopy takes what its memo knows by id: it never tries to copy a shard
    known: dict[int, Any] = {
        id(p): nn.Parameter(full_tensor(p), requires_grad=p.requires_grad) for p in shards
    }
    with without_hooks(module):
        return copy.deepcopy(module, known)


@contextlib.contextmanager
def without_hooks(model: nn.Module) -> Iterator[None]:
    """Inside the block, no module calls the hooks that gather it from all ranks."""
    modules: list[Any] = list(model.modules())
    hooks = [(module._forward_pre_hooks, module._forward_hooks) for module in modules]
    for module in modules:
        module._forward_pre_hooks, module._forward_hooks = OrderedDict(), OrderedDict()
    try:
        yield
    finally:
        for module, (before, after) in zip(modules, hooks, strict=True):
            module._forward_pre_hooks, module._forward_hooks = before, after


Slot = tuple[dict[Any, Any], Any]
"""Where a tensor is kept: (dict, key)."""


@contextlib.contextmanager
def temporarily_gathered(slots: Iterable[Slot], keep: bool = True) -> Iterator[None]:
    """Inside the block, full tensors in CPU memory stand in the slots that hold shards.

    keep: False on a rank that only helps others to gather; its slots stay as they are.
    """
    sharded = [(holder, key, holder[key]) for holder, key in slots if is_sharded(holder[key])]
    full: dict[int, Tensor] = {}
    for _, _, value in sharded:  # a tied weight is in several slots
        if id(value) not in full:
            gathered = full_tensor(value)
            full[id(value)] = gathered.cpu() if keep else value
    try:
        for holder, key, value in sharded if keep else ():
            is_parameter = isinstance(value, nn.Parameter)
            new = full[id(value)]
            holder[key] = nn.Parameter(new, value.requires_grad) if is_parameter else new
        yield
    finally:
        for holder, key, value in sharded:
            holder[key] = value
