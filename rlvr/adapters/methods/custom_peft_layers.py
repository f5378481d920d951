"""Our own peft layers: BitFit's bias and the bottlenecks of Houlsby and Compacter.

peft's type list is closed, but its tables take further keys: importing this module adds ours, after
which `PeftModel.from_pretrained` loads their folders like any other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftConfig
from peft.mapping import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PEFT_TYPE_TO_PREFIX_MAPPING,
    PEFT_TYPE_TO_TUNER_MAPPING,
)
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import Tensor, nn

BITFIT, BOTTLENECK = "BITFIT", "BOTTLENECK"


@dataclass
class AddedConfig(PeftConfig):
    """Settings of the layers below. kronecker: 0 for dense factors, else Compacter's n."""

    target_modules: list[str] | None = None
    width: int = 0
    kronecker: int = 0
    modules_to_save: list[str] | None = field(default=None)


@dataclass
class BitfitConfig(AddedConfig):
    """peft config of `BiasLayer`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = BITFIT


@dataclass
class BottleneckConfig(AddedConfig):
    """peft config of `BottleneckLayer`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = BOTTLENECK


class _AddedLayer(nn.Module, BaseTunerLayer):
    """A base layer with one more module on its output, zero at the start."""

    adapter_layer_names: tuple[str, ...] = ("added_part",)
    other_param_names: tuple[str, ...] = ()

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: AddedConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.added_part = nn.ModuleDict()
        # its own list: the one of peft's class is shared by all layers
        self.merged_adapters: list[str] = []
        self._disable_adapters = False
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: AddedConfig) -> None:
        self.added_part[adapter_name] = self.make_part(config)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def make_part(self, config: AddedConfig) -> nn.Module:
        raise NotImplementedError

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return result
        for name in self.active_adapters:
            part = self.added_part[name]
            result = result + part(result).to(result.dtype)
        return result


class _Bias(nn.Module):
    """A vector added to every output."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, _output: Tensor) -> Tensor:
        return self.bias


class BiasLayer(_AddedLayer):
    """A linear layer whose bias moves. Source: 2106.10199."""

    def make_part(self, config: AddedConfig) -> nn.Module:
        base: Any = self.get_base_layer()
        return _Bias(len(base.bias))

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        for name in adapter_names or self.active_adapters:
            part: Any = self.added_part[name]
            self.get_base_layer().bias.data += part.bias.data
            self.merged_adapters.append(name)

    def unmerge(self) -> None:
        while self.merged_adapters:
            part: Any = self.added_part[self.merged_adapters.pop()]
            self.get_base_layer().bias.data -= part.bias.data


class _Kronecker(nn.Module):
    """y = x W^T + b with W = sum_i S_i (x) (u_i v_i^T): n n-by-n slow and n rank-one fast factors.

    Source: 2106.04647, eq. 5 and 6. Deviation: S belongs to the layer instead of all layers.
    """

    def __init__(self, inputs: int, outputs: int, n: int, zero: bool) -> None:
        super().__init__()
        if inputs % n or outputs % n:
            raise ValueError(
                f"adapter.compacter.n = {n}: does not divide {inputs} and {outputs}; change it or"
                " adapter.rank"
            )
        self.slow = nn.Parameter(torch.randn(n, n, n) * 0.01)
        self.left = nn.Parameter(torch.randn(n, outputs // n, 1))
        self.right = nn.Parameter(torch.randn(n, 1, inputs // n))
        self.bias = nn.Parameter(torch.zeros(outputs))
        if zero:
            # left alone: with right at zero too, neither factor would ever have a gradient
            nn.init.zeros_(self.left)

    def forward(self, x: Tensor) -> Tensor:
        fast = self.left @ self.right
        n, rows, columns = fast.shape
        weight = torch.einsum("kij,kab->iajb", self.slow, fast)
        return nn.functional.linear(x, weight.reshape(n * rows, n * columns), self.bias)


class _Bottleneck(nn.Module):
    """Down-projection, GELU, up-projection that starts at zero."""

    def __init__(self, size: int, config: AddedConfig) -> None:
        super().__init__()
        n = config.kronecker
        if n:
            self.down: nn.Module = _Kronecker(size, config.width, n, zero=False)
            self.up: nn.Module = _Kronecker(config.width, size, n, zero=True)
            return
        down, up = nn.Linear(size, config.width), nn.Linear(config.width, size)
        # 0.01 is the paper's, which also cuts the tails at two deviations
        nn.init.normal_(down.weight, std=0.01)
        nn.init.zeros_(down.bias)
        nn.init.zeros_(up.weight)
        nn.init.zeros_(up.bias)
        self.down, self.up = down, up

    def forward(self, output: Tensor) -> Tensor:
        # peft keeps adapters in float32 beside a 16-bit base
        dtype = next(self.down.parameters()).dtype
        return self.up(nn.functional.gelu(self.down(output.to(dtype))))


class BottleneckLayer(_AddedLayer):
    """A linear layer with a bottleneck after it. Source: 1902.00751."""

    def make_part(self, config: AddedConfig) -> nn.Module:
        base: Any = self.get_base_layer()
        return _Bottleneck(base.out_features, config)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        raise ValueError("a bottleneck is not linear: it cannot be merged into a weight")


class _AddedTuner(BaseTuner):
    """Wraps every target module."""

    prefix = "added_"
    tuner_layer_cls = _AddedLayer

    def _create_and_replace(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        peft_config: Any,
        adapter_name: str,
        target: Any,
        target_name: str,
        parent: nn.Module,
        current_key: str,
    ) -> None:
        if isinstance(target, _AddedLayer):
            target.update_layer(adapter_name, peft_config)
            return
        kind = BiasLayer if peft_config.peft_type == BITFIT else BottleneckLayer
        self._replace_module(parent, target_name, kind(target, adapter_name, peft_config), target)


for _type, _config in ((BITFIT, BitfitConfig), (BOTTLENECK, BottleneckConfig)):
    PEFT_TYPE_TO_CONFIG_MAPPING[_type] = _config  # pyright: ignore[reportArgumentType]
    PEFT_TYPE_TO_TUNER_MAPPING[_type] = _AddedTuner  # pyright: ignore[reportArgumentType]
    PEFT_TYPE_TO_PREFIX_MAPPING[_type] = "added_"  # pyright: ignore[reportArgumentType]


def bitfit_config(modules: list[str]) -> BitfitConfig:
    """Adapts the biases of exactly these modules (full names)."""
    return BitfitConfig(target_modules=modules, task_type="CAUSAL_LM")


def bottleneck_config(modules: list[str], width: int, kronecker: int = 0) -> BottleneckConfig:
    """A bottleneck of `width` after each of these modules."""
    return BottleneckConfig(
        target_modules=modules, width=width, kronecker=kronecker, task_type="CAUSAL_LM"
    )
