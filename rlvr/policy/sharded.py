"""Shards a policy as the launcher's configuration asks."""

from __future__ import annotations

import os
from types import ModuleType
from typing import TYPE_CHECKING

import torch

from rlvr.common.errors import ConfigError
from rlvr.distributed import fsdp, zero
from rlvr.distributed.world import launcher_sets
from rlvr.policy.packing import TokenRow
from rlvr.policy.policy import Policy

if TYPE_CHECKING:
    from rlvr.config.train import OptimConfig

IDLE = TokenRow([0], [0])
"""The row of a pass that is only made because another rank makes one."""


def launcher_sharding() -> ModuleType | None:
    """The module that shards as the launcher's configuration asks, `fsdp` or `zero`, or None."""
    if launcher_sets("ACCELERATE_USE_FSDP"):
        return fsdp
    return zero if launcher_sets("ACCELERATE_USE_DEEPSPEED") else None


def check_launcher(way: ModuleType) -> None:
    """Refuses a launcher's configuration that is not one of ours. Raises: ConfigError."""
    settings: dict[str, tuple[str, str]] = way.SETTINGS
    for name, (wanted, reason) in settings.items():
        found = os.environ.get(name, wanted)
        if found.lower() not in wanted.lower().split(" or "):
            raise ConfigError(
                f"accelerate's configuration gives {name} = {found}: {reason}; set it to {wanted},"
                f" as recipes/accelerate/{way.RECIPE} does"
            )


def shard_policy(policy: Policy, optim: OptimConfig) -> None:
    """Shards the policy and its reference over the ranks of its world, as the launcher's
    configuration asks; not at all where it does not. To be called before there is an optimizer."""
    way, world = launcher_sharding(), policy.strategy.world
    if way is None or world.size == 1:
        return
    models = (policy.model, policy.causal_lm, policy.reference)
    if way is fsdp:
        # an adapter's frozen base is in the compute type already
        compute = None if policy.method.keeps_base else policy.dtype
        policy.strategy = fsdp.Fsdp(world, *models, compute)
    else:
        policy.strategy = zero.Zero(
            world,
            *models,
            optimizer=policy.method.optimizer(policy.model, policy.adapter, optim),
            max_grad_norm=optim.max_grad_norm,
            idle_pass=lambda: policy.logprobs([IDLE], 1.0)[0].sum(),
        )
    if policy.device.type == "cuda":
        torch.cuda.empty_cache()  # vLLM, which loads next, counts memory that torch only caches
