"""Full fine-tuning: every weight, in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlvr.adapters.base import Method

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from rlvr.config import AdapterConfig


def _train_everything(model: PreTrainedModel, config: AdapterConfig, seed: int) -> PreTrainedModel:
    """The model itself with float32 master weights: bf16 ones round updates of 1e-6 away."""
    return model.float().requires_grad_(True)


METHODS = (
    Method(
        name="full",
        paper="none",
        trains="all weights (float32 master copy)",
        merges=True,
        syncs=("merged",),
        options=frozenset(),
        apply=_train_everything,
    ),
)
