"""Where and with what a benchmark ran, for its JSON file."""

from __future__ import annotations

import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlvr.common.machine import gpu_facts, versions


def facts(argv: Sequence[str] | None) -> dict[str, Any]:
    """machine, date (UTC), versions and command, JSON-ready."""
    module = Path(sys.argv[0]).stem
    return {
        "machine": {
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
            "load": os.getloadavg()[0],
        },
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "versions": versions(),
        "gpu": gpu_facts(),
        "command": f"python -m tests.benchmarks.{module} {shlex.join(argv or [])}".strip(),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
