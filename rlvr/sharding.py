"""Sharded training: every rank holds a part of each weight, gradient and optimizer state (FSDP2).

Weights come together layer by layer in the forward and backward pass, and tensor by tensor where
something needs them whole: sync, checkpoint, manifest. All ranks take part each time, in the same
order. Between passes a sharded parameter is a DTensor; a tensor that is not sharded goes through
everything here as it is.
"""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from rlvr import ranks
from rlvr.packing import TokenRow
from rlvr.recipe import ConfigError
from rlvr.rollout import vllm_local

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from rlvr.adapters.base import Method
    from rlvr.config import TrainRecipe
    from rlvr.policy import Policy

T = TypeVar("T")

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
"""What accelerate's launcher may say about sharding, and why nothing else. The rest of its settings
is FSDP1's, or about checkpoints that are not accelerate's; FSDP_RESHARD_AFTER_FORWARD is obeyed."""

IDLE = TokenRow([0], [0])
"""The row of a pass that is only made because another rank makes one."""


def is_asked() -> bool:
    """Whether the launcher's configuration asks for sharded training."""
    return ranks.size() > 1 and _is_true("ACCELERATE_USE_FSDP", "false")


def _is_true(name: str, default: str) -> bool:
    return os.environ.get(name, default).lower() == "true"


def check(recipe: TrainRecipe, method: Method) -> None:
    """Refuses, before anything loads, what cannot be sharded. Raises: ConfigError."""
    if not is_asked():
        return
    for name, (wanted, reason) in SETTINGS.items():
        found = os.environ.get(name, wanted)
        if found.lower() != wanted.lower():
            raise ConfigError(
                f"accelerate's configuration gives {name} = {found}: {reason}; set it to {wanted},"
                " as recipes/accelerate/fsdp2.yaml does"
            )
    engine = recipe.rollout.engine
    conflicts = {
        f'adapter.method = "{method.name}"': not can_shard(method),
        'rollout.engine = "transformers"': engine == "transformers",
        'rollout.engine = "auto" without vLLM': engine == "auto" and not vllm_local.is_installed(),
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
    """Whether the method can be trained in parts.

    Not what vLLM cannot serve, what trains one tensor for several layers, and what looks at whole
    gradients or weights in an optimizer or schedule of its own.
    """
    whole = method.shared or method.own_optimizer or method.schedule is not None
    return bool(method.syncs) and not whole


class _Root(nn.Module):
    """What holds the weights outside of layers together while a whole pass runs.

    Our passes call the decoder and the head one by one; torch puts weights together around modules.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[], Any]) -> Any:
        return work()


def shard(policy: Policy) -> None:
    """Leaves this rank its part of the policy and of its reference; before there is an optimizer.

    The units are the decoder's layers, and embeddings, last norm and head together. Gradients are
    summed over the ranks, not averaged: a row's weight is that in the whole step.
    """
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh(policy.device.type, (ranks.size(),))
    compute = None if policy.method.keeps_base else policy.dtype
    policy.roots[policy.causal_lm] = _shard(policy.model, mesh, compute)
    if policy.reference is not None:
        policy.roots[policy.reference] = _shard(policy.reference, mesh, None)
    if policy.device.type == "cuda":
        torch.cuda.empty_cache()  # what was whole until now is vLLM's


def _shard(model: nn.Module, mesh: Any, compute: torch.dtype | None) -> nn.Module:
    """The root. compute: type in which the layers' weights come together; None: their own.

    Autocast's copies of float32 weights would stay from a layer's forward to its backward pass.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    frees = _is_true("FSDP_RESHARD_AFTER_FORWARD", "true")
    types = MixedPrecisionPolicy(compute, torch.float32, cast_forward_inputs=False)
    units: list[Any] = [
        fully_shard(layer, mesh=mesh, reshard_after_forward=frees, mp_policy=types)
        for layer in model.modules()
        if isinstance(layer, GradientCheckpointingLayer)
    ]
    units.append(fully_shard(_Root(model), mesh=mesh))
    for unit in units:
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)  # gloo cannot sum and divide at once
    return units[-1]


def run(root: nn.Module | None, work: Callable[[], T]) -> T:
    """work(), a forward pass of the model under `root`; None: of a model that is not sharded."""
    if root is None:
        return work()
    result = root(work)
    if not torch.is_grad_enabled():  # else the backward pass takes the weights apart
        from torch.distributed.fsdp import FSDPModule

        for unit in root.modules():
            if isinstance(unit, FSDPModule):
                unit.reshard()
    return result


def num_passes(policy: Policy, num_mine: int) -> int:
    """How many passes this rank makes: its own number, or, sharded, the most that any rank has."""
    return max(ranks.gather(num_mine)) if policy.roots else num_mine


def agreed(policy: Policy, safe_point: Callable[[], None]) -> Callable[[], object]:
    """The safe point; sharded, one that stops all ranks or none, since they need each other."""
    return (lambda: ranks.together(safe_point)) if policy.roots else safe_point


def takes_part(policy: Policy) -> bool:
    """Whether this rank has to run what rank 0 does with the policy's weights."""
    return ranks.is_main() or bool(policy.roots)


def is_sharded(value: Any) -> bool:
    """Whether this is a part of a tensor."""
    return hasattr(value, "full_tensor")


def whole(value: Tensor) -> Tensor:
    """The tensor out of the parts of all ranks."""
    return value.full_tensor() if is_sharded(value) else value  # pyright: ignore


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


def whole_copy(module: nn.Module) -> Any:
    """A copy of the module, its parameters whole."""
    parts = [p for p in module.parameters() if is_sharded(p)]
    known: dict[int, Any] = {
        id(p): nn.Parameter(whole(p.detach()), requires_grad=p.requires_grad) for p in parts
    }
    return copy.deepcopy(module, known)


@contextlib.contextmanager
def gathered(
    policy: Policy, optimizer: Optimizer | None = None, only_main: bool = False
) -> Iterator[None]:
    """Inside the block, what `policy.save` writes is whole, in CPU memory; so is optimizer state.

    The frozen base of an adapter stays in parts. only_main: whole on rank 0, which others help.
    """
    swapped, found = [], {}
    for holder, key in [*_saved(policy), *_state(optimizer)]:
        value = holder[key]
        if not is_sharded(value):
            continue
        swapped.append((holder, key, value))
        if id(value) not in found:
            full = whole(value.detach())  # by all ranks
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


def _saved(policy: Policy) -> Iterator[tuple[dict[str, Any], str]]:
    wanted = {id(value) for value in policy.saved_tensors()}
    for module in policy.model.modules():
        for name, parameter in module._parameters.items():
            if id(parameter) in wanted:
                yield module._parameters, name


def _state(optimizer: Optimizer | None) -> Iterator[tuple[dict[str, Any], str]]:
    for state in optimizer.state.values() if optimizer else ():
        for name in state:
            yield state, name
