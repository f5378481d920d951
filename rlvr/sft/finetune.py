"""Supervised fine-tuning of an existing model by any method of the zoo, through trl's SFTTrainer.

The policy, its optimizer groups, AdaLoRA's allocation, the learning rate of a step, checkpoint and
manifest are those of `rlvr train`: a supervised and an RL run of one method differ in the loss.
"""

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
from rich.console import Console
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback
from trl.data_utils import pack_dataset
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from rlvr.adapters import get_method
from rlvr.adapters.export import merge_and_export
from rlvr.adapters.optimizers import check_optimizer
from rlvr.algorithm.lr_schedule import lr_at
from rlvr.common.cpu import advice
from rlvr.common.errors import ConfigError, RunError
from rlvr.common.log import get_logger
from rlvr.config.sft import FinetuneRecipe
from rlvr.config.toml import dump_toml
from rlvr.data.absolute_paths import absolute
from rlvr.data.sft_examples import Examples, load_examples, make_chat
from rlvr.engines.stop_tokens import add_end
from rlvr.policy.policy import Policy, load_policy, load_tokenizer
from rlvr.runs.manifest import finish_manifest, manifest
from rlvr.warm_start.policy_path import model_path
from rlvr.warm_start.warm_start import show_one_line

if TYPE_CHECKING:
    from torch.optim import Optimizer

logger = get_logger(__name__)

LOGGED = {
    "loss": "policy/loss",
    "entropy": "policy/entropy",
    "learning_rate": "optim/lr",
    "grad_norm": "optim/grad_norm",
}
"""trl's names and ours."""
PROBE_LEN = 32
"""Tokens of each of the two examples that show whether packing keeps them apart."""


@dataclass(frozen=True, slots=True)
class Parts:
    """A run's objects. rows: the trainer's, packed or not; num_updates: optimizer steps."""

    policy: Policy
    optimizer: Optimizer
    examples: Examples
    rows: Dataset
    num_updates: int


def check(recipe: FinetuneRecipe) -> None:
    """Refuses, before anything is loaded, what cannot work. Raises: ConfigError."""
    method = get_method(recipe.adapter)
    check_optimizer(recipe.optim, method.name, method.own_optimizer)
    if recipe.train.activation_checkpointing and not method.checkpointing:
        raise ConfigError(
            f"train.activation_checkpointing = true: transformers would drop what {method.name}"
            " trains; set it to false"
        )
    if recipe.train.packing and not method.packing:
        raise ConfigError(
            f"train.packing = true: the trained positions of {method.name} stand before a whole"
            " sequence, not before every example in it; set it to false"
        )
    if torch.cuda.device_count() > 1:
        raise ConfigError(
            f"rlvr sft: {torch.cuda.device_count()} GPUs are visible and it trains on one; set"
            " CUDA_VISIBLE_DEVICES=0"
        )
    if "lm_head" in recipe.adapter.target_modules:
        raise ConfigError(
            "adapter.target_modules: trl's trainer reads the head's weight past an adapter; remove"
            " 'lm_head'"
        )
    if recipe.run.merge and not (method.merges and method.keeps_base):
        why = "cannot be merged" if not method.merges else "has whole models as checkpoints"
        raise ConfigError(f"run.merge = true: {method.name} {why}; set it to false")


def finetune(recipe: FinetuneRecipe, recipe_path: Path, console: Console) -> Path:
    """Trains into a new run folder and returns it.

    The folder gets config.toml, manifest.json, metrics.jsonl, summary.json, checkpoints/step_N and,
    with run.merge, merged/.
    Raises: ConfigError for what cannot work, RunError for a loss that is not finite.
    """
    recipe = absolute(recipe)
    check(recipe)
    folder = new_run_folder(recipe, recipe_path)
    parts = build(recipe, model_path(recipe, recipe_path))
    policy, steps = parts.policy, parts.num_updates
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(dump_toml(recipe))
    facts = manifest(recipe, policy, parts.optimizer, parts.examples, engine="none", sync="none")
    (folder / "manifest.json").write_text(json.dumps(facts, indent=1))
    started = time.monotonic()
    losses = _train(recipe, parts, folder / "metrics.jsonl")
    add_end(policy.causal_lm, make_chat(policy.tokenizer, recipe.data.chat_template).end_id)
    seconds = time.monotonic() - started
    checkpoint = folder / "checkpoints" / f"step_{steps}"
    policy.save(checkpoint)
    if recipe.run.merge:
        merge_and_export(policy.model, folder / "merged")
        policy.tokenizer.save_pretrained(folder / "merged")
    finish_manifest(folder / "manifest.json", policy, recipe.model)
    summary = {
        "loss_first": losses[0],
        "loss_last": losses[-1],
        "steps": steps,
        "seconds": round(seconds, 1),
        "checkpoint": str(checkpoint.relative_to(folder)),
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=1))
    console.print(f"loss {losses[0]:.4f} to {losses[-1]:.4f} in {steps} steps: {checkpoint}")
    return folder


def build(recipe: FinetuneRecipe, path: str) -> Parts:
    """What a run works with, for the model at `path` (folder or hub id); the data is read first.

    Raises: ConfigError for anything in the recipe that cannot work with this model and data.
    """
    tokenizer = load_tokenizer(recipe.model, path)
    examples = load_examples(recipe.data, tokenizer, recipe.model.max_len, recipe.train.seed)
    rows = make_rows(recipe, examples)
    num_updates = recipe.train.epochs * math.ceil(len(rows) / recipe.train.batch_size)
    calibration = examples.rows[: recipe.adapter.calibration_rows]
    slow = advice(recipe.model.dtype)
    if slow:
        logger.warning(slow)
    policy = load_policy(
        recipe.model,
        recipe.adapter,
        path,
        recipe.train.seed,
        keep_reference=False,
        num_updates=num_updates,
        encode_rows=lambda _tokenizer: [row["input_ids"] for row in calibration],
    )
    if recipe.train.packing:
        refuse_mixing(policy, examples)
    optimizer = policy.method.optimizer(policy.model, policy.adapter, recipe.optim)
    return Parts(policy, optimizer, examples, rows, num_updates)


def new_run_folder(recipe: FinetuneRecipe, recipe_path: Path) -> Path:
    """The run's folder, not yet made. Raises: ConfigError when it exists."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    default = f"{recipe_path.stem}-{recipe.adapter.method}-seed{recipe.train.seed}-{stamp}"
    folder = Path(recipe.run.dir) / (recipe.run.name or default)
    if folder.exists():
        raise ConfigError(f"run.name = {folder.name!r}: {folder} exists; take another name")
    return folder


def make_rows(recipe: FinetuneRecipe, examples: Examples) -> Dataset:
    """The trainer's rows: the examples, or sequences of several with their lengths."""
    rows = Dataset.from_list(examples.rows)
    if not recipe.train.packing:
        return rows
    return pack_dataset(rows.shuffle(seed=recipe.train.seed), recipe.model.max_len, "bfd")


@torch.no_grad()
def refuse_mixing(policy: Policy, examples: Examples) -> None:
    """Raises: ConfigError where an example would see the one packed before it.

    Without varlen kernels transformers builds a block-diagonal mask from the positions, but only
    for the architectures and attention it knows. Behind such a mask the second example's logits
    keep every bit when the first example's tokens change.
    """
    if len(examples.rows) < 2:
        return
    first, second = (row["input_ids"][:PROBE_LEN] for row in examples.rows[:2])
    num_tokens = policy.causal_lm.config.vocab_size
    positions = torch.tensor([[*range(len(first)), *range(len(second))]], device=policy.device)

    def second_logits(before: list[int]) -> torch.Tensor:
        ids = torch.tensor([before + second], device=policy.device)
        with policy.autocast():
            out = policy.model(input_ids=ids, position_ids=positions, use_cache=False)
        return out.logits[0, len(before) :]

    other = [(token + 1) % num_tokens for token in first]
    if not torch.equal(second_logits(first), second_logits(other)):
        raise ConfigError(
            "train.packing = true: with this model's attention an example would see the one packed"
            " before it; set it to false"
        )


class _Trainer(SFTTrainer):
    """trl's trainer, with the penalty that a method adds once per optimizer step."""

    policy: Policy

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        schedule = self.policy.method.schedule
        if schedule and self.accelerator.sync_gradients:
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


def _train(recipe: FinetuneRecipe, parts: Parts, metrics: Path) -> list[float]:
    """Runs the trainer; the logged losses."""
    policy, peak = parts.policy, recipe.optim.lr
    if policy.device.type == "cpu":
        torch.set_num_threads(recipe.train.num_threads or len(os.sched_getaffinity(0)))
    schedule = LambdaLR(
        parts.optimizer, lambda step: lr_at(step, recipe.optim, parts.num_updates) / peak
    )
    callback = _Callback(policy, metrics)
    adapter = {parameter: parameter.data for parameter in policy.trainable}
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
        "max_length": None,
        "padding_free": train.packing,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": recipe.model.dtype == "bfloat16",
        "gradient_checkpointing": train.activation_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "dataloader_pin_memory": False,
        "save_strategy": "no",
        "logging_steps": train.log_every,
        "logging_nan_inf_filter": False,
        "report_to": [],
        "disable_tqdm": True,
    }
