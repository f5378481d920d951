"""Adapters on a 4-bit base: QLoRA and LoftQ, through bitsandbytes."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.adapters.base import LORA_OPTIONS, REFERENCE, Method, Setup, adamw, wrap
from rlvr.adapters.export import lora_layers, save_as_peft
from rlvr.adapters.methods.lora import lora_config
from rlvr.common.errors import ConfigError

BASE_FILE = "quantized_base.json"

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from rlvr.config.train import AdapterConfig, OptimConfig


def check_installed(config: AdapterConfig, _num_updates: int | None) -> None:
    """Raises: ConfigError without bitsandbytes."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"adapter.method = {config.method!r}: needs bitsandbytes; pip install"
            " 'rlvr[quantized]', or take lora"
        )


def _bitsandbytes_nn() -> Any:
    import bitsandbytes

    return bitsandbytes.nn


def _quantize(model: Any, setup: Setup) -> Any:
    """The model with every linear layer but the head in 4 bits. Source: 2305.14314."""
    import torch
    from torch import nn

    quantized = _bitsandbytes_nn()
    block = setup.config.qlora
    compute = model.dtype if model.dtype.is_floating_point else torch.float32
    found = False
    # base_model ends before the head
    for module in list(model.base_model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is not nn.Linear:  # a subclass may compute something else
                continue
            found = True
            if child.weight.is_meta:  # only counted
                continue
            small = quantized.Linear4bit(
                child.in_features,
                child.out_features,
                bias=child.bias is not None,
                compute_dtype=compute,
                compress_statistics=block.double_quant,
                quant_type=block.quant_type,
            )
            small.weight = quantized.Params4bit(
                child.weight.data.clone(),
                requires_grad=False,
                compress_statistics=block.double_quant,
                quant_type=block.quant_type,
                module=small,
            )
            small.bias = child.bias
            small.support_avx512bf16_for_cpu = False  # it would repack the weight while we read it
            # bitsandbytes quantises a weight when it is moved to a device
            setattr(module, name, small.to(child.weight.device))
    if not found:
        raise ConfigError(
            f"adapter.method = {setup.config.method!r}: {type(model).__name__} has no linear layer"
            " of torch's kind, so nothing would be in 4 bits; take lora"
        )
    model.is_loaded_in_4bit = True  # peft looks at this to wrap 4-bit layers in its own kind
    return model.requires_grad_(False)


def _qlora(model: Any, setup: Setup) -> Any:
    """LoRA on the 4-bit base."""
    return wrap(_quantize(model, setup), lora_config(setup), setup.seed)


def _loftq(model: Any, setup: Setup) -> Any:
    """LoRA on the 4-bit base Q, started at the rank-r part of W - Q. Source: 2310.08659.

    `iterations` rounds, from B A = 0, of Q = quantise(W - scaling B A) and
    B A = SVD_r(W - Q) / scaling. The reference policy is that start, not Q: a frozen twin of it.
    """
    from rlvr.adapters.merge import plain_name

    config = lora_config(setup)
    weights = {
        name: module.weight.detach().clone()
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in setup.config.target_modules
    }
    adapted = wrap(_quantize(model, setup), config, setup.seed)
    for name, layer in lora_layers(adapted).items():
        weight = weights[plain_name(name)].float()
        if weight.is_meta:
            continue
        if not hasattr(layer.get_base_layer().weight, "quant_state"):
            raise ConfigError(
                f"adapter.target_modules: loftq starts from the rounding error of 4 bits, and"
                f" {name} stays as it is; leave it out, or take qlora"
            )
        _fit(layer, weight, setup.rank)
        for _ in range(setup.config.loftq.iterations - 1):
            _requantize(layer, weight - layer.get_delta_weight("default").detach())
            _fit(layer, weight, setup.rank)
    _keep_start(adapted, config)
    return adapted


def _keep_start(adapted: Any, config: Any) -> None:
    """A frozen twin of the present factors, active while the reference policy is asked."""
    import torch

    with torch.random.fork_rng():  # peft draws factors, which are overwritten below
        adapted.add_adapter(REFERENCE, copy.deepcopy(config))
    adapted.base_model.set_adapter("default")
    for layer in lora_layers(adapted).values():
        for factors in (layer.lora_A, layer.lora_B):
            # cloned: they would follow the trained factors otherwise
            factors[REFERENCE].weight.data = factors["default"].weight.data.clone()
            factors[REFERENCE].weight.requires_grad_(False)


def _fit(layer: Any, weight: Any, rank: int) -> None:
    """A and B whose scaled product is the best rank-r approximation of what rounding took."""
    import torch

    from rlvr.adapters.merge import dense

    rounded = dense(layer.get_base_layer().weight)
    u, s, vh = torch.linalg.svd(weight - rounded, full_matrices=False)
    root = (s[:rank] / layer.scaling["default"]).sqrt()
    layer.lora_A["default"].weight.data = (root[:, None] * vh[:rank]).contiguous()
    layer.lora_B["default"].weight.data = (u[:, :rank] * root).contiguous()


def _requantize(layer: Any, weight: Any) -> None:
    nn = _bitsandbytes_nn()
    base = layer.get_base_layer()
    old = base.weight
    base.weight = nn.Params4bit(
        weight,
        requires_grad=False,
        compress_statistics=old.compress_statistics,
        quant_type=old.quant_type,
        module=base,
    )
    # the move is what quantises
    base.to(old.device)


def _save(model: Any, folder: Path, config: AdapterConfig) -> None:
    """peft's folder, and the settings that make the quantised base again from the original."""
    # without a selection peft saves the frozen twin beside it
    save_as_peft(model, folder, selected_adapters=["default"])
    (folder / BASE_FILE).write_text(config.model_dump_json(exclude={"start_from"}))


def _paged_adamw(model: nn.Module, config: AdapterConfig, optim: OptimConfig) -> Optimizer:
    """bitsandbytes' paged AdamW on a GPU; plain AdamW elsewhere, where there is nothing to page."""
    trained = [p for p in model.parameters() if p.requires_grad]
    if trained[0].device.type != "cuda":
        return adamw(model, config, optim)
    from rlvr.adapters.optimizers import build_optimizer

    return build_optimizer(trained, optim.model_copy(update={"name": "paged_adamw"}))


_ROUNDED = "the base is rounded to 4 bits"

METHODS = (
    Method(
        name="qlora",
        paper="2305.14314",
        trains="A and B of every target module on a 4-bit base",
        options=LORA_OPTIONS | {"qlora"},
        apply=_qlora,
        optimizer=_paged_adamw,
        own_optimizer=True,
        save=_save,
        check=check_installed,
        start=_ROUNDED,
    ),
    Method(
        name="loftq",
        paper="2310.08659",
        trains="A and B of every target module on a 4-bit base, from its rounding error",
        options=(LORA_OPTIONS - {"seed"}) | {"qlora", "loftq"},  # computed: nothing is drawn
        apply=_loftq,
        optimizer=_paged_adamw,
        own_optimizer=True,
        save=_save,
        check=check_installed,
        start=_ROUNDED,
    ),
)
