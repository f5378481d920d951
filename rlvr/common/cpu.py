"""Compute types that this machine's processor has no units for. Imports torch only in `advice`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

UNITS = {
    "bfloat16": ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"),
    "float16": ("avx512_fp16", "amx_fp16", "fp16_arith"),
}
"""Instructions of x86 and ARM that compute in a type, any of which is enough, by torch's names."""


def is_slow(dtype: str, capabilities: Mapping[str, Any]) -> bool:
    """Whether a processor with these `torch.cpu.get_capabilities()` has no units for the type."""
    return dtype in UNITS and not any(capabilities.get(name) for name in UNITS[dtype])


def advice(dtype: str) -> str | None:
    """One line where a run would compute in a type that this machine has no units for, or None."""
    import torch

    if torch.cuda.is_available() or not is_slow(dtype, torch.cpu.get_capabilities()):
        return None
    return (
        f'model.dtype = "{dtype}": this CPU has no units for it, and float32 is more than ten times'
        ' faster here; set it to "float32"'
    )
