"""The checks of GPUs: memory, generation, driver, NCCL, and the attention kernel by a tiny call."""

from __future__ import annotations

import shutil
from typing import Any

from rlvr.common.errors import first_line
from rlvr.common.machine import nccl_version
from rlvr.doctor.check import Check

MIN_CAPABILITY = (8, 0)
"""Of a GPU that computes in bfloat16 itself and runs the varlen kernel: Ampere and later."""
MAX_DIFFERENCE = 2e-2
"""Between two attention kernels on values of size 1 in 16 bits."""


def gpu_checks(dtype: str) -> list[Check]:
    """Every check of the GPUs that torch sees. dtype: of the computation."""
    import torch

    if not torch.cuda.is_available():
        return [_without_gpu()]
    checks = [judge_driver(_driver_version(), torch.version.cuda or "")]
    for index in range(torch.cuda.device_count()):
        free, total = (part / 2**30 for part in torch.cuda.mem_get_info(index))
        name = torch.cuda.get_device_name(index)
        busy = free < 0.9 * total
        remedy = "another process holds its memory: see nvidia-smi" if busy else ""
        found = f"{name}, {free:.0f} of {total:.0f} GiB free"
        checks.append(Check(f"gpu {index}", "warn" if busy else "ok", found, remedy))
        capability = torch.cuda.get_device_capability(index)
        checks.append(judge_capability(index, capability, dtype))
    checks.append(_attention(dtype))
    return checks + (_nccl() if torch.cuda.device_count() > 1 else [])


def _without_gpu() -> Check:
    import torch

    if shutil.which("nvidia-smi") is None:
        remedy = "fine for the quickstart; for a GPU, install its driver and torch for CUDA"
        return Check("gpu", "warn", "no CUDA device: the CPU trains and generates", remedy)
    if torch.version.cuda is None:
        remedy = "install torch built for CUDA: pip install torch"
        return Check(
            "gpu", "fail", f"nvidia-smi is there, torch {torch.__version__} is for CPU", remedy
        )
    found = f"nvidia-smi is there, and torch for CUDA {torch.version.cuda} sees no device"
    remedy = "see nvidia-smi: a driver that is too old, no device, or CUDA_VISIBLE_DEVICES is empty"
    return Check("gpu", "fail", found, remedy)


def _driver_version() -> int:
    import torch

    # torch has no public call that gives it
    return torch._C._cuda_getDriverVersion()  # pyright: ignore[reportAttributeAccessIssue]


def judge_driver(driver: int, cuda: str) -> Check:
    """Whether a driver runs what torch was built for. driver: the newest CUDA it knows, 1000 major
    + 10 minor; cuda: as "13.0". Within a major version any driver does."""
    newest = f"{driver // 1000}.{driver % 1000 // 10}"
    found = f"for CUDA {newest}, torch is built for {cuda}"
    if driver // 1000 < int(cuda.split(".")[0] or 0):
        remedy = f"update the driver to one for CUDA {cuda}, or install torch for CUDA {newest}"
        return Check("driver", "fail", found, remedy)
    return Check("driver", "ok", found)


def judge_capability(index: int, capability: tuple[int, int], dtype: str) -> Check:
    """Whether a GPU of this compute capability trains in this type.

    torch says that older GPUs have bfloat16 too: they emulate it.
    """
    name, found = f"gpu {index} capability", ".".join(map(str, capability))
    if capability >= MIN_CAPABILITY:
        return Check(name, "ok", found)
    found += ": no bfloat16 of its own and no kernel for packed rows in 16 bits"
    if dtype == "float32":
        return Check(name, "warn", found, "float32 runs, slowly; take an A100, L4 or newer")
    return Check(name, "fail", found, 'take an A100, L4 or newer, or set model.dtype = "float32"')


def _attention(dtype: str) -> Check:
    """The kernel that packed rows go through, against plain attention on two tiny rows."""
    import torch

    if dtype == "float32":
        return Check("attention", "ok", "float32 does not need the varlen kernel")
    try:
        difference = varlen_difference(getattr(torch, dtype))
    except (ImportError, RuntimeError, NotImplementedError) as error:
        reason = first_line(error)
        remedy = "install torch 2.11 or newer, built for this GPU"
        return Check("attention", "fail", f"torch's varlen kernel does not run: {reason}", remedy)
    if difference > MAX_DIFFERENCE:
        found = f"torch's varlen kernel is off by {difference:.2g}"
        return Check("attention", "fail", found, "install another torch; report it to its authors")
    return Check("attention", "ok", f"torch's varlen kernel runs, off by {difference:.1g}")


def varlen_difference(dtype: Any) -> float:
    """The largest difference between our packed attention and plain causal attention, on the GPU:
    rows of 5 and 9 tokens, 4 heads over 2."""
    import torch
    from torch.nn import functional

    from rlvr.policy.attention import attention
    from rlvr.policy.packing import TokenRow, pack

    device = torch.device("cuda")
    # rows end to end, which is what the varlen kernel takes
    packing = pack([TokenRow([1], [2] * 5), TokenRow([3], [4] * 9)], device, bucketed=False)
    draw = torch.Generator(device).manual_seed(0)
    q, k, v = (
        torch.randn(1, heads, 14, 64, generator=draw, device=device, dtype=dtype)
        for heads in (4, 2, 2)
    )
    packed = attention(torch.nn.Identity(), q, k, v, None, packing=packing)[0]
    # 5 and 9 positions: the prompt's token, and all of a response but its last
    plain = [
        functional.scaled_dot_product_attention(*part, is_causal=True, enable_gqa=True)
        for part in zip(*(x.split([5, 9], dim=2) for x in (q, k, v)), strict=True)
    ]
    return float((packed - torch.cat(plain, dim=2).transpose(1, 2)).abs().max())


def _nccl() -> list[Check]:
    version = nccl_version()
    if version is None:
        return [Check("nccl", "fail", "missing", "install torch built with NCCL")]
    return [Check("nccl", "ok", f"version {version}")]
