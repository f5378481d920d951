"""A policy in parts: every rank holds a part of weights, gradients and optimizer state.

Two ways to hold the parts, as accelerate's configuration says: FSDP2 (`fsdp`) and DeepSpeed's
ZeRO (`zero`). Here is what both need, and `Holding`, which is what they do differently. Where
weights are in parts, they come together module by module in the forward and backward pass, and
tensor by tensor (`sharded_tensors`) where something needs them whole: sync, checkpoint, manifest.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from rlvr.common.errors import ConfigError
from rlvr.distributed import ranks
from rlvr.distributed import sharded_tensors as parts
from rlvr.policy.packing import TokenRow

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from rlvr.adapters.base import Method
    from rlvr.config.train import OptimConfig
    from rlvr.policy.policy import Policy

T = TypeVar("T")

IDLE = TokenRow([0], [0])
"""The row of a pass that is only made because another rank makes one."""


def _way() -> ModuleType | None:
    """How the launcher's configuration wants the policy to be held; None: whole."""
    if is_true("ACCELERATE_USE_FSDP"):
        from rlvr.distributed import fsdp

        return fsdp
    if is_true("ACCELERATE_USE_DEEPSPEED"):
        from rlvr.distributed import zero

        return zero
    return None


def is_asked() -> bool:
    """Whether the launcher's configuration asks for a policy in parts."""
    return ranks.size() > 1 and _way() is not None


def is_true(name: str, default: str = "false") -> bool:
    """Whether a variable of the environment says so."""
    return os.environ.get(name, default).lower() == "true"


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
    scale: a power of two that gradients are multiplied by until `step` (`rlvr.policy.loss_scale`).
    """

    in_parts = False
    parts_weights = False
    scale = 1.0

    @property
    def world(self):
        from rlvr.distributed.world import World

        return World.alone()

    @property
    def is_sharded(self):
        return self.in_parts

    @property
    def shards_weights(self):
        return self.parts_weights

    @property
    def takes_part(self):
        return True

    def num_passes(self, n):
        return n

    def synchronized_stop(self, check):
        return check

    def run(self, model: nn.Module, work: Callable[[], T]) -> T:
        """work(), a forward pass of the policy's model or of its reference."""
        return work()

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of this rank's part of the loss, times `scale`."""
        (loss if self.scale == 1 else loss * self.scale).backward()

    def step(
        self, parameters: list[nn.Parameter], optimizer: Optimizer, max_norm: float, valid: bool
    ) -> float | None:
        """Takes `scale` out, clips and makes the optimizer's step; the gradient's norm before.

        None where the update is left out: it is not `valid`, or its gradient is not finite.
        """
        if self.scale != 1:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad /= self.scale
        norm = float(parts.whole(torch.nn.utils.clip_grad_norm_(parameters, max_norm)))
        if not valid or not math.isfinite(norm):
            return None
        optimizer.step()
        return norm

    def loaded(self) -> None:
        """Takes over weights that were written into the policy."""

    def load_state(self, optimizer: Optimizer, saved: dict[str, Any]) -> None:
        """Puts a whole optimizer state where each rank holds its own."""
        optimizer.load_state_dict(parts.parts_of_state(saved, optimizer))
        parts.move_named_state(optimizer)

    @contextlib.contextmanager
    def whole_state(self, optimizer: Optimizer, only_main: bool) -> Iterator[None]:
        """Inside the block, optimizer.state is whole, in CPU memory; see `gathered`."""
        with parts.made_whole(parts.places_of(optimizer.state.values()), only_main):
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


def agreed(policy: Policy, safe_point: Callable[[], None]) -> Callable[[], None]:
    """The safe point; sharded, one that stops all ranks or none, since they need each other."""
    return ranks.agreed(safe_point, ranks.size() if policy.holding.in_parts else 1)


def takes_part(policy: Policy) -> bool:
    """Whether this rank has to run what rank 0 does with the policy's weights."""
    return ranks.is_main() or policy.holding.in_parts


@contextlib.contextmanager
def gathered(
    policy: Policy, optimizer: Optimizer | None = None, only_main: bool = False
) -> Iterator[None]:
    """Inside the block, what `policy.save` writes is whole, in CPU memory; so is optimizer state.

    The frozen base of an adapter stays in parts. only_main: whole on rank 0, which others help.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(parts.made_whole(_saved(policy), only_main))
        if policy.holding.parts_weights:
            stack.enter_context(parts.without_hooks(policy.model))
        if optimizer is not None:
            stack.enter_context(policy.holding.whole_state(optimizer, only_main))
        yield


def _saved(policy: Policy) -> Iterator[tuple[dict[Any, Any], Any]]:
    wanted = {id(value) for value in policy.saved_tensors()}
    for module in policy.model.modules():
        for name, parameter in module._parameters.items():
            if id(parameter) in wanted:
                yield module._parameters, name
