"""Two parts that go wrong on purpose."""

from __future__ import annotations

import subprocess
import sys
import time

from tests.benchmarks.first_gpu.report import Report


def fails(report: Report, _tiny: bool) -> None:
    """Reports something, then raises."""
    report(half="done")
    raise RuntimeError("planted failure")


def hangs(report: Report, _tiny: bool) -> None:
    """Waits for ever, beside a process that does so too."""
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    report(started=other.pid)
    print("planted hang", flush=True)
    time.sleep(3600)
