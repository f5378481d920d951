"""A policy in parts: every rank holds a part of weights, gradients and optimizer state.

Two ways to hold the parts, as accelerate's configuration says: FSDP2 (`rlvr.fsdp`) and DeepSpeed's
ZeRO (`rlvr.zero`). Here is what both need, and `Holding`, which is what they do differently. Where
weights are in parts, they come together module by module in the forward and backward pass, and
tensor by tensor where something needs them whole: sync, checkpoint, manifest. All ranks take part
each time, in the same order. A tensor that is not in parts goes through everything here as it is.
"""

from __future__ import annotations

import contextlib
import copy
import math
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from rlvr import ranks
from rlvr.packing import TokenRow
from rlvr.recipe import ConfigError
from rlvr.rollout import vllm_local

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from rlvr.adapters.base import Method
    from rlvr.config import OptimConfig, TrainRecipe
    from rlvr.policy import Policy

T = TypeVar("T")

IDLE = TokenRow([0], [0])
"""The row of a pass that is only made because another rank makes one."""


def _way() -> ModuleType | None:
    """How the launcher's configuration wants the policy to be held; None: whole."""
    if is_true("ACCELERATE_USE_FSDP"):
        from rlvr import fsdp

        return fsdp
    if is_true("ACCELERATE_USE_DEEPSPEED"):
        from rlvr import zero

        return zero
    return None


def is_asked() -> bool:
    """Whether the launcher's configuration asks for a policy in parts."""
    return ranks.size() > 1 and _way() is not None


def is_true(name: str, default: str = "false") -> bool:
    """Whether a variable of the environment says so."""
    return os.environ.get(name, default).lower() == "true"


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


class Root(nn.Module):
    """What holds the weights outside of layers together while a whole pass runs.

    Our passes call the decoder and the head one by one; weights come together around modules.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[], Any]) -> Any:
        return work()


class Holding:
    """What a rank holds of a policy, and what follows for training it. Here: all of it.

    in_parts: all ranks make the same passes. parts_weights: a weight has to be put together.
    """

    in_parts = False
    parts_weights = False

    def run(self, model: nn.Module, work: Callable[[], T]) -> T:
        """work(), a forward pass of the policy's model or of its reference."""
        return work()

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of this rank's part of the loss."""
        loss.backward()

    def step(
        self, parameters: list[nn.Parameter], optimizer: Optimizer, max_norm: float, valid: bool
    ) -> float | None:
        """Clips and makes the optimizer's step; the gradient's norm before.

        None where the update is left out: it is not `valid`, or its gradient is not finite.
        """
        norm = float(whole(torch.nn.utils.clip_grad_norm_(parameters, max_norm)))
        if not valid or not math.isfinite(norm):
            return None
        optimizer.step()
        return norm

    def loaded(self) -> None:
        """Takes over weights that were written into the policy."""

    def load_state(self, optimizer: Optimizer, saved: dict[str, Any]) -> None:
        """Puts a whole optimizer state where each rank holds its own."""
        optimizer.load_state_dict(_parts_of_state(saved, optimizer))

    @contextlib.contextmanager
    def whole_state(self, optimizer: Optimizer, only_main: bool) -> Iterator[None]:
        """Inside the block, optimizer.state is whole, in CPU memory; see `gathered`."""
        with _swapped(_places(optimizer.state.values()), only_main):
            yield


def shard(policy: Policy, optim: OptimConfig) -> None:
    """Leaves this rank its part of the policy and of its reference; before there is an optimizer.

    Gradients are summed over the ranks, not averaged: a row's weight is that in the whole step.
    """
    way = _way()
    assert way is not None, "the launcher's configuration asks for it"
    policy.holding = way.hold(policy, optim)
    if policy.device.type == "cuda":
        torch.cuda.empty_cache()  # what was whole until now is vLLM's


def num_passes(policy: Policy, num_mine: int) -> int:
    """How many passes this rank makes: its own number, or, sharded, the most that any rank has."""
    return max(ranks.gather(num_mine)) if policy.holding.in_parts else num_mine


def agreed(policy: Policy, safe_point: Callable[[], None]) -> Callable[[], object]:
    """The safe point; sharded, one that stops all ranks or none, since they need each other."""
    return (lambda: ranks.together(safe_point)) if policy.holding.in_parts else safe_point


def takes_part(policy: Policy) -> bool:
    """Whether this rank has to run what rank 0 does with the policy's weights."""
    return ranks.is_main() or policy.holding.in_parts


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
        from rlvr import zero

        return zero.whole(live)
    return live.detach().full_tensor() if is_sharded(live) else live.detach()


@torch.no_grad()
def write(value: Tensor, live: Tensor) -> None:
    """Writes a whole tensor into a live one, of which each rank keeps its part."""
    if hasattr(live, "ds_id"):
        from rlvr import zero

        zero.write(value, live)
    else:
        live.copy_(_part_of(value, live))


def _part_of(value: Tensor, like: Tensor) -> Tensor:
    """This rank's part of a whole tensor, laid out as `like`."""
    if not is_sharded(like):
        return value
    from torch.distributed.tensor import distribute_tensor

    live: Any = like
    value = value.to(live.device)
    return distribute_tensor(value, live.device_mesh, live.placements, src_data_rank=None)


def _parts_of_state(state: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """A saved optimizer state with every tensor laid out as its parameter."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if not any(map(is_sharded, parameters)):
        return state
    for index, values in state["state"].items():
        like = parameters[index]
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == like.shape:
                values[name] = _part_of(value, like)
    return state


def whole_copy(module: nn.Module) -> Any:
    """A copy of the module, its parameters whole."""
    parts = [p for p in module.parameters() if is_sharded(p)]
    if not parts:
        return copy.deepcopy(module)
    known: dict[int, Any] = {
        id(p): nn.Parameter(whole(p), requires_grad=p.requires_grad) for p in parts
    }
    with _without_hooks(module):
        return copy.deepcopy(module, known)


@contextlib.contextmanager
def _without_hooks(model: nn.Module) -> Iterator[None]:
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
def gathered(
    policy: Policy, optimizer: Optimizer | None = None, only_main: bool = False
) -> Iterator[None]:
    """Inside the block, what `policy.save` writes is whole, in CPU memory; so is optimizer state.

    The frozen base of an adapter stays in parts. only_main: whole on rank 0, which others help.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_swapped(_saved(policy), only_main))
        if policy.holding.parts_weights:
            stack.enter_context(_without_hooks(policy.model))
        if optimizer is not None:
            stack.enter_context(policy.holding.whole_state(optimizer, only_main))
        yield


@contextlib.contextmanager
def _swapped(places: Iterable[tuple[dict[Any, Any], Any]], only_main: bool) -> Iterator[None]:
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


def _saved(policy: Policy) -> Iterator[tuple[dict[Any, Any], Any]]:
    wanted = {id(value) for value in policy.saved_tensors()}
    for module in policy.model.modules():
        for name, parameter in module._parameters.items():
            if id(parameter) in wanted:
                yield module._parameters, name


def _places(holders: Iterable[dict[Any, Any]]) -> Iterator[tuple[dict[Any, Any], Any]]:
    for holder in holders:
        for key in holder:
            yield holder, key
