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


def save_reference(
    policy: Policy, config: AlgorithmConfig, folder: Path, was_reset: bool = False
) -> None:
    """Writes the reference into a checkpoint's folder when it is not the policy at step 0.

    was_reset: whether a stage has made a later policy the reference.
    """
    if was_reset or (policy.reference is not None and config.reference != "initial"):
        weights = {name: p.contiguous() for name, p in _weights(policy).items()}
        save_file(weights, folder / REFERENCE_FILE)


def _weights(policy: Policy) -> dict[str, torch.Tensor]:
    """The frozen copy's, or what is held of an adapter."""
    if policy.reference is not None:
        return dict(policy.reference.named_parameters())
    assert policy.held is not None, "a reference was reset"
    return policy.held


@torch.no_grad()
def load_reference(
    policy: Policy, config: AlgorithmConfig, folder: Path, was_reset: bool = False
) -> None:
    """Restores what `save_reference` wrote."""
    if not was_reset and (policy.reference is None or config.reference == "initial"):
        return
    saved = load_file(folder / REFERENCE_FILE)
    if policy.reference is None:
        policy.held = {name: value.to(policy.device) for name, value in saved.items()}
        return
    for name, value in policy.reference.named_parameters():
        value.copy_(saved[name])
