"""Supervised fine-tuning of an existing model by any method of the zoo, through trl's SFTTrainer.

The policy, its optimizer groups, AdaLoRA's allocation, the learning rate of a step, checkpoint and
manifest are those of `rlvr train`: a supervised and an RL run of one method differ in the loss.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from datasets import Dataset
from rich.console import Console
from trl.data_utils import pack_dataset
from trl.trainer.utils import add_fused_lm_head

from rlvr.adapters.export import merge_and_export
from rlvr.common.cpu import advice
from rlvr.common.errors import ConfigError
from rlvr.common.log import get_logger
from rlvr.common.own_code import is_reader, own_facts
from rlvr.config.sft import FinetuneRecipe
from rlvr.data.absolute_paths import absolute
from rlvr.data.sft_examples import IGNORED, Examples, load_examples, make_chat
from rlvr.engines.stop_tokens import add_end
from rlvr.policy.language_model import load_tokenizer
from rlvr.policy.logits import HALF_TOLERANCE, TOLERANCE, large_logits
from rlvr.policy.packing import TokenRow
from rlvr.policy.policy import Policy, load_policy
from rlvr.runs.checkpoint import refuse_damaged, with_found_start
from rlvr.runs.folder import create_run_folder, reserve_run_folder
from rlvr.runs.manifest import finish_manifest, manifest
from rlvr.sft.trainer import Parts, train
from rlvr.training.preflight import check_finetune
from rlvr.warm_start.policy_path import model_path

logger = get_logger(__name__)

PROBE_LEN = 32
"""Tokens of an example that a probe of the model looks at."""


def finetune(recipe: FinetuneRecipe, recipe_path: Path, console: Console) -> Path:
    """Trains into a new run folder and returns it.

    The folder gets config.toml, manifest.json, metrics.jsonl, summary.json, checkpoints/step_N and,
    with run.merge, merged/.
    Raises: ConfigError for what cannot work, RunError for a loss that is not finite.
    """
    recipe = with_found_start(absolute(recipe))
    check_finetune(recipe)
    if recipe.adapter.start_from is not None:
        refuse_damaged(Path(recipe.adapter.start_from))
    # reserved before the model loads: a second run of the same name fails at once
    with reserve_run_folder(recipe, recipe_path, can_resume=False) as folder:
        parts = build(recipe, model_path(recipe, recipe_path))
        facts = manifest(recipe, parts.policy, parts.optimizer, parts.examples, "none", "none")
        path = recipe.data.path
        facts["own_code"] = {"data.path": own_facts(path)} if is_reader(path) else {}
        create_run_folder(folder, recipe, facts)
        _train_and_save(recipe, parts, folder, console)
    return folder


def _train_and_save(recipe: FinetuneRecipe, parts: Parts, folder: Path, console: Console) -> None:
    policy, steps = parts.policy, parts.num_updates
    metrics = folder / "metrics.jsonl"
    started = time.monotonic()
    before = _log_held_out(recipe, parts, 0, metrics)
    losses = train(recipe, parts, metrics)
    after = _log_held_out(recipe, parts, steps, metrics)
    # the end of a turn was trained: generation settings that do not name it would go on behind it
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
        "held_out_loss_first": before,
        "held_out_loss_last": after,
        "steps": steps,
        "seconds": round(seconds, 1),
        "checkpoint": str(checkpoint.relative_to(folder)),
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=1))
    held_out = "" if before is None else f", held out {before:.4f} to {after:.4f},"
    console.print(
        f"loss {losses[0]:.4f} to {losses[-1]:.4f}{held_out} in {steps} steps: {checkpoint}"
    )


def _log_held_out(recipe: FinetuneRecipe, parts: Parts, step: int, path: Path) -> float | None:
    """The held-out examples' loss, with a line of metrics.jsonl; None without such examples."""
    rows = parts.examples.held_out
    if not rows:
        return None
    loss = mean_loss(parts.policy, rows, recipe.train.micro)
    with path.open("a") as file:
        file.write(json.dumps({"step": step, "eval/loss": loss}) + "\n")
    return loss


@torch.no_grad()
def mean_loss(policy: Policy, rows: Sequence[dict[str, list[int]]], at_a_time: int) -> float:
    """Mean negative log-probability (nats) of the tokens that carry a label, over all rows."""
    total, count = 0.0, 0
    for start in range(0, len(rows), at_a_time):
        part = rows[start : start + at_a_time]
        # labels may come in several turns: everything behind the first token is scored
        whole = [TokenRow(row["input_ids"][:1], row["input_ids"][1:]) for row in part]
        labels = torch.tensor([label for row in part for label in row["labels"][1:]])
        logprobs = policy.logprobs(whole, 1.0)[0].cpu()[labels != IGNORED]
        total, count = total - float(logprobs.sum()), count + len(logprobs)
    return total / count


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
    refuse_other_logits(policy, examples)
    if recipe.train.packing:
        refuse_mixing(policy, examples)
    optimizer = policy.method.optimizer(policy.model, policy.adapter, recipe.optim)
    return Parts(policy, optimizer, examples, rows, num_updates)


def make_rows(recipe: FinetuneRecipe, examples: Examples) -> Dataset:
    """The trainer's rows: the examples, or sequences of several with their lengths."""
    # shuffled before packing: the trainer shuffles full sequences only
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

    # other tokens of the same length: behind a correct mask no bit of the logits changes
    other = [(token + 1) % num_tokens for token in first]
    if not torch.equal(second_logits(first), second_logits(other)):
        raise ConfigError(
            "train.packing = true: with this model's attention an example would see the one packed"
            " before it; set it to false"
        )


@torch.no_grad()
def refuse_other_logits(policy: Policy, examples: Examples) -> None:
    """Raises: ConfigError where trl's loss is not made of the model's own log-probabilities."""
    model = policy.causal_lm
    ids = torch.tensor([examples.rows[0]["input_ids"][:PROBE_LEN]], device=policy.device)
    forward = model.forward
    # SFTTrainer patches the model like this: its own head takes the hidden states past the model's
    # forward pass, and knows fewer caps and factors of logits than rlvr.policy.logits does
    add_fused_lm_head(model)
    try:
        with large_logits(model), policy.autocast():
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
            found = model(input_ids=ids, labels=ids, fused_lm_head=True).log_probs.float()
    finally:
        model.forward = forward
    own = logits.log_softmax(dim=-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    error = float((own - found).abs().max())
    # not `>`: nan is refused too
    if not error <= (TOLERANCE if policy.dtype == torch.float32 else HALF_TOLERANCE):
        raise ConfigError(
            f"model.path: {type(model).__name__} does more to its logits than trl's trainer knows:"
            f" its own log-probabilities differ by {error:.3g} nats from those in the loss; train"
            " another model"
        )
