"""One vLLM for several runs. Those that have an adapter in it decode in the same steps; one whose
weights take the place of the base's has it for itself from its sync to the end of its rollouts."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.engines.engine import Engine, SamplingParams
from rlvr.engines.vllm_local import VllmEngine, VllmSession

if TYPE_CHECKING:
    from torch import Tensor

    from rlvr.engines.weights.fingerprint import Piece


class SharedVllm:
    """A vLLM, who may use it, and which of the base's weights it does not hold just now."""

    def __init__(
        self, engine: VllmEngine, step: Callable[[], float], base: Mapping[str, Tensor]
    ) -> None:
        """step: decodes a step for all runs that wait for one; the fraction of the cache in use.
        base: every weight that a run may replace, by name."""
        self.engine, self.step = engine, step
        self._base = base
        self._replaced: set[str] = set()
        self._users: dict[int, bool] = {}
        self._queue: list[int] = []

    def enter(self, number: int, alone: bool) -> None:
        """Waits until this run may use it, and gives it the base's weights back. First come, first
        served: runs that share their steps do not overtake one that needs it alone."""
        if number in self._users:
            return
        self._queue.append(number)
        try:
            while self._queue[0] != number or not self._is_open(alone):
                self.step()
        finally:  # an engine that dies meanwhile ends the waiting
            self._queue.remove(number)
        self._users[number] = alone
        if self._replaced:
            self.engine.load_weights((name, self._base[name]) for name in sorted(self._replaced))
            self._replaced.clear()

    def _is_open(self, alone: bool) -> bool:
        return not self._users or not (alone or any(self._users.values()))

    def leave(self, number: int) -> None:
        """Lets the next in; a run that is not in may call it, too."""
        self._users.pop(number, None)

    def replace(self, weights: Iterable[tuple[str, Tensor]]) -> int:
        """`load_weights` by the run that has it alone."""

        def noted() -> Iterator[tuple[str, Tensor]]:
            for name, value in weights:
                self._replaced.add(name)
                yield name, value

        return self.engine.load_weights(noted())


class VllmShare(Engine):
    """One run's part of a vLLM that several runs share, from `wake` to `sleep`."""

    name = "vllm"

    def __init__(self, shared: SharedVllm, number: int, alone: bool) -> None:
        """number: of the run and of its adapter, from 1. alone: its weights replace the base's."""
        self._shared, self._engine = shared, shared.engine
        self._number, self._alone = number, alone
        self._adapter: Any = None

    @property
    def lost(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._engine.lost

    def open(self, sampling: SamplingParams) -> VllmSession:
        return VllmSession(self._engine, sampling, self._adapter, self._shared.step)

    def score(self, sequences: Sequence[list[int]]) -> list[list[float]]:
        return self._engine.score_by(self._adapter, self._shared.step, sequences)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> int:
        return self._shared.replace(weights)

    def load_adapter(self, folder: Path) -> int:
        self._adapter, num_bytes = self._engine.adapter_of(folder, self._number)
        return num_bytes

    def read_back(self, names: Sequence[str]) -> Mapping[str, Sequence[Piece]]:
        return self._engine.read_back_of(self._adapter, names)

    def sleep(self) -> None:
        self._shared.leave(self._number)

    def wake(self) -> None:
        """Waits for the engine. Before that it returns to the system what the update has freed: the
        C library keeps it apart for every thread, and each run has one."""
        with contextlib.suppress(AttributeError, OSError):  # not glibc
            ctypes.CDLL(None).malloc_trim(0)
        self._shared.enter(self._number, self._alone)

    def close(self) -> None:
        """Leaves vLLM to the other runs."""
        self._shared.leave(self._number)
