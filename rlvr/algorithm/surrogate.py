"""The surrogate objective of each token: algorithm.ratio and algorithm.clip.

Shapes: N rows (responses) of one micro-batch, T response tokens, all rows' tokens one after
another; a row is never split over micro-batches. log_ratio_T = log pi - log pi_proximal, where
only log pi carries a gradient.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rlvr.common.errors import RunError
from rlvr.common.own_code import part_of
from rlvr.config.algorithm import AlgorithmConfig

MAX_LOG_RATIO = 20.0
"""A ratio is at most e^20 = 5e8, far above any that rounding or age makes; e^88 would overflow
float32, and one such token would make the whole step's gradient nan."""


def bounded_exp(log_ratio_T: Tensor) -> Tensor:
    """exp(log_ratio_T), constant beyond MAX_LOG_RATIO, so that finite inputs stay finite."""
    return log_ratio_T.clamp(max=MAX_LOG_RATIO).exp()


@dataclass(frozen=True)
class RowLayout:
    """The row of every token. row_T: its index; length_N: tokens of each row."""

    row_T: Tensor
    length_N: Tensor

    @staticmethod
    def of(length_N: Tensor) -> "RowLayout":
        """The layout of rows of these lengths, laid end to end."""
        index_N = torch.arange(len(length_N), device=length_N.device)
        return RowLayout(index_N.repeat_interleave(length_N), length_N)

    def total(self, values_T: Tensor) -> Tensor:
        """[T] the sum over the token's row."""
        sums_N = values_T.new_zeros(len(self.length_N)).index_add(0, self.row_T, values_T)
        return sums_N[self.row_T]

    def mean(self, values_T: Tensor) -> Tensor:
        """[T] the mean over the token's row."""
        return self.total(values_T) / self.length_N[self.row_T]


def token_ratio(log_ratio_T: Tensor, layout: RowLayout) -> Tensor:
    """pi(token) / pi_proximal(token). Source: PPO, 1707.06347 eq. 6; GRPO, 2402.03300 eq. 3."""
    return log_ratio_T


def sequence_ratio(log_ratio_T: Tensor, layout: RowLayout) -> Tensor:
    """(pi(response) / pi_proximal(response))^(1/length). Source: GSPO, 2507.18071 eq. 7."""
    return layout.mean(log_ratio_T)


def sequence_token_ratio(log_ratio_T: Tensor, layout: RowLayout) -> Tensor:
    """The sequence ratio's value with the token's own gradient. Source: GSPO-token, 2507.18071
    eq. 14."""
    # the last two terms cancel in value and leave the token's gradient
    return layout.mean(log_ratio_T).detach() + log_ratio_T - log_ratio_T.detach()


def trajectory_ratio(log_ratio_T: Tensor, layout: RowLayout) -> Tensor:
    """pi(response) / pi_proximal(response), a product over all tokens. Source: RLOO, 2402.14740,
    takes the whole response as one action; the ratio is trl's RLOOTrainer's."""
    return layout.total(log_ratio_T)


RATIOS: dict[str, Callable[[Tensor, RowLayout], Tensor]] = {
    "token": token_ratio,
    "sequence": sequence_ratio,
    "sequence_token": sequence_token_ratio,
    "trajectory": trajectory_ratio,
}
"""Each algorithm.ratio as a function of per-token log ratios, giving those of its level."""


@dataclass(frozen=True)
class ClipInputs:
    """Inputs of a clip rule. log_ratio_T is at the level that algorithm.ratio names; engine_T:
    log-probabilities by the engine, which sampled."""

    log_ratio_T: Tensor
    logp_T: Tensor
    advantage_T: Tensor
    layout: RowLayout
    engine_T: Tensor


Gain = tuple[Tensor, Tensor]
"""([T] objective to maximise, [T] bool: the token's gradient is cut or bounded)."""


def ppo_clip(inputs: ClipInputs, config: AlgorithmConfig) -> Gain:
    """min(r A, clip(r, 1 - low, 1 + high) A); with clip_delta, at least delta A where A < 0.

    Source: PPO, 1707.06347 eq. 7; clip-higher, DAPO 2503.14476 eq. 8; dual clip, 1912.09729;
    INTELLECT-2, 2505.07291.
    """
    ratio_T, advantage_T = bounded_exp(inputs.log_ratio_T), inputs.advantage_T
    clipped_T = ratio_T.clamp(1 - config.clip_low, 1 + config.clip_high)
    low_T = (ratio_T < 1 - config.clip_low) & (advantage_T < 0)
    high_T = (ratio_T > 1 + config.clip_high) & (advantage_T > 0)
    # where A < 0 the minimum below takes the unclipped ratio, which nothing else bounds
    if config.clip_delta is not None:
        high_T = high_T | ((ratio_T > config.clip_delta) & (advantage_T < 0))
        ratio_T = ratio_T.clamp(max=config.clip_delta)
    return torch.minimum(ratio_T * advantage_T, clipped_T * advantage_T), low_T | high_T


def cispo_clip(inputs: ClipInputs, config: AlgorithmConfig) -> Gain:
    """sg(clip(r, 1 - low, 1 + high)) A log pi: the weight is bounded, no token loses its gradient.

    Source: CISPO (MiniMax-M1), 2506.13585 eq. 4 and 5.
    """
    # detached: the ratio only weighs log pi, whose gradient is the token's
    ratio_T = bounded_exp(inputs.log_ratio_T.detach())
    weight_T = ratio_T.clamp(1 - config.clip_low, 1 + config.clip_high)
    return weight_T * inputs.advantage_T * inputs.logp_T, weight_T != ratio_T


def soft_clip(inputs: ClipInputs, config: AlgorithmConfig) -> Gain:
    """(4 / tau) sigmoid(tau (r - 1)) A, tau by the sign of A: the gradient fades away from r = 1.

    Source: SAPO, 2511.20347.
    """
    ratio_T, advantage_T = bounded_exp(inputs.log_ratio_T), inputs.advantage_T
    tau_T = torch.full_like(ratio_T, config.soft_tau_neg)
    tau_T[advantage_T > 0] = config.soft_tau_pos
    # 4 / tau: the slope at r = 1 is then 1, as that of the ratio itself
    gate_T = torch.sigmoid(tau_T * (ratio_T - 1)) * 4 / tau_T
    return gate_T * advantage_T, torch.zeros_like(advantage_T, dtype=torch.bool)


def geometric_clip(inputs: ClipInputs, config: AlgorithmConfig) -> Gain:
    """A times the geometric mean over the response of its tokens' clipped ratios.

    Each log ratio is cut at +high where A > 0 and at -low where A <= 0, in log space.
    Source: GMPO, 2507.20673.
    """
    log_ratio_T, positive_T = inputs.log_ratio_T, inputs.advantage_T > 0
    # cut before the mean: one token far off cannot take the whole response out of range
    cut_T = torch.where(
        positive_T, log_ratio_T.clamp(max=config.clip_high), log_ratio_T.clamp(min=-config.clip_low)
    )
    return bounded_exp(inputs.layout.mean(cut_T)) * inputs.advantage_T, cut_T != log_ratio_T


def no_clip(inputs: ClipInputs, config: AlgorithmConfig) -> Gain:
    """sg(r) A log pi: REINFORCE; r is 1 in the first update of a step, else the importance weight.

    Source: GPG, 2504.02546, and OPO, 2505.23585, which are on-policy: r = 1.
    """
    gain_T = bounded_exp(inputs.log_ratio_T.detach()) * inputs.advantage_T * inputs.logp_T
    return gain_T, torch.zeros_like(gain_T, dtype=torch.bool)


def total_variation_clip(inputs: ClipInputs, config: AlgorithmConfig) -> Gain:
    """sg(r) A log pi, 0 where the token's probability has moved by more than clip_high up (A > 0)
    or clip_low down (A <= 0) since the engine sampled it.

    Source: DPPO-Binary-TV, 2602.04879: the total variation between what both policies give to the
    token and to all others together.
    """
    moved_T = inputs.logp_T.detach().exp() - bounded_exp(inputs.engine_T)
    return _within_divergence(inputs, config, moved_T.abs(), moved_T)


def kl_clip(inputs: ClipInputs, config: AlgorithmConfig) -> Gain:
    """As total_variation_clip, with KL(engine || policy) between the two pairs of probabilities, in
    nats, against the same bounds.

    Source: DPPO-Binary-KL, 2602.04879.
    """
    # a sampled token's probability may round to 1 on either side, whose complement has no log
    logp_T, engine_T = (x.clamp(max=-1e-6) for x in (inputs.logp_T.detach(), inputs.engine_T))
    kept_T, others_T = engine_T.exp(), -torch.expm1(engine_T)
    log_others_T = torch.log(others_T) - torch.log(-torch.expm1(logp_T))
    kl_T = kept_T * (engine_T - logp_T) + others_T * log_others_T
    return _within_divergence(inputs, config, kl_T, logp_T - engine_T)


def _within_divergence(
    inputs: ClipInputs, config: AlgorithmConfig, divergence_T: Tensor, moved_T: Tensor
) -> Gain:
    """The gain, 0 where the token is further than its bound from the engine's probability and A
    would move it on. moved_T: in which direction it has moved, by its sign."""
    high_T = (divergence_T > config.clip_high) & (moved_T > 0) & (inputs.advantage_T > 0)
    low_T = (divergence_T > config.clip_low) & (moved_T < 0) & (inputs.advantage_T <= 0)
    gain_T, _ = no_clip(inputs, config)
    return torch.where(high_T | low_T, torch.zeros_like(gain_T), gain_T), high_T | low_T


CLIPS: dict[str, Callable[[ClipInputs, AlgorithmConfig], Gain]] = {
    "ppo": ppo_clip,
    "cispo": cispo_clip,
    "soft": soft_clip,
    "geometric": geometric_clip,
    "none": no_clip,
    "binary_tv": total_variation_clip,
    "binary_kl": kl_clip,
}
"""Each algorithm.clip as a function."""


def surrogate(
    logp_T: Tensor,
    proximal_T: Tensor,
    advantage_T: Tensor,
    layout: RowLayout,
    config: AlgorithmConfig,
    engine_T: Tensor | None = None,
) -> Gain:
    """The objective of each token under algorithm.ratio and algorithm.clip. engine_T: by the
    engine; None: it is the proximal policy."""
    log_ratio_T = part_of(RATIOS, config.ratio)(logp_T - proximal_T, layout)
    _check_shape("algorithm.ratio", config.ratio, log_ratio_T, logp_T)
    sampled_T = proximal_T if engine_T is None else engine_T
    inputs = ClipInputs(log_ratio_T, logp_T, advantage_T, layout, sampled_T)
    gain_T, clipped_T = part_of(CLIPS, config.clip)(inputs, config)
    _check_shape("algorithm.clip", config.clip, gain_T, logp_T)
    _check_shape("algorithm.clip", config.clip, clipped_T, logp_T)
    return gain_T, clipped_T


def _check_shape(key: str, name: str, found_T: Tensor, wanted_T: Tensor) -> None:
    """Raises: RunError where a function of the user's own gave other than one value per token: it
    would be broadcast, and trained on, without a word."""
    if found_T.shape != wanted_T.shape:
        found, wanted = list(found_T.shape), list(wanted_T.shape)
        raise RunError(f"{key} = {name!r}: gave a tensor of shape {found}, not {wanted}; mend it")
