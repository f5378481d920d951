"""What a step costs: peaks of its memory, and traces by torch's profiler."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from rlvr.common.log import get_logger
from rlvr.distributed.world import World

logger = get_logger(__name__)


@contextmanager
def profiled(folder: Path, step: int, rank: int) -> Iterator[None]:
    """The block in profile/step_N.rank_R.json.gz, in Chrome's trace format, which Perfetto opens:
    for train.profile_steps.

    A block that raises leaves no trace, and a disk that cannot take one does not stop the run.
    """
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as recorded:
        yield
    path = folder / "profile" / f"step_{step}.rank_{rank}.json.gz"
    # torch packs what ends in .gz; a file of the trace's own name is always a whole one
    partial = path.with_name(f".{path.name}")
    try:
        path.parent.mkdir(exist_ok=True)
        recorded.export_chrome_trace(str(partial))
        partial.rename(path)
    except (OSError, RuntimeError) as error:  # a full disk comes as either
        with suppress(OSError):
            partial.unlink()
        logger.warning(f"{path} is missing: {error}")


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
