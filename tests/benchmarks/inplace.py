"""What merging a LoRA into a bfloat16 base and unmerging it does to the base.

Trainers that hand weights to the engine that way do it at every step, and round(round(W + d) - d)
is not W. rlvr never merges in place; here the same loss is put on its base on purpose, so that its
share in a method's failure can be measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rlvr.adapters.merge import plain_name
from rlvr.adapters.methods.nonzero_init import START, lora_layers
from rlvr.engines.weights.sync import Syncer, SyncStats


@dataclass
class _Frozen:
    """A layer. stored: what others freeze, W - scaling B0 A0 in bfloat16. start: scaling B0 A0."""

    layer: Any
    stored: Tensor
    start: Tensor | float


class InplaceMerge:
    """Stands for a frozen bfloat16 base that is merged into and unmerged after every sync.

    The stored weights of methods with a start are the residual W - scaling B0 A0, as their papers
    have it. The live base is stored + scaling B0 A0 in float32, so that everything else goes on as
    with a pristine base: computation is not rounded, only what is stored between two steps.
    """

    @torch.no_grad()
    def __init__(self, model: nn.Module) -> None:
        """Rounds the stored weights for the first time."""
        self._frozen = []
        for layer in lora_layers(model).values():
            start: Tensor | float = 0.0
            if START in layer.lora_A:
                start = -layer.get_delta_weight(START).float()
            stored = (layer.get_base_layer().weight - start).bfloat16()
            self._frozen.append(_Frozen(layer, stored, start))
        self._write()

    @torch.no_grad()
    def cycle(self) -> None:
        """Merges the present adapter and takes it out again, in bfloat16 as peft 0.21 does it."""
        for frozen in self._frozen:
            delta = frozen.layer.get_delta_weight("default").bfloat16()
            frozen.stored = (frozen.stored + delta) - delta
        self._write()

    def _write(self) -> None:
        for frozen in self._frozen:
            frozen.layer.get_base_layer().weight.copy_(frozen.stored.float() + frozen.start)


class InplaceSyncer(Syncer):
    """A syncer that merges into its base and unmerges after every sync.

    Takes a float32 policy whose method adds scaling (B A - B0 A0) and nothing else.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        assert self.mode != "adapter", "the engine would stay on a base that does not move"
        # 16 bits cannot hold a rounded base plus the start that is subtracted from it
        assert self._policy.dtype == torch.float32, self._policy.dtype
        self._merge = InplaceMerge(self._policy.model)

    def sync(self, step: int | None = None) -> SyncStats:
        # the merge moves the base: only before it can all modules be compared
        stats = super().sync(None)
        self._merge.cycle()
        return stats


@torch.no_grad()
def base_weights(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the adapted layers' frozen weights, by the base's module names."""
    return {
        plain_name(name): layer.get_base_layer().weight.detach().clone()
        for name, layer in lora_layers(model).items()
    }
