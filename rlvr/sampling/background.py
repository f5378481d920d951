"""Rollouts that are collected in a second thread, while the policy is updated in the main one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import Executor, wait
from typing import TYPE_CHECKING

from rlvr.common.errors import RunError
from rlvr.common.signals import Stopped

if TYPE_CHECKING:
    from rlvr.sampling.rollouts import StepRollouts

GRACE_S = 10.0
"""What a collection is given once a signal has come; a checkpoint is due within 20 s."""
POLL_S = 0.2


class Cancelled(RunError):
    """What was collected ahead is no longer wanted."""


class BackgroundCollection:
    """One collection in another thread. It starts at once; `result` or `cancel` ends it."""

    def __init__(
        self, thread: Executor, collect: Callable[[Callable[[], None]], StepRollouts]
    ) -> None:
        """collect(safe_point): calls safe_point after every decoding step."""
        self._end_reason: Exception | None = None
        self._future = thread.submit(collect, self._raise_end_reason)

    def _raise_end_reason(self) -> None:
        if self._end_reason is not None:
            raise self._end_reason

    def cancel(self) -> None:
        """Ends the collection at its next decoding step and waits for that."""
        self._end_reason = Cancelled("the step that it ran beside has failed")
        wait([self._future])

    def result(self, safe_point: Callable[[], None]) -> StepRollouts:
        """Waits for the groups that were collected.

        When safe_point raises Stopped, the collection has GRACE_S to finish, since a checkpoint can
        keep what it has; then it ends with Stopped too. Raises: what the collection raised.
        """
        try:
            self._wait(safe_point)
            return self._future.result()
        except BaseException:  # a second SIGINT too: nothing may use the engine behind our back
            self.cancel()
            raise

    def _wait(self, safe_point: Callable[[], None]) -> None:
        stopped, deadline = None, math.inf
        while not self._future.done():
            if time.monotonic() > deadline:
                self._end_reason = stopped
            if stopped is None:
                try:
                    safe_point()
                except Stopped as error:
                    stopped, deadline = error, time.monotonic() + GRACE_S
            wait([self._future], timeout=POLL_S)
