"""One vLLM for several runs: each has an adapter of its own, and all decode in the same steps."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.common.errors import RunError
from rlvr.engines.engine import Engine, SamplingParams
from rlvr.engines.vllm_local import VllmEngine, VllmSession

if TYPE_CHECKING:
    from torch import Tensor

    from rlvr.engines.weights.fingerprint import Piece


class VllmShare(Engine):
    """One run's part of a vLLM that several runs share."""

    name = "vllm"

    def __init__(self, engine: VllmEngine, number: int, step: Callable[[], float]) -> None:
        """number: of its adapter, from 1. step: decodes a step for all runs that wait for one; the
        fraction of the cache in use."""
        self._engine, self._number, self._step = engine, number, step
        self._adapter: Any = None

    @property
    def lost(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._engine.lost

    def open(self, sampling: SamplingParams) -> VllmSession:
        return VllmSession(self._engine, sampling, self._adapter, self._step)

    def score(self, sequences: Sequence[list[int]]) -> list[list[float]]:
        return self._engine.score_by(self._adapter, self._step, sequences)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> int:
        raise RunError("runs that share vLLM share its weights: only adapters are handed over")

    def load_adapter(self, folder: Path) -> int:
        self._adapter, num_bytes = self._engine.adapter_of(folder, self._number)
        return num_bytes

    def read_back(self, names: Sequence[str]) -> Mapping[str, Sequence[Piece]]:
        return self._engine.read_back_of(self._adapter, names)

    def wake(self) -> None:
        """Returns to the system what the update has freed: the C library keeps it apart for every
        thread, and each run has one."""
        with contextlib.suppress(AttributeError, OSError):  # not glibc
            ctypes.CDLL(None).malloc_trim(0)

    def close(self) -> None:
        """Leaves vLLM to the other runs."""
