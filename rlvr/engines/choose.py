"""Which engine generates, decided in one place for training, evaluation and their checks."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlvr.adapters.base import Method


def is_vllm_installed() -> bool:
    """Whether vLLM can be imported; nothing is imported to find out."""
    return importlib.util.find_spec("vllm") is not None


def choose_engine(wanted: str, method: Method | None = None) -> str:
    """The engine's name: `wanted`, or for "auto" vLLM where it is installed and serves the method.

    method: what is trained; None for weights that vLLM serves in any case.
    """
    if wanted != "auto":
        return wanted
    return "vllm" if why_not_vllm(method) is None else "transformers"


def why_not_vllm(method: Method | None = None) -> str | None:
    """One line for the user where "auto" takes transformers; None where it takes vLLM."""
    slowly = "generating with transformers, slowly"
    if not is_vllm_installed():
        return f"vLLM is not installed: {slowly}"
    if method is not None and not method.syncs:
        return f"vLLM cannot serve {method.name}: {slowly}"
    return None
