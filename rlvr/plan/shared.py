"""Runs that share an engine and a base on one device: memory, and seconds of a step of each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rlvr.plan.generation import Workload
from rlvr.plan.hardware import Gpu, Shape
from rlvr.plan.memory import GIB, TIGHT, bytes_per_value, device_memory, num_sequences
from rlvr.plan.rates import Rates
from rlvr.plan.simulate import step_time

if TYPE_CHECKING:
    from rlvr.config.train import TrainRecipe


@dataclass(frozen=True, slots=True)
class SharedPlan:
    """step_s: seconds for a step of one run, by each of the rates given; the others' are not in it,
    though they go on in the same time. gib: of a device; fits: whether it has them."""

    step_s: tuple[float, ...]
    gib: float
    sequences: int
    fits: bool


def shared_plan(
    recipe: TrainRecipe,
    shape: Shape,
    gpu: Gpu | None,
    work: Workload,
    rates: tuple[Rates, ...],
    runs: int,
) -> SharedPlan:
    """`runs` runs of the recipe on one engine.

    Every run has its adapter and its optimizer's state on the device; gradients, activations and
    the base are there once. The engine keeps the adapters beside each other, out of its cache.
    """
    memory = device_memory(recipe, shape, gpu, runtime_gib=rates[0].runtime_gib)
    # bytes of Adam's two moments, in 8 bits or in float32
    state = 2 if recipe.optim.name.endswith("8bit") else 8
    more = (runs - 1) * shape.trainable * (4 + state) / GIB
    served = (runs - 1) * shape.trainable * bytes_per_value(recipe) / GIB
    cache = max(0.0, memory["key-value cache"] - served)
    slots = num_sequences(recipe, shape, cache, work.prompt_len + work.mean_len)
    together = replace(work, runs=runs)
    seconds = tuple(
        step_time(together, one, shape, gpu, work.engine_devices, slots).step_s / runs
        for one in rates
    )
    total = memory["total"] + more
    return SharedPlan(seconds, total, slots, gpu is None or total <= TIGHT * gpu.memory_gib)
