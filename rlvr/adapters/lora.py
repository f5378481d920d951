"""Low-rank adapters through peft: W + (alpha / r) B A."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlvr.adapters.base import Method

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from rlvr.config import AdapterConfig

DEFAULT_RANK = 32


def _apply_lora(model: PreTrainedModel, config: AdapterConfig, seed: int) -> PeftModel:
    """The model with A random and B zero on every target module, so that step 0 is the base policy.

    Source: 2106.09685. Scaling is alpha / r; alpha defaults to 2 r, as in 2512.23165.
    """
    import peft
    import torch

    rank = config.rank or DEFAULT_RANK
    settings = peft.LoraConfig(
        r=rank,
        lora_alpha=config.alpha or 2 * rank,  # pyright: ignore[reportArgumentType]
        lora_dropout=config.dropout,
        target_modules=list(config.target_modules),
        bias="none",
        task_type=peft.TaskType.CAUSAL_LM,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adapted = peft.get_peft_model(model, settings)
    assert isinstance(adapted, peft.PeftModel)
    return adapted


METHODS = (
    Method(
        name="lora",
        paper="2106.09685",
        trains="A (r x in) and B (out x r) of every target module",
        merges=True,
        syncs=("adapter", "merged"),
        options=frozenset({"rank", "alpha", "target_modules", "seed"}),
        apply=_apply_lora,
    ),
)
