"""A real engine's sessions with something done around them, for tests that watch or delay."""

from collections.abc import Callable, Sequence

from rlvr.engines.engine import Request, Response, SamplingParams, Session


class WatchedSession(Session):
    """Passes every call on. before_step(number): called before each decoding step, from 0 on."""

    def __init__(self, inner: Session, before_step: Callable[[int], None]) -> None:
        self.inner, self._before_step = inner, before_step
        self.by_clock = inner.by_clock
        self.num_steps = 0

    @property
    def num_running(self) -> int:
        return self.inner.num_running

    def add(self, requests: Sequence[Request]) -> None:
        self.inner.add(requests)

    def step(self) -> list[tuple[int, Response]]:
        self._before_step(self.num_steps)
        self.num_steps += 1
        return self.inner.step()

    def pause(self) -> tuple[list[tuple[int, Response]], list[tuple[int, Response]]]:
        return self.inner.pause()

    def close(self) -> None:
        self.inner.close()


def watched(
    open_session: Callable[[SamplingParams], Session], before_step: Callable[[int], None]
) -> Callable[[SamplingParams], Session]:
    """What to put in the place of an engine's `open`."""
    return lambda sampling: WatchedSession(open_session(sampling), before_step)
