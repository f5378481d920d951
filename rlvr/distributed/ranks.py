"""Passes on to one World of this process, until every caller is given its own."""

from __future__ import annotations

from typing import Any

from rlvr.distributed import world as _module
from rlvr.distributed.shares import in_order as in_order
from rlvr.distributed.world import LostRanksError as Alone
from rlvr.distributed.world import World

__all__ = ["Alone", "in_order"]

_NAMES = {
    "gather": "gather",
    "together": "on_all_ranks",
    "from_main": "on_main",
    "spread": "scatter_work",
    "balanced": "my_share",
    "aside": "side_channel",
    "agreed": "synchronized_stop",
    "sum_gradients": "sum_gradients",
    "copy_from_main": "copy_from_main",
}
world = World.alone()


def join() -> World:
    global world
    world = _module.join_world()
    return world


def rank() -> int:
    return world.rank


def size() -> int:
    return world.size


def local_size() -> int:
    return world.local_size


def is_main() -> bool:
    return world.is_main


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(world, _NAMES[name])
    raise AttributeError(name)
