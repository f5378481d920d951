"""SIGINT and SIGTERM end a run at the next safe point, with a checkpoint."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, ClassVar


class Stopped(Exception):
    """A signal asked the run to end."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


class StopRequest:
    """Remembers the first signal; `check` raises Stopped. A second SIGINT ends at once.

    Only the main thread receives signals: one made in another thread stops with the main thread's.
    """

    _receiving: ClassVar[list[StopRequest]] = []

    def __init__(self) -> None:
        self._signum: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if not _receives_signals():  # then whoever owns the process ends it
            return self
        self._receiving.append(self)
        for signum in (signal.SIGINT, signal.SIGTERM):
            self._before[signum] = signal.signal(signum, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        if self in self._receiving:
            self._receiving.remove(self)

    def _remember(self, signum: int, _frame: FrameType | None) -> None:
        if self._signum is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self._signum = signum

    def check(self) -> None:
        """Raises: Stopped when a signal has come."""
        requests = [self] if _receives_signals() else self._receiving
        for request in requests:
            if request._signum is not None:
                raise Stopped(request._signum)


def never_stop() -> None:
    """The safe point of work that nothing stops."""


class StickyInterrupt:
    """Raises KeyboardInterrupt on SIGINT as Python does, and remembers it.

    Python drops what is raised inside a __del__ or a callback of C code, and libraries make other
    errors of what is raised in an import. came: whether there was one; `check` raises it again.
    """

    def __init__(self) -> None:
        self.came = False
        self._before: Any = None

    def __enter__(self) -> StickyInterrupt:
        before = signal.getsignal(signal.SIGINT)
        outer = isinstance(getattr(before, "__self__", None), StickyInterrupt)
        # any other handler is that of the program around us
        if _receives_signals() and (outer or before is signal.default_int_handler):
            self._before = signal.signal(signal.SIGINT, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _remember(self, signum: int, frame: FrameType | None) -> None:
        self.came = True
        self._before(signum, frame)  # raises

    def check(self) -> None:
        """Raises: KeyboardInterrupt when one has come."""
        if self.came:
            raise KeyboardInterrupt


def _receives_signals() -> bool:
    """Whether Python runs handlers in this thread and lets it install them."""
    return threading.current_thread() is threading.main_thread()
