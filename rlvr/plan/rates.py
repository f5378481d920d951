"""How fast a device is: from its data sheet, or fitted to steps measured on it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rlvr.plan.hardware import GPUS_PER_NODE, Gpu, Shape
from rlvr.plan.memory import RUNTIME_GIB

DECODE_EFFICIENCY, PREFILL_EFFICIENCY, UPDATE_EFFICIENCY = 0.6, 0.5, 0.4
"""Fractions of memory bandwidth and peak arithmetic that are reached: assumptions, until measured
by --calibrate."""
LAUNCH_S = 0.004
"""Least time of one decoding step on a GPU."""
VERIFY_PAIR_S = 1e-4


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
    gpu: Gpu, shape: Shape, full: bool, recomputes: bool, prompt_len: float, mean_len: float
) -> Rates:
    """Rates of a device from its data sheet.

    FLOPs per token: 2 N forward, 2 N for the gradients of activations, 2 N more for those of all
    weights when all are trained, 2 N again when activations are recomputed.
    """
    forward = 2 * shape.num_params
    passes = 2 + full + recomputes
    # half of the response is there on average
    kv_bytes = shape.kv_bytes(2) * (prompt_len + mean_len / 2)
    reached = gpu.bytes_per_s * DECODE_EFFICIENCY
    arithmetic = forward / (gpu.flops * PREFILL_EFFICIENCY)
    changed = shape.num_params if full else shape.trainable
    return Rates(
        # a decoding step reads every weight once, two bytes each, however many sequences there are
        decode_step_s=LAUNCH_S + 2 * shape.num_params / reached,
        decode_seq_s=arithmetic + kv_bytes / reached,
        request_s=prompt_len * arithmetic,
        update_s=0.0,
        update_token_s=forward * passes / (gpu.flops * UPDATE_EFFICIENCY),
        # a quarter of the link's peak is an assumption too
        sync_s=0.2 + 2 * changed / (gpu.link_bytes_per_s / 4),
        verify_pair_s=VERIFY_PAIR_S,
        other_s=0.5,
        runtime_gib=RUNTIME_GIB,
        origin=f"data sheet of {gpu.name}; run rlvr plan --calibrate there for measured rates",
    )


def all_reduce_s(gpu: Gpu | None, num_bytes: float, num_devices: int) -> float:
    """Seconds of a ring all-reduce; between nodes the slower link counts."""
    if gpu is None or num_devices == 1:
        return 0.0
    link = gpu.link_bytes_per_s
    if num_devices > GPUS_PER_NODE:
        link = gpu.node_link_bytes_per_s
    # a ring sends every byte twice, to reduce and to gather; then a latency per device
    return 2 * num_bytes * (num_devices - 1) / num_devices / link + 2e-5 * num_devices
