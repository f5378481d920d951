"""trl's SFTTrainer with this project's policy, optimizer, learning rate and log."""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from rlvr.algorithm.lr_schedule import lr_at
from rlvr.common.errors import RunError
from rlvr.config.sft import FinetuneRecipe
from rlvr.data.sft_examples import Examples
from rlvr.policy.policy import Policy
from rlvr.warm_start.warm_start import show_one_line

if TYPE_CHECKING:
    from torch.optim import Optimizer

LOGGED = {
    "loss": "policy/loss",
    "entropy": "policy/entropy",
    "learning_rate": "optim/lr",
    "grad_norm": "optim/grad_norm",
}
"""trl's names and ours."""


@dataclass(frozen=True, slots=True)
class Parts:
    """A run's objects. rows: the trainer's, packed or not; num_updates: optimizer steps."""

    policy: Policy
    optimizer: Optimizer
    examples: Examples
    rows: Dataset
    num_updates: int


class _Trainer(SFTTrainer):
    """trl's trainer, with the penalty that a method adds once per optimizer step."""

    policy: Policy

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        schedule = self.policy.method.schedule
        if schedule and self.accelerator.sync_gradients:
            # once per optimizer step, not per micro-batch: its weight must not depend on the split
            schedule.penalty(self.policy.model).backward()
        return loss


class _Callback(TrainerCallback):
    """The method's own work after every update, and one line of metrics.jsonl per log."""

    def __init__(self, policy: Policy, path: Path) -> None:
        self.policy, self.path, self.losses = policy, path, list[float]()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        schedule = self.policy.method.schedule
        if schedule:
            schedule.after_update(self.policy.model, state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == state.max_steps:
            # the last step is logged even when log_every does not divide their number
            control.should_log = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        metrics = {ours: float(logs[theirs]) for theirs, ours in LOGGED.items()}
        if not all(math.isfinite(value) for value in metrics.values()):
            raise RunError(
                f"step {state.global_step}: loss {metrics['policy/loss']}, gradient norm"
                f" {metrics['optim/grad_norm']}; lower optim.lr, or use float32"
            )
        self.losses.append(metrics["policy/loss"])
        with self.path.open("a") as file:
            file.write(json.dumps({"step": state.global_step} | metrics) + "\n")


def train(recipe: FinetuneRecipe, parts: Parts, metrics: Path) -> list[float]:
    """Trains the policy and returns the logged losses. metrics: the file that logs go to."""
    policy, peak = parts.policy, recipe.optim.lr
    if policy.device.type == "cpu":
        torch.set_num_threads(recipe.train.num_threads or len(os.sched_getaffinity(0)))
    schedule = LambdaLR(
        parts.optimizer, lambda step: lr_at(step, recipe.optim, parts.num_updates) / peak
    )
    callback = _Callback(policy, metrics)
    adapter = {parameter: parameter.data for parameter in policy.trainable}
    # the trainer makes its output folder when it is built; nothing is saved there
    with tempfile.TemporaryDirectory(prefix="rlvr-sft-") as scratch:
        trainer = _Trainer(
            policy.model,  # pyright: ignore[reportArgumentType]
            args=SFTConfig(output_dir=scratch, max_steps=parts.num_updates, **_settings(recipe)),
            train_dataset=parts.rows,
            processing_class=policy.tokenizer,
            optimizers=(parts.optimizer, schedule),
            callbacks=[callback],
        )
        for parameter, value in adapter.items():
            parameter.data = value  # trl rounds the adapters of a quantised base to bfloat16
        trainer.policy = policy
        show_one_line(trainer, "fine-tuning", time.monotonic())
        trainer.train()
    policy.model.eval()
    return callback.losses


def _settings(recipe: FinetuneRecipe) -> dict[str, Any]:
    train = recipe.train
    return {
        "per_device_train_batch_size": train.micro,
        "gradient_accumulation_steps": train.batch_size // train.micro,
        "learning_rate": recipe.optim.lr,
        "max_grad_norm": recipe.optim.max_grad_norm,
        "seed": train.seed,
        # rows were measured when they were read; trl would cut them silently
        "max_length": None,
        # packed rows stay one sequence with positions that start anew: no padding, no mixing
        "padding_free": train.packing,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": recipe.model.dtype == "bfloat16",
        "gradient_checkpointing": train.activation_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "dataloader_pin_memory": False,
        # trl's checkpoints are not this project's: `finetune` writes them
        "save_strategy": "no",
        "logging_steps": train.log_every,
        # transformers replaces a loss that is not finite by an average of the others
        "logging_nan_inf_filter": False,
        "report_to": [],
        "disable_tqdm": True,
    }
