"""Passes on what moved, until its callers take a World: rlvr.distributed.strategy and
rlvr.policy.sharded."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from rlvr.common.errors import ConfigError
from rlvr.distributed import ranks
from rlvr.policy.sharded import IDLE as IDLE
from rlvr.policy.sharded import gathered as gathered
from rlvr.policy.sharded import launcher_sharding as _way

if TYPE_CHECKING:
    from rlvr.adapters.base import Method
    from rlvr.policy.policy import Policy


def is_asked() -> bool:
    return ranks.size() > 1 and _way() is not None


def check_launcher() -> None:
    """Refuses a launcher's configuration that is not one of ours. Raises: ConfigError."""
    way = _way()
    if way is None:
        return
    settings: dict[str, tuple[str, str]] = way.SETTINGS
    for name, (wanted, reason) in settings.items():
        found = os.environ.get(name, wanted)
        if found.lower() not in wanted.lower().split(" or "):
            raise ConfigError(
                f"accelerate's configuration gives {name} = {found}: {reason}; set it to {wanted},"
                f" as recipes/accelerate/{way.RECIPE} does"
            )


def can_scale_loss() -> bool:
    """Whether the launcher's way of sharding lets float16 gradients be scaled before clipping."""
    way = _way()
    return way is None or way.SCALES_LOSS


def can_shard(method: Method) -> bool:
    return method.can_shard


def num_passes(policy: Policy, num_mine: int) -> int:
    return policy.strategy.num_passes(num_mine)


def agreed(policy: Policy, safe_point: Callable[[], None]) -> Callable[[], None]:
    return policy.strategy.synchronized_stop(safe_point)


def takes_part(policy: Policy) -> bool:
    return policy.strategy.takes_part
