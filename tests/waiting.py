"""Waits that end with what they wait for; their limits only keep a hang from lasting for ever."""

from __future__ import annotations

import time
from collections.abc import Callable

HANG_S = 600.0
"""Far above what anything here takes on a busy machine."""


def wait_until(condition: Callable[[], object], hang_s: float = HANG_S) -> bool:
    """Whether the condition comes true; False only after a time that means that it never will."""
    end = time.monotonic() + hang_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True
