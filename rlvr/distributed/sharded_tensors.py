"""Tensors of which every rank holds a part: a DTensor under FSDP2, DeepSpeed's own under ZeRO-3.

All ranks take part in each call that puts one together, in the same order. A tensor that is not in
parts goes through everything here as it is.
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

from rlvr.distributed import ranks

if TYPE_CHECKING:
    from torch.optim import Optimizer


def is_sharded(value: Any) -> bool:
    """Whether this is a part of a tensor."""
    return hasattr(value, "full_tensor") or hasattr(value, "ds_id")


def shape(value: Any) -> torch.Size:
    """The shape of the tensor that this is a part of."""
    return getattr(value, "ds_shape", value.shape)


def num_elements(value: Any) -> int:
    """The elements of the tensor that this is a part of."""
    return math.prod(shape(value))


def whole(value: Tensor) -> Tensor:
    """The tensor out of the parts of all ranks, without its history."""
    live: Any = value
    if hasattr(live, "ds_id"):
        from rlvr.distributed import zero

        return zero.whole(live)
    return live.detach().full_tensor() if is_sharded(live) else live.detach()


@torch.no_grad()
def write(value: Tensor, live: Tensor) -> None:
    """Writes a whole tensor into a live one, of which each rank keeps its part."""
    if hasattr(live, "ds_id"):
        from rlvr.distributed import zero

        zero.write(value, live)
    else:
        live.copy_(part_of(value, live))


def part_of(value: Tensor, like: Tensor) -> Tensor:
    """This rank's part of a whole tensor, laid out as `like`."""
    if not is_sharded(like):
        return value
    from torch.distributed.tensor import distribute_tensor

    live: Any = like
    value = value.to(live.device)
    return distribute_tensor(value, live.device_mesh, live.placements, src_data_rank=None)


def parts_of_state(state: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """A saved optimizer state with every tensor laid out as its parameter."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if not any(map(is_sharded, parameters)):
        return state
    for index, values in state["state"].items():
        like = parameters[index]
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == like.shape:
                values[name] = part_of(value, like)
    return state


def moved(state: Any, device: torch.device) -> Any:
    """The state with every tensor on the device, however deep in dicts and lists it lies."""
    if isinstance(state, Tensor):
        return state.to(device)
    if isinstance(state, dict):
        return {key: moved(value, device) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(moved(value, device) for value in state)
    return state


def move_named_state(optimizer: Optimizer) -> None:
    """Moves state that is not kept under a parameter, which torch leaves where it was loaded.

    peft's LoRA-FA keeps its moments under names.
    """
    device = optimizer.param_groups[0]["params"][0].device
    for key, values in optimizer.state.items():
        if not isinstance(key, Tensor):
            optimizer.state[key] = moved(values, device)


def whole_copy(module: nn.Module) -> Any:
    """A copy of the module, its parameters whole."""
    parts = [p for p in module.parameters() if is_sharded(p)]
    if not parts:
        return copy.deepcopy(module)
    known: dict[int, Any] = {
        id(p): nn.Parameter(whole(p), requires_grad=p.requires_grad) for p in parts
    }
    with without_hooks(module):
        return copy.deepcopy(module, known)


@contextlib.contextmanager
def without_hooks(model: nn.Module) -> Iterator[None]:
    """Inside the block, no module calls the hooks that put it together by all ranks."""
    modules: list[Any] = list(model.modules())
    hooks = [(module._forward_pre_hooks, module._forward_hooks) for module in modules]
    for module in modules:
        module._forward_pre_hooks, module._forward_hooks = OrderedDict(), OrderedDict()
    try:
        yield
    finally:
        for module, (before, after) in zip(modules, hooks, strict=True):
            module._forward_pre_hooks, module._forward_hooks = before, after


@contextlib.contextmanager
def made_whole(places: Iterable[tuple[dict[Any, Any], Any]], only_main: bool) -> Iterator[None]:
    """Inside the block, whole tensors stand in these places of dicts where parts stood."""
    swapped, found = [], {}
    for holder, key in places:
        value = holder[key]
        if not is_sharded(value):
            continue
        swapped.append((holder, key, value))
        if id(value) not in found:
            full = whole(value)  # by all ranks
            found[id(value)] = full.cpu() if ranks.is_main() or not only_main else None
    try:
        for holder, key, value in swapped:
            full = found[id(value)]
            if full is not None:
                is_parameter = isinstance(value, nn.Parameter)
                holder[key] = nn.Parameter(full, value.requires_grad) if is_parameter else full
        yield
    finally:
        for holder, key, value in swapped:
            holder[key] = value


def places_of(holders: Iterable[dict[Any, Any]]) -> Iterator[tuple[dict[Any, Any], Any]]:
    for holder in holders:
        for key in holder:
            yield holder, key
