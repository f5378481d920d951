"""One copy of a frozen base in memory for all policies that are loaded from it."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

_kept: dict[tuple[object, ...], nn.Module] | None = None


@contextlib.contextmanager
def sharing_bases() -> Iterator[None]:
    """Inside the block, `shared` loads every base once."""
    global _kept
    _kept = {}
    try:
        yield
    finally:
        _kept = None


def shared(key: tuple[object, ...], load: Callable[[], Any]) -> Any:
    """The model that `load` gives; inside `sharing_bases` one with the same tensors for each call
    with this key.

    Every caller has modules and parameters of its own, so adapters, flags and new values stay its
    own. Only numbers written in place would reach the others: see `own_trained`.
    """
    if _kept is None:
        return load()
    if key not in _kept:
        _kept[key] = load()
    base = _kept[key]
    # deepcopy takes these in place of copies of its own; buffers it does copy
    memo: dict[int, Any] = {
        id(p): nn.Parameter(p.detach(), requires_grad=p.requires_grad) for p in base.parameters()
    }
    return copy.deepcopy(base, memo)


def own_trained(model: nn.Module) -> None:
    """Gives the model its own memory for what is trained: optimizers write in place."""
    if _kept is None:
        return
    # by address: the model's parameters are other objects on the same memory
    kept = {p.data_ptr() for base in _kept.values() for p in base.parameters()}
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.data_ptr() in kept:
            parameter.data = parameter.data.clone()
