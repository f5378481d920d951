"""Loading a saved adapter onto its base."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from rlvr.adapters import METHODS
from rlvr.adapters.base import REFERENCE, Setup
from rlvr.adapters.methods.quantized import BASE_FILE
from rlvr.common.errors import ConfigError
from rlvr.config.adapter import AdapterConfig


def load_adapted(model: Any, folder: str | Path) -> Any:
    """The peft model of an adapter folder that a run saved, ready to generate.

    `PeftModel.from_pretrained` alone does it for every method but bitfit, houlsby and compacter,
    whose layers are ours, and qlora and loftq, whose base is quantised first.
    Raises: ConfigError for a folder that lacks some of the adapter's weights.
    """
    import peft
    from safetensors.torch import load_file

    from rlvr.adapters.methods import custom_peft_layers as layers  # noqa: F401  (adds our layer types to peft)

    base_file = Path(folder) / BASE_FILE
    if base_file.exists():
        config = AdapterConfig.model_validate_json(base_file.read_text())
        # the base is quantised as it was; what seed 0 draws is overwritten by the saved factors
        adapted = METHODS[config.method].apply(model, Setup(config, seed=0))
        saved = load_file(Path(folder) / "adapter_model.safetensors")
        found = peft.set_peft_model_state_dict(adapted, saved)
        # loftq's second adapter is the frozen start, which no folder holds
        wanted = [k for k in found.missing_keys if ".lora_" in k and f".{REFERENCE}." not in k]
        lost = wanted + found.unexpected_keys
        if lost:
            raise _incomplete(folder, ", ".join(lost[:4]))
        return adapted.eval()
    with warnings.catch_warnings():
        # peft only warns of missing weights, which would stay at their start
        warnings.filterwarnings("error", message="Found missing adapter keys")
        try:
            return peft.PeftModel.from_pretrained(model, str(folder)).eval()
        except UserWarning as warning:
            raise _incomplete(folder, str(warning)[:300]) from None


def is_mergeable(peft_type: str) -> bool:
    """Whether adapters of this peft type are a plain weight W + delta; only transformers runs the
    others."""
    from peft import PromptLearningConfig
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as CONFIGS

    from rlvr.adapters.methods.custom_peft_layers import BottleneckConfig

    config = CONFIGS.get(peft_type)  # pyright: ignore[reportArgumentType, reportCallIssue]
    return config is None or not issubclass(config, (PromptLearningConfig, BottleneckConfig))


def _incomplete(folder: str | Path, what: str) -> ConfigError:
    return ConfigError(
        f"{folder}: its weights do not fit its settings or the base ({what}); what is missing would"
        " stay at its start; give the whole folder, on the base that it was trained on"
    )
