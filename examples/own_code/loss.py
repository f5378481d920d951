"""Parts of the loss: functions that a recipe names as algorithm.advantage, ratio and clip."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rlvr.algorithm.surrogate import ClipInputs, RowLayout
from rlvr.config.algorithm import AlgorithmConfig


def median_baseline(rewards: Sequence[Tensor], lengths: Sequence[Tensor]) -> list[Tensor]:
    """R minus the median of the group's rewards; not scaled.

    rewards, lengths: [G] float64 tensors, one for each group of the step; lengths in tokens.
    """
    return [reward_G - reward_G.quantile(0.5) for reward_G in rewards]


def half_length_ratio(log_ratio_T: Tensor, layout: RowLayout) -> Tensor:
    """Log of (pi(response) / pi_proximal(response))^(1 / sqrt(length)), which lies between the
    product over the response and its geometric mean.

    log_ratio_T: of each token; layout: which response each token belongs to.
    """
    return layout.total(log_ratio_T) / layout.length_N[layout.row_T].sqrt()


def one_sided_clip(inputs: ClipInputs, config: AlgorithmConfig) -> tuple[Tensor, Tensor]:
    """min(r, 1 + clip_high) A: what is already likely enough gains no more, nothing else is cut.

    Gives the objective of each token, to be maximised, and whether its gradient is cut.
    """
    ratio_T = inputs.log_ratio_T.clamp(max=20).exp()
    cut_T = (ratio_T > 1 + config.clip_high) & (inputs.advantage_T > 0)
    return torch.where(cut_T, 1 + config.clip_high, ratio_T) * inputs.advantage_T, cut_T
