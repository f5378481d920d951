"""How fast a device is: from its data sheet, or fitted to steps measured on it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rlvr.adapters import get_method
from rlvr.common.gpus import Gpu
from rlvr.plan.hardware import GPUS_PER_NODE, Shape
from rlvr.plan.memory import RUNTIME_GIB, bytes_per_value, serves_adapter
from rlvr.policy.flops import Cost, Work, forward_cost, update_cost

if TYPE_CHECKING:
    from rlvr.config.train import TrainRecipe

LAUNCH_S = 0.004
"""Least time of one decoding step on a GPU."""
LORA_KERNELS, LORA_KERNEL_S = 8, 4e-6
"""Kernels that vLLM adds to a layer of a decoding step for an adapter, two for each of its four
products, and the least time of one: an assumption."""
VERIFY_PAIR_S = 1e-4


@dataclass(frozen=True, slots=True)
class Reached:
    """Fractions of a data sheet's peaks that are reached: of memory bandwidth while decoding, of
    arithmetic while reading prompts and decoding, and in the update, recomputation included."""

    decode: float
    prefill: float
    update: float


SLOW, USUAL, FAST = Reached(0.4, 0.3, 0.2), Reached(0.55, 0.4, 0.3), Reached(0.7, 0.5, 0.45)
"""Assumptions, until --calibrate has measured. Published for updates by others: 0.11 of an H100's
peak for LoRA on 0.6 B parameters at 16k tokens, 0.25 at 65k, 0.2 to 0.35 on 4 B."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Seconds of the parts of a step on one device.

    One decoding step of b sequences takes decode_step_s + b decode_seq_s; a request costs
    request_s once (its prompt); the update takes update_s and update_token_s per token.
    runtime_gib: memory of the libraries and the device's context.
    """

    decode_step_s: float
    decode_seq_s: float
    request_s: float
    update_s: float
    update_token_s: float
    sync_s: float
    verify_pair_s: float
    other_s: float
    runtime_gib: float
    origin: str

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, path: Path) -> Rates:
        return cls(**json.loads(path.read_text()))


def roofline(
    gpu: Gpu,
    shape: Shape,
    recipe: TrainRecipe,
    prompt_len: float,
    lengths: Sequence[int],
    reached: Reached = USUAL,
) -> Rates:
    """Rates of a device from its data sheet. lengths: of responses (tokens).

    Attention of a token of a response reads prompt_len + E[L^2] / 2 E[L] tokens on average: long
    responses have more tokens, and their tokens look further back.
    """
    width, dims = bytes_per_value(recipe), shape.dims
    context = prompt_len + sum(n * n for n in lengths) / sum(lengths) / 2
    forward = forward_cost(dims)
    arithmetic = gpu.flops * reached.prefill
    bandwidth = gpu.bytes_per_s * reached.decode
    read = width * (dims.layer_weights + dims.head_weights) / bandwidth
    kernels = dims.num_layers * LORA_KERNELS * LORA_KERNEL_S if serves_adapter(recipe) else 0.0
    one_token = forward(Work(1, 1, context)) / arithmetic
    changed = shape.trainable if get_method(recipe.adapter).keeps_base else shape.num_params
    update = update_flops_per_token(shape, recipe, prompt_len, lengths)
    return Rates(
        decode_step_s=LAUNCH_S + read + kernels,
        decode_seq_s=one_token + shape.kv_bytes(width) * context / bandwidth,
        request_s=forward(Work(prompt_len, 1, prompt_len**2 / 2)) / arithmetic,
        update_s=0.0,
        update_token_s=update / (gpu.flops * reached.update),
        # a quarter of the link's peak is an assumption too
        sync_s=0.2 + width * changed / (gpu.link_bytes_per_s / 4),
        verify_pair_s=VERIFY_PAIR_S,
        other_s=0.5,
        runtime_gib=RUNTIME_GIB,
        origin=f"data sheet of {gpu.name}; run rlvr plan --calibrate there for measured rates",
    )


def update_flops_per_token(
    shape: Shape, recipe: TrainRecipe, prompt_len: float, lengths: Sequence[int]
) -> float:
    """Operations of the update per token of prompt and response: what the loss needs, passes that
    score by reference or policy, layers that are computed again, and a teacher's forward pass, at 2
    per parameter."""
    all_weights = not get_method(recipe.adapter).keeps_base
    added = 0 if all_weights else shape.trainable
    update = update_cost(shape.dims, added, all_weights, all_weights)
    forward, k = forward_cost(shape.dims, added), recipe.optim.updates_per_step
    again = Cost(forward.token, 0, forward.pair)
    every = recipe.train.activation_checkpointing
    scored = (1 - 1 / k) + (recipe.algorithm.kl_beta > 0)
    total = [prompt_len + n for n in lengths]
    work = Work(sum(total), sum(lengths), sum(n * n / 2 for n in total))
    flops = update(work) + scored * forward(work) + (again(work) / every if every else 0.0)
    return flops / sum(total) + 2 * shape.teacher_params


def all_reduce_s(gpu: Gpu | None, num_bytes: float, num_devices: int) -> float:
    """Seconds of a ring all-reduce; between nodes the slower link counts."""
    if gpu is None or num_devices == 1:
        return 0.0
    link = gpu.link_bytes_per_s
    if num_devices > GPUS_PER_NODE:
        link = gpu.node_link_bytes_per_s
    return 2 * num_bytes * (num_devices - 1) / num_devices / link + 2e-5 * num_devices
