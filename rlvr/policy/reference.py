"""A reference policy that follows the trained one, under full fine-tuning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file

from rlvr.policy.policy import Policy

if TYPE_CHECKING:
    from rlvr.config.algorithm import AlgorithmConfig

REFERENCE_FILE = "reference.safetensors"


def prepare_reference(policy: Policy, config: AlgorithmConfig) -> None:
    """Puts the frozen copy into CPU memory; in float32 where small steps must add up."""
    if policy.reference is not None:
        dtype = torch.float32 if config.reference == "ema" else None
        torch.nn.Module.to(policy.reference, "cpu", dtype)


@torch.no_grad()
def update_reference(policy: Policy, config: AlgorithmConfig, steps_done: int) -> None:
    """Moves the reference after a step: a copy every reference_every steps, or an average.

    Source: TR-DPO, 2404.09656: its hard update, and its soft one with alpha = 1 - reference_decay
    after every step.
    """
    if policy.reference is None or config.reference == "initial":
        return
    if config.reference == "anchor" and steps_done % config.reference_every:
        return
    # an anchor keeps nothing: lerp by 1 copies bit for bit
    keep = config.reference_decay if config.reference == "ema" else 0.0
    source = dict(policy.model.named_parameters())
    for name, value in policy.reference.named_parameters():
        value.lerp_(source[name].to(value), 1 - keep)


def save_reference(policy: Policy, config: AlgorithmConfig, folder: Path) -> None:
    """Writes the reference into a checkpoint's folder when it is not the policy at step 0."""
    if policy.reference is not None and config.reference != "initial":
        weights = {name: p.contiguous() for name, p in policy.reference.named_parameters()}
        save_file(weights, folder / REFERENCE_FILE)


@torch.no_grad()
def load_reference(policy: Policy, config: AlgorithmConfig, folder: Path) -> None:
    """Restores what `save_reference` wrote."""
    if policy.reference is None or config.reference == "initial":
        return
    saved = load_file(folder / REFERENCE_FILE)
    for name, value in policy.reference.named_parameters():
        value.copy_(saved[name])
