"""peft's layers, computed so that rounding does not separate step 0 from the base policy, and
without casts that change nothing."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.hra import HRALinear
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn


class SummedLora(LoraLinear):
    """A LoRA layer that adds its adapters to each other first, and then to the base's output.

    Where one is subtracted from the other, peft's order W x + s B A x - s B0 A0 x rounds W x to the
    size of the terms: in bfloat16 the start does not cancel. Equal terms cancel here exactly.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters or self.merged:
            return super().forward(x, *args, **kwargs)
        result = self.base_layer(x, *args, **kwargs)
        return (result + sum(self._term(name, x) for name in self._names())).to(result.dtype)

    def _names(self) -> list[str]:
        return [name for name in self.active_adapters if name in self.lora_A]

    def _term(self, name: str, x: Tensor) -> Tensor:
        factor_A: Any = self.lora_A[name]
        factor_B = self.lora_B[name]
        x = self._cast_input_dtype(x, factor_A.weight.dtype)
        return factor_B(factor_A(self.lora_dropout[name](x))) * self.scaling[name]


class Float32Hra(HRALinear):
    """A layer of Householder reflections whose product is formed in float32 under autocast too.

    Pairs of equal reflections make the identity only up to rounding.
    """

    def get_delta_weight(self, adapter_name: str, reverse: bool = False) -> Tensor:
        with torch.autocast(self.hra_u[adapter_name].device.type, enabled=False):
            return super().get_delta_weight(adapter_name, reverse)


def become(model: nn.Module, kind: type[nn.Module], exact: type[nn.Module]) -> None:
    """Turns every layer of exactly this class of peft's into the exact one."""
    # the class is exchanged in place: peft offers no way to name the layers that it makes
    for module in model.modules():
        if type(module) is kind:
            module.__class__ = exact


@torch.no_grad()
def restart_magnitudes(adapted: nn.Module) -> None:
    """DoRA's magnitudes become the norms of the base's weights in float32; peft rounds them.

    peft takes norms in the base's type, and divides by norms in float32.
    """
    for layer in adapted.modules():
        magnitudes: Any = getattr(layer, "lora_magnitude_vector", None)
        if magnitudes:
            base: Any = layer.get_base_layer()  # pyright: ignore[reportCallIssue]
            weight = base.weight.float()
            columns = weight.T if magnitudes["default"].fan_in_fan_out else weight
            magnitudes["default"].weight.data = torch.linalg.norm(columns, dim=1)


def skip_input_casts(model: nn.Module) -> None:
    """Leaves the inputs of low-rank factors in the compute type, for passes under autocast.

    peft casts them up to the factors' float32, and autocast casts them down again before the only
    thing that reads them, a product: the same numbers, copied twice in every module. Other layers,
    DoRA's among them, read their inputs in float32 and keep peft's cast.
    """
    for module in model.modules():
        if isinstance(module, LoraLayer) and not module.lora_variant:
            module.cast_input_dtype_enabled = False
