"""Adapted weights computed out of place: the base is never written.

In bfloat16 round(round(W + d) - d) != W: merging in place and unmerging at every step moves the
frozen base by a good part of what was learned. Here each module is copied in float32, merged in the
copy, and the copy is dropped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, cast

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from rlvr.adapters.base import REFERENCE
from rlvr.distributed.sharded_tensors import full_copy, full_tensor

FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Modules that vLLM holds as one weight: all parts have to come in one sync."""


def plain_name(name: str) -> str:
    """The base model's own name of a parameter or module inside a peft model."""
    return name.removeprefix("base_model.model.").replace(".base_layer", "")


def file_names(model: Any) -> Callable[[str], str]:
    """What the model's files, and so vLLM, call a weight that transformers has renamed: GPT-NeoX's
    `embed_out` is `lm_head` in the live model."""
    from transformers.core_model_loading import WeightRenaming, rename_source_key

    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    # transformers keeps them for its own way back, when it saves
    loaded = reversed(getattr(inner, "_weight_conversions", None) or [])
    back: Any = [one.reverse_transform() for one in loaded if isinstance(one, WeightRenaming)]
    return lambda name: rename_source_key(name, back, [], reverse=True)[0]


def as_in_files(model: Any, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """The weights under the names of `file_names`."""
    rename = file_names(model)
    return ((rename(name), value) for name, value in weights)


@contextlib.contextmanager
def adapter_off(model: Any) -> Iterator[None]:
    """Inside the block, the model is the base policy."""
    # peft makes every weight of the adapter trainable when it switches back
    flags = {p: p.requires_grad for p in model.parameters()}
    try:
        with model.disable_adapter():
            yield
    finally:
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)


@contextlib.contextmanager
def reference_on(model: Any) -> Iterator[None]:
    """The reference policy inside the block: the base, with the frozen adapter REFERENCE if the
    method has one."""
    if REFERENCE not in model.peft_config:
        with adapter_off(model):
            yield
        return
    flags = {p: p.requires_grad for p in model.parameters()}  # set_adapter changes them
    trained = list(model.base_model.active_adapters)
    model.base_model.set_adapter(REFERENCE)
    try:
        yield
    finally:
        model.base_model.set_adapter(trained)
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)


@torch.no_grad()
def merged_weights(
    model: nn.Module,
    everything: bool = False,
    only: Collection[str] | None = None,
    adapted: bool = True,
) -> Iterator[tuple[str, Tensor]]:
    """(name, W + delta) under the base's names, one module at a time; what merges is float32.

    Yields the modules that training changes and the untouched parts of weights that the engine
    keeps fused; with `everything`, all modules. A tied head comes once. only: names of modules,
    where the others are not wanted. adapted: False gives W of the adapters' modules, as it is.
    """
    seen: set[nn.Parameter] = set()
    for name, module in handed_modules(model, everything).items():
        if isinstance(module, BaseTunerLayer):
            if only is None or name in only:
                inner = _merged(module) if adapted else _base(module)
                yield from ((f"{name}.{key}", value) for key, value in inner)
            continue
        for key, value in module.named_parameters(recurse=False):
            if value not in seen:
                seen.add(value)
                if only is None or name in only:
                    yield f"{name}.{key}", dense(value)


def handed_modules(model: nn.Module, everything: bool = False) -> dict[str, nn.Module]:
    """The modules whose weights `merged_weights` gives, by the base's names."""
    inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    modules = dict(_walk("", inner))
    changed = {name for name, module in modules.items() if everything or _changes(module)}
    wanted = changed | {other for name in changed for other in _fused_with(name)}
    return {name: module for name, module in modules.items() if name in wanted}


def handed_names(model: nn.Module, everything: bool = False) -> dict[str, list[str]]:
    """By module, the names of the weights that `merged_weights` gives; none is computed."""
    seen: set[nn.Parameter] = set()
    names: dict[str, list[str]] = {}
    for name, module in handed_modules(model, everything).items():
        if isinstance(module, BaseTunerLayer):
            base = cast(nn.Module, module.get_base_layer())
            keys = [key for key, _ in base.named_parameters()]
        else:
            own = list(module.named_parameters(recurse=False))
            keys = [key for key, value in own if value not in seen]
            seen.update(value for _, value in own)
        names[name] = [f"{name}.{key}" for key in keys]
    return names


def _walk(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Adapter layers undivided, and every other module with parameters of its own."""
    if isinstance(module, BaseTunerLayer):
        yield name, module
        return
    if any(True for _ in module.parameters(recurse=False)):
        yield name, module
    for child_name, child in module.named_children():
        yield from _walk(f"{name}.{child_name}" if name else child_name, child)


def _changes(module: nn.Module) -> bool:
    # a rounded weight changes, too: the engine has loaded the original
    quantized = any(hasattr(p, "quant_state") for p in module.parameters(recurse=False))
    trained = any(p.requires_grad for p in module.parameters(recurse=False))
    return isinstance(module, BaseTunerLayer) or quantized or trained


def _fused_with(name: str) -> Iterator[str]:
    parent, _, last = name.rpartition(".")
    for group in FUSED:
        if last in group:
            yield from (f"{parent}.{part}" for part in group)


def _merged(module: BaseTunerLayer) -> Iterator[tuple[str, Tensor]]:
    """The parameters of the base layer as training left them."""
    base: Any = module.get_base_layer()
    if hasattr(base.weight, "quant_state"):
        yield "weight", dense(base.weight) + _low_rank(module)
        if base.bias is not None:
            yield "bias", base.bias
        return
    # a copy in float32: merging in place and unmerging again would not give the base back
    merged = full_copy(cast(nn.Module, module))
    merged.float()
    merged.merge()
    for key, value in merged.get_base_layer().named_parameters():
        yield key, value.detach()


def _base(module: BaseTunerLayer) -> Iterator[tuple[str, Tensor]]:
    """The parameters of the base layer, which an adapter leaves alone."""
    base = cast(nn.Module, module.get_base_layer())
    yield from ((key, dense(value)) for key, value in base.named_parameters())


def _low_rank(layer: Any) -> Tensor:
    deltas = [layer.get_delta_weight(name).float() for name in layer.active_adapters]
    return torch.stack(deltas).sum(dim=0)


def dense(value: Tensor) -> Tensor:
    """The full tensor; a 4-bit weight dequantised to float32."""
    state = getattr(value, "quant_state", None)
    if state is None:
        return full_tensor(value)
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(value.data, state).float()
