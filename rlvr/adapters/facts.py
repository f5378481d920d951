"""What is really trained, read off the live objects: layers, peft settings, optimizer groups."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from rlvr.adapters.merge import dense, merged_weights, plain_name
from rlvr.distributed.sharded_tensors import full_tensor, num_elements, shape

_ATTRIBUTES = {
    "r": "rank",
    "scaling": "scaling",
    "fourierft_n_frequency": "num_frequencies",
    "fourierft_scaling": "scaling",
    "oft_block_size": "block_size",
    "boft_block_size": "block_size",
    "hra_r": "rank",
    "miss_r": "rank",
}
"""Attributes of peft's layers, each a dict by adapter name, and what the manifest calls them."""


def module_facts(model: nn.Module) -> dict[str, dict[str, Any]]:
    """For every trained module: shape and dtype of its base, what it trains, rank and scaling."""
    layers = {n: m for n, m in model.named_modules() if isinstance(m, BaseTunerLayer)}
    facts = {plain_name(name): _layer_facts(layer) for name, layer in layers.items()}
    outside = {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and not any(name.startswith(f"{layer}.") for layer in layers)
    }
    return facts | {plain_name(name): _tensor_facts(value) for name, value in outside.items()}


def _tensor_facts(value: torch.Tensor) -> dict[str, Any]:
    facts: dict[str, Any] = {"shape": list(shape(value)), "dtype": str(value.dtype)}
    if value.requires_grad:  # the norm of its initialisation
        facts["norm"] = float(full_tensor(value).float().norm())
    return facts


def _layer_facts(layer: Any) -> dict[str, Any]:
    base = layer.get_base_layer().weight
    facts = _tensor_facts(base)
    facts["trained"] = {
        name: _tensor_facts(value)
        for name, value in layer.named_parameters()
        if value.requires_grad
    }
    if hasattr(base, "quant_state"):
        facts["shape"] = list(base.quant_state.shape)
        facts["quantized"] = {"type": base.quant_type, "double": base.quant_state.nested}
    for attribute, shown in _ATTRIBUTES.items():
        values = getattr(layer, attribute, None)
        if isinstance(values, dict) and "default" in values:
            facts[shown] = values["default"]
    if "start" in getattr(layer, "lora_A", {}):  # the frozen twin of methods.nonzero_init
        facts["start"] = {
            "A_max": float(full_tensor(layer.lora_A["start"].weight).abs().max()),
            "B_max": float(full_tensor(layer.lora_B["start"].weight).abs().max()),
        }
    return facts


def peft_facts(model: nn.Module) -> dict[str, Any] | None:
    """The live peft configuration, only what differs from peft's defaults; None without peft."""
    configs: Any = getattr(model, "peft_config", None)
    if not configs:
        return None
    config = configs["default"]
    facts = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        made = field.default_factory
        default = field.default if made is dataclasses.MISSING else made()
        # the base stands elsewhere in the manifest; peft's own file leaves runtime_config out too
        if value != default and not field.name.startswith(("base_model", "runtime")):
            facts[field.name] = _json_ready(value)
    return facts


def _json_ready(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {k: _json_ready(v) for k, v in dataclasses.asdict(value).items()}
    if isinstance(value, dict):
        return {str(k): _json_ready(v) for k, v in value.items()}
    if isinstance(value, (set, list, tuple)):
        # a set has no order of its own: equal runs have equal manifests
        return sorted(map(str, value))
    return value if isinstance(value, (int, float, bool, type(None))) else str(value)


def optimizer_facts(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's class, and per group its plain settings and number of trained parameters."""
    groups = []
    for group in optimizer.param_groups:
        plain = {k: v for k, v in group.items() if isinstance(v, (int, float, str, bool, tuple))}
        trained = sum(num_elements(p) for p in group["params"] if p.requires_grad)
        groups.append(plain | {"num_parameters": trained})
    return {"class": type(optimizer).__name__, "groups": groups}


@torch.no_grad()
def update_norms(
    model: nn.Module, start: dict[str, torch.Tensor] | None = None
) -> dict[str, float]:
    """Frobenius norm of the change of every weight that training moved, by the base's name.

    start: the original weights, needed where the model itself was trained; else the base inside,
    also where it is quantised. What cannot be merged is left out.
    """
    if start is None:
        start = {
            plain_name(name): value
            for name, value in model.named_parameters()
            if not value.requires_grad
        }
    norms = {}
    for name, value in merged_weights(model):
        before = start.get(name)
        if before is not None:
            change = float((value.float() - dense(before).to(value.device).float()).norm())
            if change > 0:
                norms[name] = change
    return norms


def tensor_norms(now: dict[str, torch.Tensor], start: dict[str, torch.Tensor]) -> dict[str, float]:
    """Frobenius norm of the change of every tensor that differs from its start, by name."""
    norms = {n: float((value.float() - start[n].float()).norm()) for n, value in now.items()}
    return {name: change for name, change in norms.items() if change > 0}
