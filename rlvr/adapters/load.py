"""Loading a saved adapter onto its base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlvr.adapter_config import AdapterConfig
from rlvr.adapters import METHODS
from rlvr.adapters.base import Setup
from rlvr.adapters.quantized import BASE_FILE


def load_adapted(model: Any, folder: str | Path) -> Any:
    """The peft model of an adapter folder that a run saved, ready to generate.

    `PeftModel.from_pretrained` alone does it for every method but bitfit, houlsby and compacter,
    whose layers are ours, and qlora and loftq, whose base is quantised first.
    """
    import peft
    from safetensors.torch import load_file

    from rlvr.adapters import layers  # noqa: F401  (adds our layer types to peft)

    base_file = Path(folder) / BASE_FILE
    if base_file.exists():
        config = AdapterConfig.model_validate_json(base_file.read_text())
        adapted = METHODS[config.method].apply(model, Setup(config, seed=0))
        saved = load_file(Path(folder) / "adapter_model.safetensors")
        peft.set_peft_model_state_dict(adapted, saved)
        return adapted.eval()
    return peft.PeftModel.from_pretrained(model, str(folder)).eval()
