"""Draws tokens by inverse transform sampling: a uniform number per token, whatever the vocabulary.

vLLM on a CPU, and torch.multinomial, draw an exponential number for every token of the vocabulary,
which takes half of the time of decoding a small model.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import pad

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 256
"""Tokens whose probabilities are added up first; the row is then searched in two steps."""


def inverse_transform(probs_NV: Tensor, uniform_N: Tensor) -> Tensor:
    """[N] tokens: of each row the first whose cumulative probability is above the row's uniform
    number, a float64 in [0, 1). A token of probability 0 is never drawn.

    Rows need not sum to 1. Sums are taken in float64, in which no token of a large vocabulary is
    too rare to be drawn, and row by row, so a token does not depend on the other rows.
    """
    # what is added has probability 0 and is never drawn
    probs_NV = pad(probs_NV, (0, -probs_NV.shape[1] % BLOCK))
    blocks_NMB = probs_NV.unflatten(1, (-1, BLOCK))
    mass_NM = blocks_NMB.sum(2, dtype=torch.float64)
    upto_NM = mass_NM.cumsum(1)
    block_N1, target_N1 = _find(upto_NM, uniform_N.unsqueeze(1) * upto_NM[:, -1:])
    before_N1 = upto_NM.gather(1, block_N1) - mass_NM.gather(1, block_N1)
    block_NB = blocks_NMB.gather(1, block_N1.unsqueeze(2).expand(-1, 1, BLOCK)).squeeze(1)
    token_N1, _ = _find(block_NB.cumsum(1, dtype=torch.float64), target_N1 - before_N1)
    return (block_N1 * BLOCK + token_N1).squeeze(1)


def _find(upto_NK: Tensor, target_N1: Tensor) -> tuple[Tensor, Tensor]:
    """([N, 1] the first place whose cumulative sum is above the target, [N, 1] the target, moved
    into the range of the sums where rounding had left it outside)."""
    total_N1 = upto_NK[:, -1:]
    below_N1 = total_N1.nextafter(torch.zeros_like(total_N1))
    target_N1 = target_N1.clamp(min=0).minimum(below_N1)
    # right: passes over tokens of probability 0, whose sum is that of the token before
    return torch.searchsorted(upto_NK, target_N1, right=True), target_N1


def uniform(generators: Iterable[torch.Generator | None], device: torch.device) -> Tensor:
    """[N] float64 in [0, 1), one of each generator; None: torch's own."""
    drawn = [torch.rand((), dtype=torch.float64, device=device, generator=g) for g in generators]
    return torch.stack(drawn)
