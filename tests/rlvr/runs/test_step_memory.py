"""Peak memory of a step, by an allocator in Python that stands for a GPU's."""

from __future__ import annotations

from rlvr.distributed.world import World
from rlvr.runs.profiling import StepMemory

GIB = 2**30


class Allocator:
    """Counts as torch.cuda's does; amounts in GiB."""

    def __init__(self, held: int) -> None:
        self.held = self.peak = held

    def use(self, *amounts: int) -> None:
        """Allocates each, one after another, and frees it again."""
        for amount in amounts:
            self.peak = max(self.peak, self.held + amount)

    def is_available(self) -> bool:
        return True

    def reset_peak_memory_stats(self) -> None:
        self.peak = self.held

    def max_memory_allocated(self) -> int:
        return self.peak * GIB


def one_step(gpu: Allocator, rollout: int, update: int, sync: int) -> dict[str, float]:
    memory = StepMemory(gpu)
    gpu.use(rollout)
    with memory.update():
        gpu.use(update, 1)
    gpu.use(sync)
    return memory.metrics(World.alone(), engine_gib=5.0)


def test_each_step_has_its_own_peak_and_the_engine_is_taken_out_of_the_trainers():
    gpu = Allocator(held=8)  # the trainer holds 3, the engine 5
    named = [
        {"memory/peak_gib": peak, "memory/trainer_gib": trainer, "memory/engine_gib": 5.0}
        for peak, trainer in ((20.0, 13.0), (14.0, 9.0), (11.0, 4.0))
    ]
    assert one_step(gpu, rollout=12, update=10, sync=2) == named[0], "generation has the peak"
    assert one_step(gpu, rollout=4, update=6, sync=2) == named[1], "the update has it"
    assert one_step(gpu, rollout=2, update=1, sync=3) == named[2], "the sync has it"


def test_without_a_gpu_the_process_is_counted():
    memory = StepMemory()
    with memory.update():
        pass
    found = memory.metrics(World.alone(), engine_gib=0.0)
    assert found.keys() == {"memory/peak_gib"}
    assert 0.01 < found["memory/peak_gib"] < 1000
