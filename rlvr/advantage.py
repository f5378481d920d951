"""Rewards to advantages, group by group. P groups of G responses; N = P G rows."""

import torch
from torch import Tensor

STD_EPS = 1e-4
"""Added to the standard deviation, as in trl's GRPOTrainer."""


def group_std(rewards_PG: Tensor) -> Tensor:
    """[P, G] advantages (R - mean) / (std + eps), std with G - 1.

    Source: GRPO, 2402.03300, sec. 4.1. Deviation: eps in the denominator, for near-equal rewards.
    """
    centred_PG = rewards_PG - rewards_PG.mean(dim=1, keepdim=True)
    return centred_PG / (rewards_PG.std(dim=1, keepdim=True) + STD_EPS)


def group_mean(rewards_PG: Tensor) -> Tensor:
    """[P, G] advantages R - mean. Source: Dr. GRPO, 2503.20783, sec. 3.2."""
    return rewards_PG - rewards_PG.mean(dim=1, keepdim=True)


ESTIMATORS = {"group_std": group_std, "group_mean": group_mean}


def is_informative(rewards: list[float]) -> bool:
    """Whether a group's rewards differ, so that its advantages are not all zero."""
    return max(rewards) > min(rewards)


def advantages(rewards: list[list[float]], estimator: str) -> list[list[float]]:
    """Advantages of each group, in the order given. Groups may differ in size."""
    return [ESTIMATORS[estimator](torch.tensor([group]))[0].tolist() for group in rewards]
