"""GPUs by name: memory and published peaks, for plans and for utilisation."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device. memory_gib: as torch reports it, which is less than the number in its name.
    flops: dense bfloat16 per second, summed in float32; bytes_per_s: memory; link_bytes_per_s: of
    an all-reduce between devices, per device, inside a node (of 8) and between nodes. words: that
    stand in the driver's name of it."""

    name: str
    memory_gib: float
    flops: float
    bytes_per_s: float
    link_bytes_per_s: float
    node_link_bytes_per_s: float
    words: tuple[str, ...]


# dense: data sheets print twice as much, for weights with 2:4 sparsity
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("L4", 22.0, 121e12, 0.30e12, 25e9, 25e9, ("L4",)),
        Gpu("RTX-4090", 23.5, 165e12, 1.01e12, 25e9, 25e9, ("RTX", "4090")),
        Gpu("A100-40G", 39.4, 312e12, 1.55e12, 250e9, 25e9, ("A100", "40GB")),
        Gpu("A100", 79.2, 312e12, 2.0e12, 250e9, 25e9, ("A100", "80GB")),
        Gpu("L40S", 44.4, 362e12, 0.86e12, 25e9, 25e9, ("L40S",)),
        Gpu("H100-PCIE", 79.2, 756e12, 2.0e12, 50e9, 50e9, ("H100", "PCIE")),
        Gpu("H100-NVL", 93.1, 835e12, 3.9e12, 50e9, 50e9, ("H100", "NVL")),
        Gpu("H100", 79.2, 989e12, 3.35e12, 400e9, 50e9, ("H100",)),
        Gpu("H200-NVL", 139.8, 835e12, 4.8e12, 50e9, 50e9, ("H200", "NVL")),
        Gpu("H200", 139.8, 989e12, 4.8e12, 400e9, 50e9, ("H200",)),
        Gpu("B200", 178.4, 2250e12, 7.7e12, 800e9, 50e9, ("B200",)),
    )
}
"""Peaks are those of the vendor's data sheets; what is reached of them is in rlvr/plan/rates.py."""


def gpu_named(device_name: str) -> Gpu | None:
    """The GPU that a driver calls by this name, such as "NVIDIA H100 80GB HBM3"; None where its
    peaks are not in the table."""
    words = set(re.split(r"[\s-]+", device_name.upper()))
    found = [gpu for gpu in GPUS.values() if words.issuperset(gpu.words)]
    # the most words win: "H100 NVL" has those of the H100, too
    return max(found, key=lambda gpu: len(gpu.words), default=None)
