"""trl's side of the update: GRPOTrainer's own loss on the same rows."""

import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from rlvr.sampling.rollouts import Group
from tests.benchmarks.first_gpu.case import (
    DEVICE,
    Case,
    make_model,
    num_tokens,
    peak_memory,
    timed,
)


def measure_trl(case: Case, method: str, groups: Sequence[Group], num_steps: int) -> dict[str, Any]:
    """Seconds of each update by trl's loss, rows padded as it pads a generation batch."""
    trainer = make_trainer(case, method)
    optimizer = torch.optim.AdamW(
        [p for p in trainer.model.parameters() if p.requires_grad], lr=1e-6, fused=True
    )
    inputs = padded_inputs(case, groups)
    num_rows, width = inputs["completion_ids"].shape[0], inputs["completion_ids"].shape[1]
    rows = max(1, case.max_tokens // (width + case.prompt_len))
    num_trained = inputs["completion_mask"].sum()
    trainer.current_gradient_accumulation_steps = -(-num_rows // rows)
    trainer.args.steps_per_generation = trainer.current_gradient_accumulation_steps

    def step() -> None:
        for start in range(0, num_rows, rows):
            part = {name: value[start : start + rows] for name, value in inputs.items()}
            loss = trainer.compute_loss(trainer.model, part | {"num_items_in_batch": num_trained})
            loss.backward()
        torch.nn.utils.clip_grad_norm_(
            [p for group in optimizer.param_groups for p in group["params"]], 1.0
        )
        optimizer.step()
        optimizer.zero_grad()

    seconds = timed(step, num_steps)
    padding = 1 - num_tokens(groups) / (num_rows * (width + case.prompt_len))
    return {"seconds": seconds, "padding_frac": padding} | peak_memory()


def make_trainer(case: Case, method: str) -> Any:
    """trl's GRPOTrainer around the same model, in training mode."""
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<end>": 1, "w": 2}, unk_token="<pad>"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<end>"
    )
    half = case.dtype != "float32"
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    lora = LoraConfig(
        r=case.rank, lora_alpha=2 * case.rank, target_modules=modules, task_type="CAUSAL_LM"
    )
    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=case.group_size,
        num_generations=case.group_size,
        max_completion_length=case.max_len,
        loss_type="dapo",
        epsilon_high=0.28,
        beta=0.0,
        bf16=half,
        use_cpu=DEVICE.type == "cpu",
        gradient_checkpointing=False,
        report_to="none",
        disable_dropout=True,
    )
    # full fine-tuning by trl in mixed precision needs float32 weights, as ours keeps
    dtype = getattr(torch, case.dtype) if method == "lora" else torch.float32
    trainer: Any = GRPOTrainer(
        model=make_model(case, dtype),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=config,
        train_dataset=Dataset.from_dict({"prompt": ["w"] * case.group_size}),
        processing_class=tokenizer,
        peft_config=lora if method == "lora" else None,
    )
    if case.recomputes:
        trainer.model.gradient_checkpointing_enable({"use_reentrant": False})
    trainer.model.train()
    return trainer


def padded_inputs(case: Case, groups: Sequence[Group]) -> dict[str, torch.Tensor]:
    """One generation batch as trl holds it: every row as long as the longest."""
    rows = [(g.prompt_ids, r.token_ids) for g in groups for r in g.responses]
    width = max(len(response) for _, response in rows)
    completions = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, (_, response) in enumerate(rows):
        completions[i, : len(response)] = torch.tensor(response)
        mask[i, : len(response)] = 1
    prompts = torch.tensor([prompt for prompt, _ in rows])
    advantages = torch.tensor([2.0 * reward - 1 for g in groups for reward in g.rewards])
    inputs = {
        "prompt_ids": prompts,
        "prompt_mask": torch.ones_like(prompts),
        "completion_ids": completions,
        "completion_mask": mask,
        "advantages": advantages,
    }
    return {name: value.to(DEVICE) for name, value in inputs.items()}
