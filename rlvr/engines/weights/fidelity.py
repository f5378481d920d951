"""How much of the update the engine's type holds: norm of what arrived over norm of what was meant.

Meant is the change since step 0 in float32, arrived the change of the weights as the engine holds
them. In bfloat16 a change of W below half a unit in the last place vanishes when W + delta is
rounded to nearest (fraction near 0); rounded stochastically it arrives on average, with noise that
is larger than a small update (fraction above 1).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlvr.adapters.export import low_rank_layers
from rlvr.adapters.merge import as_in_files, merged_weights
from rlvr.engines.weights.arrival import meant_and_served
from rlvr.engines.weights.cast import Cast

if TYPE_CHECKING:
    from rlvr.policy.language_model import LanguageModel

SAMPLE = 4096
"""Numbers looked at in each tensor: under 1% of the bytes of a sync of merged weights."""


class Merged:
    """The fraction of merged weights that arrived, from a fixed sample of every tensor."""

    def __init__(self, policy: LanguageModel) -> None:
        """Keeps the sample of the weights as they are: the policy has to be at step 0."""
        start = merged_weights(policy.model, adapted=False)
        named = as_in_files(policy.model, start)
        self._start = {name: _sampled(value) for name, value in named}
        self._dtype = policy.dtype
        self.frac = 1.0

    def watch(
        self, weights: Iterable[tuple[str, Tensor]], cast: Cast
    ) -> Iterator[tuple[str, Tensor]]:
        """The weights, cast; when all have passed, `frac` is theirs."""
        sums = torch.zeros(2, dtype=torch.float64)
        for name, value in weights:
            given = cast(name, value)
            start = self._start[name]
            meant = _sampled(value) - start
            # of what it does not get in its own type, the engine takes the nearest
            arrived = self._rounded(_sampled(given)) - self._rounded(start)
            squares = torch.stack([arrived.square().mean(), meant.square().mean()])
            sums = sums.to(value.device) + value.numel() * squares
            yield name, given
        self.frac = _frac(*sums.tolist())

    def _rounded(self, value: Tensor) -> Tensor:
        return value.to(self._dtype).float()


def _sampled(value: Tensor) -> Tensor:
    """[min(N, SAMPLE)] of a tensor's N numbers in float32, always from the same places."""
    flat = value.detach().flatten()
    if len(flat) > SAMPLE:
        # a stride would meet the same few columns again and again
        generator = torch.Generator().manual_seed(0)
        flat = flat[torch.randint(len(flat), (SAMPLE,), generator=generator).to(flat.device)]
    return flat.float()


@torch.no_grad()
def adapter_frac(policy: LanguageModel) -> float:
    """The fraction of the low-rank updates that arrived as factors in the engine's type. Inside of
    `Policy.gathered` where the policy is sharded."""
    layers: Iterable[Any] = low_rank_layers(policy.model).values()
    sums = torch.zeros(2, dtype=torch.float64)
    for layer in layers:
        meant, served = meant_and_served(policy, layer)
        squares = torch.stack([_norm_squared(*served), _norm_squared(*meant)])
        sums = sums.to(squares.device) + squares
    return _frac(*sums.tolist())


def _norm_squared(a: Tensor, b: Tensor) -> Tensor:
    """Squared Frobenius norm of B A in r^2 (inputs + outputs) operations; in float64, because a
    subtracted start cancels nearly all of it."""
    a, b = a.double(), b.double()
    return ((b.t() @ b) * (a @ a.t())).sum()


def _frac(arrived: float, meant: float) -> float:
    """1 where nothing was meant to change."""
    return math.sqrt(max(arrived, 0.0) / meant) if meant > 0 else 1.0
