"""Work in a second thread, beside the update of the policy in the main one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from rlvr.common.errors import RunError

T = TypeVar("T")

POLL_S = 0.2


class Cancelled(RunError):
    """What was begun in the background is no longer wanted."""


class Background:
    """A thread that does one piece of work after the other, in the order given.

    When a piece fails, those behind it fail with the same error: each depends on those before it.
    """

    def __init__(self) -> None:
        # one thread for the whole run: libraries keep state by thread, such as OpenMP its team
        self._thread = ThreadPoolExecutor(1, "rollout")
        self._cancelled = False
        self._failure: Exception | None = None
        self._last: Future[Any] | None = None

    def submit(self, work: Callable[[Callable[[], None]], T]) -> Future[T]:
        """The result of work(safe_point), later. It calls safe_point after every decoding step."""
        self._last = future = self._thread.submit(self._do, work)
        return future

    def _do(self, work: Callable[[Callable[[], None]], T]) -> T:
        try:
            if self._failure is not None:
                raise self._failure
            # not asked before the work begins: other ranks may be in it already, and wait for this
            return work(self._raise_if_cancelled)
        except Exception as error:  # also for the work behind it, which must not begin
            self._failure = error
            raise

    def _raise_if_cancelled(self) -> None:
        if self._cancelled:
            raise Cancelled("a collection ahead was given up with the run's end")

    def drain(self, safe_point: Callable[[], None]) -> None:
        """Waits for all that was submitted. Raises: what one of the pieces raised, what safe_point
        raises."""
        if self._last is not None:
            result(self._last, safe_point)

    def forget_failure(self) -> None:
        """Takes work again after a failure. All that was submitted has to be over."""
        self._failure = self._last = None

    def cancel(self) -> None:
        """Ends the work under way at its next decoding step, gives up what is behind it, and waits
        for that."""
        self._cancelled = True
        if self._last is not None:
            wait([self._last])
        self._cancelled = False
        self.forget_failure()


def result(future: Future[T], safe_point: Callable[[], None]) -> T:
    """The future's result, once it is there; asks safe_point meanwhile, which may raise."""
    while not future.done():
        safe_point()
        wait([future], timeout=POLL_S)
    return future.result()
