"""Memory of one step: its peak, and on a GPU the trainer's part apart from the engine's."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from rlvr.distributed.world import World


class StepMemory:
    """Peaks of what torch allocates on this process's GPU, from now to the end of a step.

    cuda: torch.cuda, or what stands for its allocator.
    """

    def __init__(self, cuda: Any = torch.cuda) -> None:
        self._cuda = cuda if cuda.is_available() else None
        self._before_update, self._in_update = 0, 0
        if self._cuda is not None:
            self._cuda.reset_peak_memory_stats()

    @contextmanager
    def update(self) -> Iterator[None]:
        """The block is the update, in which the engine allocates nothing."""
        if self._cuda is None:
            yield
            return
        self._before_update = self._cuda.max_memory_allocated()
        self._cuda.reset_peak_memory_stats()
        yield
        self._in_update = self._cuda.max_memory_allocated()

    def metrics(self, world: World, engine_gib: float) -> dict[str, float]:
        """The step's metrics, each of the rank with most. engine_gib: held by the engine."""
        if self._cuda is None:
            # of this process alone, not of the verifier's workers; Linux counts in KiB
            resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            return {"memory/peak_gib": max(world.gather(resident))}
        peak = max(self._before_update, self._cuda.max_memory_allocated()) / 2**30
        trainer = self._in_update / 2**30 - engine_gib
        of_ranks = zip(*world.gather((peak, trainer, engine_gib)), strict=True)
        names = ("memory/peak_gib", "memory/trainer_gib", "memory/engine_gib")
        return {name: max(values) for name, values in zip(names, of_ranks, strict=True)}
