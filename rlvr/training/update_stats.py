"""The running sums of an update, and the metrics made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from rlvr.distributed.world import World

SUMS = ("loss", "entropy", "tokens", "ratio_max", "real", "attended", "positions")
Sums = dict[str, Tensor | float]
"""Running sums of a step; those of the loss stay on the device as float64."""


@dataclass(frozen=True, slots=True)
class UpdateStats:
    """num_tokens: prompt and response tokens trained on. num_skipped: optimizer steps that were not
    made because loss or gradient was not finite. metrics: by name. flops: that the steps made need
    of all ranks (`rlvr.policy.flops`); 0 where they cannot be counted."""

    num_tokens: float
    num_skipped: int
    metrics: dict[str, float]
    flops: float


def read_sums(sums: Sums, world: World) -> dict[str, float]:
    """The sums of all ranks as numbers, and the largest ratio of any."""
    # as numbers: a pickled tensor would come back on a device that another rank may not have
    parts = world.gather(_to_numbers(sums))
    # a rank without rows has not all of them
    names = dict.fromkeys(name for part in parts for name in part)
    merged = {name: sum(part.get(name, 0.0) for part in parts) for name in names}
    return merged | {"ratio_max": max(part["ratio_max"] for part in parts)}


def _to_numbers(sums: Sums) -> dict[str, float]:
    """The sums as numbers, in one copy: besides the gradient norm the step's only wait for the
    device."""
    on_device = {k: v for k, v in sums.items() if isinstance(v, Tensor)}
    numbers = {k: float(v) for k, v in sums.items() if not isinstance(v, Tensor)}
    if on_device:
        values = torch.stack(list(on_device.values())).tolist()
        numbers |= dict(zip(on_device, values, strict=True))
    return numbers


_NOT_ALWAYS = {
    "kl_ref": "policy/kl_ref",
    "kl_teacher": "policy/kl_teacher",
    "masked": "policy/masked_frac",
}
"""Sums over tokens that a recipe may not have, and the metrics of their means."""


def loss_metrics(sums: dict[str, float], grad_norms: Sequence[float]) -> dict[str, float]:
    """Metrics of the optimizer steps that were made, by name; grad_norms has one number for each.

    The loss is a mean over optimizer steps, whose denominators it holds already; the rest are means
    over tokens.
    """
    if not grad_norms:
        return {"optim/grad_norm": 0.0, "policy/loss": 0.0}
    num_tokens = sums["tokens"]
    metrics = {
        "policy/loss": sums["loss"] / len(grad_norms),
        "policy/entropy": sums["entropy"] / num_tokens,
        "policy/kl_engine": sums["kl_engine"] / num_tokens,
        "policy/clip_frac": sums["clip"] / num_tokens,
        "policy/ratio_max": sums["ratio_max"],
        "optim/grad_norm": sum(grad_norms) / len(grad_norms),
        "train/padding_frac": 1 - sums["attended"] / sums["positions"],
    }
    for name, metric in _NOT_ALWAYS.items():
        if name in sums:
            metrics[metric] = sums[name] / num_tokens
    return metrics
