"""A policy in parts by DeepSpeed's ZeRO: stage 2, gradients and optimizer state; 3, weights too.

Under stage 2 every weight stays whole on every rank, and its float32 master copy is in parts. Under
stage 3 a parameter between passes is empty, and DeepSpeed's attributes on it say what it was.
DeepSpeed averages gradients over the ranks: a loss counts as often as there are ranks.
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

from rlvr.distributed import ranks
from rlvr.distributed.sharding import IDLE, Holding, Root

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from rlvr.config.train import OptimConfig
    from rlvr.policy.policy import Policy

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


def hold(policy: Policy, optim: OptimConfig) -> Zero:
    """Divides the policy among the ranks; under stage 3 its reference too."""
    deepspeed = _deepspeed(policy.device)
    stage = int(os.environ.get(STAGE, "3"))
    config = {
        "train_micro_batch_size_per_gpu": 1,  # DeepSpeed's own batches are not used
        "managed_gradient_accumulation": False,
        "gradient_clipping": optim.max_grad_norm,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": stage,
            "reduce_bucket_size": ranks.BUCKET_ELEMENTS,
            "allgather_bucket_size": ranks.BUCKET_ELEMENTS,
            "stage3_param_persistence_threshold": 0,  # small weights are in parts too
        },
    }
    optimizer = policy.method.optimizer(policy.model, policy.adapter, optim)
    engine = deepspeed.initialize(
        model=_root(policy.model, policy.causal_lm, stage), optimizer=optimizer, config=config
    )[0]
    if stage == 2:
        _make_state(optimizer)
    engines = {policy.causal_lm: engine}
    if policy.reference is not None and stage == 3:
        root = _root(policy.reference, policy.reference, stage)
        engines[policy.reference] = deepspeed.initialize(model=root, config=config)[0]
    return Zero(policy, engines, stage)


def _deepspeed(device: torch.device) -> Any:
    """The library, quieter."""
    import deepspeed

    deepspeed.utils.logger.setLevel(logging.WARNING)
    if device.type == "cpu":  # else it compiles its own communication in shared memory
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _make_state(optimizer: Optimizer) -> None:
    """The state that AdamW would make in its first step, which DeepSpeed now holds.

    Else DeepSpeed finds only that of the first parameter group.
    """
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


class Zero(Holding):
    """Parts that DeepSpeed's engine holds, with an optimizer like ours over them.

    Our own optimizer holds the settings, and state only while it is written.
    """

    in_parts = True

    def __init__(self, policy: Policy, engines: dict[nn.Module, Any], stage: int) -> None:
        """engines: by model; the policy's has the optimizer."""
        self.parts_weights = stage == 3
        self._policy = policy
        self._engines = engines
        self._engine = engines[policy.causal_lm]

    def run(self, model: nn.Module, work: Callable[[], T]) -> T:
        engine = self._engines.get(model)
        return work() if engine is None else engine(work)

    def backward(self, loss: Tensor) -> None:
        self._engine.backward(loss * ranks.size(), scale_wrt_gas=False)

    def step(
        self, parameters: list[nn.Parameter], optimizer: Optimizer, max_norm: float, valid: bool
    ) -> float | None:
        if not valid:
            self._idle(math.nan)  # DeepSpeed leaves out what is not finite
        self._set(optimizer.param_groups)
        self._engine.step()
        applied = self._engine.was_step_applied()
        return float(self._engine.get_global_grad_norm()) if applied else None

    def _set(self, groups: list[dict[str, Any]], **more: Any) -> None:
        """Gives the groups of DeepSpeed's optimizer the settings of these."""
        for theirs, ours in zip(self._engine.optimizer.param_groups, groups, strict=True):
            theirs.update({k: v for k, v in ours.items() if k != "params"} | more)

    def _idle(self, weight: float) -> None:
        """A one-token pass whose loss is `weight` times a number."""
        logp_T, _ = self._policy.logprobs([IDLE], 1.0)
        self.backward(weight * logp_T.sum())

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
        if not self.parts_weights:
            utils.safe_set_full_optimizer_state(parameter, value, name)
            return
        length = parameter.ds_tensor.numel()  # the last part is padded
        padded = functional.pad(value.flatten(), (0, length * ranks.size() - value.numel()))
        mine = padded.narrow(0, length * ranks.rank(), length)
        utils.safe_set_local_optimizer_state(parameter, mine, name)

    @contextlib.contextmanager
    def whole_state(self, optimizer: Optimizer, only_main: bool) -> Iterator[None]:
        from deepspeed.utils import safe_get_full_optimizer_state

        keeps = ranks.is_main() or not only_main
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


def whole(value: Any) -> Tensor:
    """A weight under stage 3, put together by all ranks."""
    import deepspeed

    with deepspeed.zero.GatheredParameters([value]):
        return value.detach().clone()


def write(value: Tensor, live: Any) -> None:
    """Writes a whole tensor into a weight under stage 3, of which each rank keeps its part."""
    import deepspeed

    with deepspeed.zero.GatheredParameters([live], modifier_rank=0):
        live.copy_(value)
