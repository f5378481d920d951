"""Sharding by FSDP2, torch's `fully_shard`: between passes every parameter is a DTensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from rlvr.distributed.strategy import Root, ShardingStrategy
from rlvr.distributed.world import World, launcher_sets

T = TypeVar("T")

RECIPE = "fsdp2.yaml"
SCALES_LOSS = True
"""Whether float16 can be trained: gradients come back before they are clipped."""
SETTINGS = {
    "FSDP_VERSION": ("2", "only the second is supported"),
    "FSDP_OFFLOAD_PARAMS": ("false", "weights stay on the GPU"),
    "FSDP_ACTIVATION_CHECKPOINTING": (
        "false",
        "the recipe's train.activation_checkpointing decides",
    ),
    "FSDP_AUTO_WRAP_POLICY": ("TRANSFORMER_BASED_WRAP", "the decoder's layers are the units"),
    "FSDP_CPU_RAM_EFFICIENT_LOADING": (
        "false",
        "transformers would leave the weights empty on all ranks but one",
    ),
}
"""What accelerate's launcher may say about FSDP, and why nothing else. The rest of its settings
is FSDP1's, or about checkpoints that are not accelerate's; FSDP_RESHARD_AFTER_FORWARD is obeyed."""


class Fsdp(ShardingStrategy):
    """Shards DTensors. The units are the decoder's layers; embeddings, last norm and head are one
    unit together."""

    is_sharded = True
    shards_weights = True

    def __init__(
        self,
        world: World,
        model: nn.Module,
        causal_lm: nn.Module,
        reference: nn.Module | None,
        compute: torch.dtype | None,
    ) -> None:
        """Shards a policy's model, with `causal_lm` inside, and its reference.

        compute: type in which the layers' weights are gathered; None: their own.
        """
        from torch.distributed.device_mesh import init_device_mesh

        super().__init__(world)
        device = next(model.parameters()).device
        mesh = init_device_mesh(device.type, (world.size,))
        self._roots = {causal_lm: _shard(model, mesh, compute)}
        if reference is not None:
            # None: frozen_copy left its linear weights in the compute type
            self._roots[reference] = _shard(reference, mesh, None)

    def run(self, model: nn.Module, work: Callable[[], T]) -> T:
        root = self._roots[model]
        result = root(work)
        if not torch.is_grad_enabled():  # else the backward pass frees the gathered weights
            from torch.distributed.fsdp import FSDPModule

            for unit in root.modules():
                if isinstance(unit, FSDPModule):
                    unit.reshard()
        return result


def _shard(model: nn.Module, mesh: Any, compute: torch.dtype | None) -> nn.Module:
    """The root module around a sharded model."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    frees = launcher_sets("FSDP_RESHARD_AFTER_FORWARD", "true")
    # gathered in the compute type: autocast's copies of float32 weights would stay in memory from a
    # layer's forward to its backward pass
    types = MixedPrecisionPolicy(compute, torch.float32, cast_forward_inputs=False)
    units: list[Any] = [
        fully_shard(layer, mesh=mesh, reshard_after_forward=frees, mp_policy=types)
        for layer in model.modules()
        if isinstance(layer, GradientCheckpointingLayer)
    ]
    # last: a unit takes the parameters that those inside it have left
    units.append(fully_shard(Root(model), mesh=mesh))
    for unit in units:
        # summed, not averaged: a row's weight in the loss is that in the step of all ranks
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)  # gloo cannot sum and divide at once
    return units[-1]
