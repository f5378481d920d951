"""Sharding: what part of the policy a rank has, and what follows for training it.

Two strategies shard, as accelerate's configuration asks: FSDP2 (`fsdp`) and DeepSpeed's ZeRO
(`zero`). Sharded weights are gathered module by module in the forward and backward pass, and tensor
by tensor (`sharded_tensors`) where something needs them in full: sync, checkpoint, manifest.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from rlvr.distributed import sharded_tensors
from rlvr.distributed.world import World

if TYPE_CHECKING:
    from torch.optim import Optimizer

T = TypeVar("T")


class Root(nn.Module):
    """A module whose forward pass runs any function of the model inside.

    Our passes call the decoder and the head one by one, but FSDP and ZeRO gather weights in hooks
    around modules: this one's cover what lies outside of the layers.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[], Any]) -> Any:
        return work()


class ShardingStrategy:
    """How the ranks of a `world` share a policy. This one does not: each has all of it.

    is_sharded: all ranks make the same passes. shards_weights: weights have to be gathered.
    scale: a power of two that gradients are multiplied by until `step` (rlvr.policy.loss_scale).
    """

    is_sharded = False
    shards_weights = False
    scale = 1.0

    def __init__(self, world: World) -> None:
        self.world = world

    @property
    def takes_part(self) -> bool:
        """Whether this rank has to run what rank 0 does with the policy's weights."""
        return self.world.is_main or self.is_sharded

    def num_passes(self, num_mine: int) -> int:
        """Passes that this rank makes: its own number or, sharded, the most that any rank has."""
        return max(self.world.gather(num_mine)) if self.is_sharded else num_mine

    def synchronized_stop(self, safe_point: Callable[[], None]) -> Callable[[], None]:
        """The safe point; sharded, one that stops all ranks or none, since they need each other."""
        return self.world.synchronized_stop(safe_point, self.world.size if self.is_sharded else 1)

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

        None where the update is skipped: it is not `valid`, or its gradient is not finite.
        """
        # before clipping, whose limit is in units of the plain loss
        if self.scale != 1:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad /= self.scale
        norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
        # FSDP2's is a DTensor, of which this rank's value is a part
        norm = float(sharded_tensors.full_tensor(norm))
        if not valid or not math.isfinite(norm):
            return None
        optimizer.step()
        return norm

    def loaded(self) -> None:
        """Takes over weights that were written into the policy."""

    def load_state(self, optimizer: Optimizer, saved: dict[str, Any]) -> None:
        """Loads a full optimizer state, of which each rank keeps its shard."""
        optimizer.load_state_dict(sharded_tensors.local_state(saved, optimizer))
        sharded_tensors.move_named_state(optimizer)

    @contextlib.contextmanager
    def gathered_state(self, optimizer: Optimizer, only_main: bool) -> Iterator[None]:
        """Inside the block, optimizer.state is full, in CPU memory; only_main: on rank 0 alone."""
        slots = [(values, name) for values in optimizer.state.values() for name in values]
        with sharded_tensors.temporarily_gathered(slots, keep=self.keeps(only_main)):
            yield

    def keeps(self, only_main: bool) -> bool:
        """Whether this rank keeps what all ranks gather; only_main: for rank 0 alone."""
        return self.world.is_main or not only_main
