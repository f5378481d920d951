"""Where to look first: a method's learning rate from its curvature, relative to LoRA's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

REFERENCE = "lora"
"""The method whose rate the others' are relative to."""


@dataclass(frozen=True)
class Prior:
    """lr: the centre of the method's grid. eigenvalue: the Hessian's largest, over the method's
    trainable parameters at initialisation. ratio_to_lora: lr relative to LoRA's."""

    lr: float
    ratio_to_lora: float
    eigenvalue: float
    eigenvalue_lora: float


def prior_of(eigenvalue: float, eigenvalue_lora: float, lr_lora: float, power: float) -> Prior:
    """lr_LoRA (lambda_LoRA / lambda)^power. Source: 2602.04998, whose rule has power 1."""
    ratio = (eigenvalue_lora / eigenvalue) ** power
    return Prior(lr_lora * ratio, ratio, eigenvalue, eigenvalue_lora)


def priors_from(values: Mapping[str, float], lr_lora: float, power: float) -> dict[str, Prior]:
    """The prior of every label, from its eigenvalue and LoRA's."""
    lora = values[REFERENCE]
    return {label: prior_of(value, lora, lr_lora, power) for label, value in values.items()}
