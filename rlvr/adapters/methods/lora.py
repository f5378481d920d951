"""Low-rank adapters through peft that start at the base policy: W + scaling B A with B = 0."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rlvr.adapters.base import LORA_OPTIONS, Method, Setup, wrap
from rlvr.adapters.export import lora_layers

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from rlvr.config.train import AdapterConfig, OptimConfig


def lora_config(setup: Setup, **extra: Any) -> Any:
    """peft's LoraConfig from the common settings. Scaling is alpha / r, or alpha / sqrt(r)."""
    import peft

    settings = {
        "r": setup.rank,
        "lora_alpha": setup.alpha,
        "lora_dropout": setup.config.dropout,
        "target_modules": list(setup.config.target_modules),
        "use_rslora": setup.config.scaling == "sqrt_rank",
        "bias": "none",
        "task_type": peft.TaskType.CAUSAL_LM,
    }
    return peft.LoraConfig(**(settings | extra))


def _lora(model: Any, setup: Setup) -> Any:
    """A random and B zero on every target module. Source: 2106.09685."""
    return wrap(model, lora_config(setup), setup.seed)


def _rslora(model: Any, setup: Setup) -> Any:
    """LoRA scaled by alpha / sqrt(r). Source: 2312.03732."""
    return wrap(model, lora_config(setup, use_rslora=True), setup.seed)


def _dora(model: Any, setup: Setup) -> Any:
    """LoRA on the direction of W, and its column norms as a trained vector. Source: 2402.09353."""
    from rlvr.adapters.rounding import restart_magnitudes

    adapted = wrap(model, lora_config(setup, use_dora=True), setup.seed)
    restart_magnitudes(adapted)
    return adapted


def _lora_fa(model: Any, setup: Setup) -> Any:
    """LoRA with A frozen at its random start. Source: 2308.03303."""
    adapted = wrap(model, lora_config(setup), setup.seed)
    for name, parameter in adapted.named_parameters():
        if ".lora_A." in name:
            parameter.requires_grad_(False)
    return adapted


def _lora_plus_optimizer(model: nn.Module, config: AdapterConfig, optim: OptimConfig) -> Optimizer:
    """AdamW with the learning rate of B `lr_ratio` times that of A. Source: 2402.12354."""
    from rlvr.adapters.optimizers import build_optimizer

    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return build_optimizer(
        [
            {"params": [p for name, p in trained if ".lora_B." not in name], "lr_ratio": 1.0},
            {
                "params": [p for name, p in trained if ".lora_B." in name],
                "lr_ratio": config.lora_plus.lr_ratio,
            },
        ],
        optim,
    )


def _lora_fa_optimizer(model: nn.Module, config: AdapterConfig, optim: OptimConfig) -> Optimizer:
    """peft's LoRA-FA: the gradient of B becomes (A A^T)^-1-preconditioned. Source: 2308.03303.

    peft forms that product in bfloat16 where the machine has it.
    """
    from peft.optimizers.lorafa import LoraFAOptimizer

    params, names, scalings = [], [], []
    for name, layer in lora_layers(model).items():
        # A first, though frozen: peft's step pairs each B with the factor before it
        params += [layer.lora_A["default"].weight, layer.lora_B["default"].weight]
        names += [f"{name}.lora_A", f"{name}.lora_B"]
        scalings += [layer.scaling["default"]] * 2
    groups: Any = [{"params": params, "names": names, "scaling_factors": scalings}]
    return LoraFAOptimizer(
        groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, weight_decay=optim.weight_decay
    )


_FACTORS = "A (r x in) and B (out x r) of every target module"

METHODS = (
    Method(
        name="lora",
        paper="2106.09685",
        trains=_FACTORS,
        syncs=("adapter", "merged"),
        options=LORA_OPTIONS,
        apply=_lora,
    ),
    Method(
        name="rslora",
        paper="2312.03732",
        trains=f"{_FACTORS}, scaled by alpha / sqrt(r)",
        syncs=("adapter", "merged"),
        options=LORA_OPTIONS - {"scaling"},
        apply=_rslora,
    ),
    Method(
        name="dora",  # no adapter sync: vLLM serves no DoRA
        paper="2402.09353",
        trains=f"{_FACTORS}, and a magnitude per output",
        options=LORA_OPTIONS,
        apply=_dora,
    ),
    Method(
        name="lora_plus",
        paper="2402.12354",
        trains=f"{_FACTORS}, B at a higher learning rate",
        syncs=("adapter", "merged"),
        options=LORA_OPTIONS | {"lora_plus"},
        apply=_lora,
        optimizer=_lora_plus_optimizer,
    ),
    Method(
        name="lora_fa",
        paper="2308.03303",
        trains="B (out x r) of every target module; A stays as drawn",
        syncs=("adapter", "merged"),
        options=LORA_OPTIONS,
        apply=_lora_fa,
        optimizer=_lora_fa_optimizer,
        own_optimizer=True,
    ),
)
