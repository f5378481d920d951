"""Sharding by DeepSpeed's ZeRO: stage 2, gradients and optimizer state; stage 3, weights too.

Under stage 2 every rank has all weights, and a shard of their float32 master copy. Under stage 3 a
parameter between passes is empty, and DeepSpeed's attributes on it describe the full one.
DeepSpeed averages gradients over the ranks, so a loss is multiplied by their number.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from rlvr.distributed.strategy import Root, ShardingStrategy
from rlvr.distributed.world import BUCKET_ELEMENTS, World

if TYPE_CHECKING:
    from torch.optim import Optimizer

T = TypeVar("T")

STAGE = "ACCELERATE_DEEPSPEED_ZERO_STAGE"
RECIPE = "zero3.yaml"
SCALES_LOSS = False
SETTINGS = {
    STAGE: ("3 or 2", "the others leave gradients whole"),
    "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": ("none", "its state stays on the GPU"),
    "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": ("none", "weights stay on the GPU"),
    "ACCELERATE_DEEPSPEED_ZERO3_INIT": (
        "false",
        "adapters start from whole weights, which are divided afterwards",
    ),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("1", "train.tokens_per_microbatch decides"),
    "ACCELERATE_GRADIENT_CLIPPING": ("none", "the recipe's optim.max_grad_norm decides"),
    "ACCELERATE_DEEPSPEED_CONFIG_FILE": ("none", "the recipe and this yaml say everything"),
}
"""What accelerate's launcher may say about DeepSpeed, and why nothing else."""

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's state of a parameter, beside the number of its steps."""


def _deepspeed(device: torch.device) -> Any:
    """The library, quieter."""
    import deepspeed

    deepspeed.utils.logger.setLevel(logging.WARNING)
    if device.type == "cpu":  # else it compiles its own communication in shared memory
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _make_state(optimizer: Optimizer) -> None:
    """Makes the state that AdamW would make in its first step; without it DeepSpeed finds only that
    of the first parameter group."""
    rates = [group["lr"] for group in optimizer.param_groups]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for parameter in parameters:
        parameter.grad = None
        optimizer.state[parameter]["step"].zero_()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def _root(model: nn.Module, causal_lm: Any, stage: int) -> Root:
    """A module around whole passes, with the head, whose weight is read outside of its forward."""
    import deepspeed

    root = Root(model)
    if stage == 3:
        for parameter in causal_lm.get_output_embeddings().parameters():
            deepspeed.zero.register_external_parameter(root, parameter)
    return root


class Zero(ShardingStrategy):
    """Trains by DeepSpeed's engine, with an optimizer like ours over its shards.

    Our own optimizer keeps the settings, and state only while it is written.
    """

    is_sharded = True

    def __init__(
        self,
        world: World,
        model: nn.Module,
        causal_lm: nn.Module,
        reference: nn.Module | None,
        optimizer: Optimizer,
        max_grad_norm: float,
        idle_pass: Callable[[], Tensor],
    ) -> None:
        """Shards a policy's model, with `causal_lm` inside; under stage 3 its reference too.

        idle_pass(): a number with a gradient, from the smallest pass of the policy that there is.
        """
        super().__init__(world)
        deepspeed = _deepspeed(next(model.parameters()).device)
        stage = int(os.environ.get(STAGE, "3"))
        config = {
            "train_micro_batch_size_per_gpu": 1,  # DeepSpeed's own batches are not used
            # our `step` is the boundary, however many passes came before
            "managed_gradient_accumulation": False,
            "gradient_clipping": max_grad_norm,
            "zero_allow_untested_optimizer": True,
            "zero_optimization": {
                "stage": stage,
                "reduce_bucket_size": BUCKET_ELEMENTS,
                "allgather_bucket_size": BUCKET_ELEMENTS,
                "stage3_param_persistence_threshold": 0,  # small weights are sharded too
            },
        }
        root = _root(model, causal_lm, stage)
        self._engine = deepspeed.initialize(model=root, optimizer=optimizer, config=config)[0]
        if stage == 2:
            _make_state(optimizer)
        self._engines = {causal_lm: self._engine}
        if reference is not None and stage == 3:
            root = _root(reference, reference, stage)
            self._engines[reference] = deepspeed.initialize(model=root, config=config)[0]
        self.shards_weights = stage == 3
        self._idle_pass = idle_pass

    def run(self, model: nn.Module, work: Callable[[], T]) -> T:
        engine = self._engines.get(model)
        return work() if engine is None else engine(work)

    def backward(self, loss: Tensor) -> None:
        self._engine.backward(loss * self.world.size, scale_wrt_gas=False)

    def step(
        self, parameters: list[nn.Parameter], optimizer: Optimizer, max_norm: float, valid: bool
    ) -> float | None:
        if not valid:
            self._idle(math.nan)  # DeepSpeed skips what is not finite, on all ranks
        # DeepSpeed steps an optimizer of its own, which no schedule reaches
        self._set(optimizer.param_groups)
        self._engine.step()
        applied = self._engine.was_step_applied()
        return float(self._engine.get_global_grad_norm()) if applied else None

    def _set(self, groups: list[dict[str, Any]], **more: Any) -> None:
        """Gives the groups of DeepSpeed's optimizer the settings of these."""
        for theirs, ours in zip(self._engine.optimizer.param_groups, groups, strict=True):
            theirs.update({k: v for k, v in ours.items() if k != "params"} | more)

    def _idle(self, weight: float) -> None:
        """Makes a pass whose loss is `weight` times a number: DeepSpeed steps only after one."""
        self.backward(weight * self._idle_pass())

    def loaded(self) -> None:
        self._engine.optimizer.refresh_fp32_params()

    def load_state(self, optimizer: Optimizer, saved: dict[str, Any]) -> None:
        optimizer.load_state_dict({"state": {}, "param_groups": saved["param_groups"]})
        if not saved["state"]:
            return
        self._set(optimizer.param_groups, lr=0.0)
        self._idle(0.0)
        self._engine.step()  # makes the state, moves nothing
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for index, values in saved["state"].items():
            for name in MOMENTS:
                self._write_state(parameters[index], name, values[name])
        for mine in self._engine.optimizer.state.values():
            mine["step"].fill_(float(saved["state"][0]["step"]))

    def _write_state(self, parameter: Any, name: str, value: Tensor) -> None:
        from deepspeed import utils

        value = value.to(parameter.device)
        if not self.shards_weights:
            utils.safe_set_full_optimizer_state(parameter, value, name)
            return
        length = parameter.ds_tensor.numel()  # the last shard is padded
        padded = functional.pad(value.flatten(), (0, length * self.world.size - value.numel()))
        mine = padded.narrow(0, length * self.world.rank, length)
        utils.safe_set_local_optimizer_state(parameter, mine, name)

    @contextlib.contextmanager
    def gathered_state(self, optimizer: Optimizer, only_main: bool) -> Iterator[None]:
        from deepspeed.utils import safe_get_full_optimizer_state

        keeps = self.keeps(only_main)
        found = [state["step"] for state in self._engine.optimizer.state.values()]
        for group in optimizer.param_groups if found and float(found[0]) else ():
            for parameter in group["params"]:
                moments = {}
                for name in MOMENTS:
                    full: Any = safe_get_full_optimizer_state(parameter, name)  # by all ranks
                    moments |= {name: full.cpu()} if keeps else {}
                if keeps:
                    optimizer.state[parameter] = {"step": found[0].cpu().clone()} | moments
        try:
            yield
        finally:
            optimizer.state.clear()
