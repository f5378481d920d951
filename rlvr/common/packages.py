"""Which optional packages are installed."""

import importlib.util


def is_vllm_installed() -> bool:
    """Whether vLLM can be imported; nothing is imported to find out."""
    return importlib.util.find_spec("vllm") is not None
