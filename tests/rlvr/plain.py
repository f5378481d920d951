"""Log-probabilities by transformers alone: the model's own logits, one row at a time, no padding.

Nothing of ours is in the way (no packing, no head of our own, no cache), so that it can judge them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rlvr.policy.packing import TokenRow


@torch.no_grad()
def token_logprobs(model: Any, rows: Sequence[TokenRow], temperature: float = 1.0) -> torch.Tensor:
    """[T] log-probabilities of the rows' response tokens; model: of transformers, or peft's around
    it, whose trained positions stand before the text."""
    parts = []
    for row in rows:
        ids = torch.tensor([row.prompt_ids + row.response_ids])
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -len(row) :]
        logp = torch.log_softmax(logits.float() / temperature, dim=-1)
        first = len(row.prompt_ids) - 1
        parts += [logp[first + t, token] for t, token in enumerate(row.response_ids)]
    return torch.stack(parts)
