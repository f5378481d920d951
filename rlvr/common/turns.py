"""Threads that take turns: one runs at a time, and work that all of them wait for is done once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")

POLL_S = 0.2


class Turns(Generic[T]):
    """Runs jobs in threads that share libraries with global state, such as torch's generator.

    A thread runs until it ends or calls `join`. When none is left that could run, the joint work is
    done and all that wait get its result, in the order of their numbers. So what happens depends on
    the jobs alone, never on the clock.
    """

    def __init__(self, joint: Callable[[], T]) -> None:
        self._joint = joint
        self._changed = threading.Condition()
        self._numbers: dict[int, int] = {}
        self._ready: list[int] = []
        self._waiting: list[int] = []
        self._current: int | None = None
        self._given: T | Exception | None = None

    def run(self, jobs: Sequence[Callable[[], None]]) -> None:
        """Does all jobs. They must not raise."""
        self._ready = list(range(1, len(jobs)))
        self._current = 0
        # of a process that is interrupted twice nothing may keep it alive
        threads = [
            threading.Thread(target=self._do, args=(i, job), daemon=True, name=f"run{i}")
            for i, job in enumerate(jobs)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():  # asked again and again: signals come between
                thread.join(POLL_S)

    def _do(self, number: int, job: Callable[[], None]) -> None:
        self._numbers[threading.get_ident()] = number
        self._await_turn(number)
        try:
            job()
        finally:
            self._pass_on()

    def join(self) -> T:
        """The result of the next joint work. Raises: what that raised."""
        number = self._numbers[threading.get_ident()]
        self._waiting.append(number)
        self._pass_on()
        self._await_turn(number)
        if isinstance(self._given, Exception):
            raise self._given
        return self._given  # pyright: ignore[reportReturnType]

    def _pass_on(self) -> None:
        if not self._ready and self._waiting:
            try:
                self._given = self._joint()
            except Exception as error:  # raised again by every thread that waited for it
                self._given = error
            self._ready, self._waiting = sorted(self._waiting), []
        with self._changed:
            self._current = self._ready.pop(0) if self._ready else None
            self._changed.notify_all()

    def _await_turn(self, number: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._current == number)
