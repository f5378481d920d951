"""Vectors only: (IA)3 scales activations, LN-tuning trains norms, BitFit trains biases."""

from __future__ import annotations

from typing import Any

from rlvr.adapters.base import Method, Setup, wrap
from rlvr.common.errors import ConfigError


def _ia3(model: Any, setup: Setup) -> Any:
    """A scale per output of each target module; per input of down_proj. Source: 2205.05638."""
    import peft

    modules = list(setup.config.target_modules)
    config = peft.IA3Config(
        target_modules=modules,
        # peft refuses names that are not among the targets
        feedforward_modules=[name for name in modules if name == "down_proj"],
        task_type=peft.TaskType.CAUSAL_LM,
    )
    return wrap(model, config, setup.seed)


def _ln_tuning(model: Any, setup: Setup) -> Any:
    """A trained float32 copy of every norm's weight. Source: 2312.11420."""
    import peft

    norms = sorted(name for name, m in model.named_modules() if type(m).__name__.endswith("Norm"))
    config = peft.LNTuningConfig(target_modules=norms, task_type=peft.TaskType.CAUSAL_LM)
    adapted = wrap(model, config, setup.seed)
    for parameter in adapted.parameters():
        if parameter.requires_grad:  # in bfloat16 a norm near 1 moves in steps of 0.4%
            parameter.data = parameter.data.float()
    return adapted


def _bitfit(model: Any, setup: Setup) -> Any:
    """An addition to every bias that the model has. Source: 2106.10199."""
    from rlvr.adapters.methods.custom_peft_layers import bitfit_config

    biased = sorted(
        name for name, m in model.named_modules() if getattr(m, "bias", None) is not None
    )
    if not biased:
        raise ConfigError(
            "adapter.method = 'bitfit': this model has no bias to train; take ln_tuning or ia3"
        )
    return wrap(model, bitfit_config(biased), setup.seed)


METHODS = (
    Method(
        name="ia3",
        paper="2205.05638",
        trains="one scale per output of every target module (per input of down_proj)",
        options=frozenset({"target_modules"}),
        apply=_ia3,
    ),
    Method(
        name="ln_tuning",
        paper="2312.11420",
        trains="the weight of every norm",
        apply=_ln_tuning,
    ),
    Method(
        name="bitfit",
        paper="2106.10199",
        trains="every bias that the model has",
        apply=_bitfit,
    ),
)
