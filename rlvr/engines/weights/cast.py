"""Rounds merged weights to the engine's type before they are handed over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rlvr.common.seeds import sample_seed
from rlvr.engines.weights.fingerprint import CHUNK, mixed

Rounding = Literal["nearest", "stochastic"]


@dataclass(frozen=True, slots=True)
class Cast:
    """The rounding of one sync: to nearest, or stochastic with draws from (seed, step, name).

    Called with a name and a tensor, it gives what is handed over under this name. To nearest, only
    matrices are cast, nearly all of the bytes: an engine may keep vectors in a wider type.
    """

    dtype: torch.dtype
    rounding: Rounding = "nearest"
    seed: int = 0
    step: int = 0

    def __call__(self, name: str, value: Tensor) -> Tensor:
        if self.rounding == "stochastic":
            return stochastic(value, sample_seed(self.seed, "cast", self.step, name))
        is_matrix = value.ndim == 2 and name.endswith(".weight")
        return value.to(self.dtype) if is_matrix else value


def stochastic(value: Tensor, seed: int) -> Tensor:
    """The tensor in bfloat16, each number rounded to one of its two neighbours with the probability
    that makes the mean right; what bfloat16 holds stays as it is.

    By integers alone, so that every device draws the same. A draw of 16 bits is added below the
    last bit that is kept, and what is below that bit is cut off.
    """
    if value.dtype == torch.bfloat16:
        return value
    bits = value.detach().float().contiguous().view(torch.int32).flatten()
    rounded = torch.empty(bits.shape, dtype=torch.bfloat16, device=value.device)
    # a chunk at a time: its copies in 64 bits take several times its memory
    for first in range(0, len(bits), CHUNK):
        part = bits[first : first + CHUNK].long()
        places = torch.arange(first, first + len(part), device=value.device)
        raised = part + (mixed(places + seed) & 0xFFFF)
        rounded[first : first + CHUNK] = (raised >> 16).to(torch.int16).view(torch.bfloat16)
    rounded = rounded.reshape(value.shape)
    # a carry would turn the bits of infinity and of not-a-number into a number
    return torch.where(value.isfinite(), rounded, value.to(torch.bfloat16))
