"""A policy in parts by FSDP2, torch's `fully_shard`: between passes a parameter is a DTensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from rlvr.distributed import ranks
from rlvr.distributed.sharding import Holding, Root, is_true

if TYPE_CHECKING:
    from rlvr.config.train import OptimConfig
    from rlvr.policy.policy import Policy

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


def hold(policy: Policy, optim: OptimConfig) -> Fsdp:
    """Divides the policy and its reference among the ranks."""
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh(policy.device.type, (ranks.size(),))
    compute = None if policy.method.keeps_base else policy.dtype
    roots = {policy.causal_lm: _shard(policy.model, mesh, compute)}
    if policy.reference is not None:
        roots[policy.reference] = _shard(policy.reference, mesh, None)
    return Fsdp(roots)


class Fsdp(Holding):
    """Parts of DTensors. The units are the decoder's layers, and embeddings, last norm and head
    together."""

    in_parts = True
    parts_weights = True

    def __init__(self, roots: dict[nn.Module, nn.Module]) -> None:
        """roots: what puts a model together for a pass."""
        self._roots = roots

    def run(self, model: nn.Module, work: Callable[[], T]) -> T:
        root = self._roots[model]
        result = root(work)
        if not torch.is_grad_enabled():  # else the backward pass takes the weights apart
            from torch.distributed.fsdp import FSDPModule

            for unit in root.modules():
                if isinstance(unit, FSDPModule):
                    unit.reshard()
        return result


def _shard(model: nn.Module, mesh: Any, compute: torch.dtype | None) -> nn.Module:
    """The root. compute: type in which the layers' weights come together; None: their own.

    Autocast's copies of float32 weights would stay from a layer's forward to its backward pass.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    frees = is_true("FSDP_RESHARD_AFTER_FORWARD", "true")
    types = MixedPrecisionPolicy(compute, torch.float32, cast_forward_inputs=False)
    units: list[Any] = [
        fully_shard(layer, mesh=mesh, reshard_after_forward=frees, mp_policy=types)
        for layer in model.modules()
        if isinstance(layer, GradientCheckpointingLayer)
    ]
    units.append(fully_shard(Root(model), mesh=mesh))
    for unit in units:
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)  # gloo cannot sum and divide at once
    return units[-1]
