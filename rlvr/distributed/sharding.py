"""Passes on what moved, until its callers take a World: rlvr.distributed.strategy and
rlvr.policy.sharded."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from rlvr.common.errors import ConfigError
from rlvr.common.packages import is_vllm_installed
from rlvr.distributed import ranks
from rlvr.policy.sharded import IDLE as IDLE
from rlvr.policy.sharded import gathered as gathered
from rlvr.policy.sharded import launcher_sharding as _way

if TYPE_CHECKING:
    from rlvr.adapters.base import Method
    from rlvr.config.train import TrainRecipe
    from rlvr.policy.policy import Policy


def check(recipe: TrainRecipe, method: Method) -> None:
    """Refuses, before anything loads, what cannot be sharded. Raises: ConfigError."""
    way = _way()
    if way is None or ranks.size() == 1:
        return
    settings: dict[str, tuple[str, str]] = way.SETTINGS
    for name, (wanted, reason) in settings.items():
        found = os.environ.get(name, wanted)
        if found.lower() not in wanted.lower().split(" or "):
            raise ConfigError(
                f"accelerate's configuration gives {name} = {found}: {reason}; set it to {wanted},"
                f" as recipes/accelerate/{way.RECIPE} does"
            )
    if recipe.model.dtype == "float16" and not way.SCALES_LOSS:
        raise ConfigError(
            'model.dtype = "float16": DeepSpeed clips before our loss scale could be taken out; set'
            ' it to "bfloat16" or "float32", or launch with recipes/accelerate/fsdp2.yaml'
        )
    engine = recipe.rollout.engine
    conflicts = {
        f'adapter.method = "{method.name}"': not can_shard(method),
        'rollout.engine = "transformers"': engine == "transformers",
        'rollout.engine = "auto" without vLLM': engine == "auto" and not is_vllm_installed(),
        "train.compile = true": recipe.train.compile,
        "adapter.emulate_inplace_merge = true": recipe.adapter.emulate_inplace_merge,
        f'optim.name = "{recipe.optim.name}"': recipe.optim.name != "adamw",
        f'algorithm.reference = "{recipe.algorithm.reference}"': not method.keeps_base
        and recipe.algorithm.kl_beta > 0
        and recipe.algorithm.reference != "initial",
    }
    for setting, conflict in conflicts.items():
        if conflict:
            raise ConfigError(
                f"{setting}: does not work on a sharded policy; change it, or launch with"
                " recipes/accelerate/ddp.yaml"
            )


def can_shard(method: Method) -> bool:
    return method.can_shard


def num_passes(policy: Policy, num_mine: int) -> int:
    return policy.strategy.num_passes(num_mine)


def agreed(policy: Policy, safe_point: Callable[[], None]) -> Callable[[], None]:
    return policy.strategy.synchronized_stop(safe_point)


def takes_part(policy: Policy) -> bool:
    return policy.strategy.takes_part
