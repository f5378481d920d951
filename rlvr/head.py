"""Log-probabilities and entropies from hidden states, without a [T, V] tensor for more than a
chunk."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

CHUNK_ELEMENTS = 1 << 24
"""Logits held at a time (64 MiB in float32)."""


def token_logprobs(
    hidden_TH: Tensor,
    head: nn.Module,
    targets_T: Tensor,
    temperature: float,
    vocab_size: int,
    entropy_grad: bool = False,
) -> tuple[Tensor, Tensor]:
    """[T] log-probability of each target and [T] entropy (nats), float32.

    The head is evaluated chunk by chunk and recomputed in the backward pass. Entropies carry a
    gradient only with entropy_grad.
    """
    chunk = max(1, CHUNK_ELEMENTS // vocab_size)
    parts = [
        _chunk(hidden_TH[i : i + chunk], head, targets_T[i : i + chunk], temperature, entropy_grad)
        if len(hidden_TH) <= chunk or not torch.is_grad_enabled()
        else checkpoint(
            _chunk,
            hidden_TH[i : i + chunk],
            head,
            targets_T[i : i + chunk],
            temperature,
            entropy_grad,
            use_reentrant=False,
        )
        for i in range(0, len(hidden_TH), chunk)
    ]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def _chunk(
    hidden_TH: Tensor, head: nn.Module, targets_T: Tensor, temperature: float, entropy_grad: bool
) -> tuple[Tensor, Tensor]:
    logits_TV = head(hidden_TH).float() / temperature
    log_z_T = logits_TV.logsumexp(dim=-1)
    logp_T = logits_TV.gather(1, targets_T.unsqueeze(1)).squeeze(1) - log_z_T
    with torch.set_grad_enabled(entropy_grad and torch.is_grad_enabled()):
        probs_TV = (logits_TV - log_z_T.unsqueeze(1)).exp()
        entropy_T = log_z_T - (probs_TV * logits_TV).sum(dim=-1)
    return logp_T, entropy_T
