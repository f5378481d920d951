"""Passes on what moved to rlvr.distributed.strategy and rlvr.policy.sharded, for now."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rlvr.policy.sharded import IDLE as IDLE
from rlvr.policy.sharded import gathered as gathered

if TYPE_CHECKING:
    from rlvr.policy.policy import Policy


def num_passes(policy: Policy, num_mine: int) -> int:
    return policy.strategy.num_passes(num_mine)


def agreed(policy: Policy, safe_point: Callable[[], None]) -> Callable[[], None]:
    return policy.strategy.synchronized_stop(safe_point)


def takes_part(policy: Policy) -> bool:
    return policy.strategy.takes_part
