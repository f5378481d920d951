"""The policy-gradient loss on flat, unpadded response tokens.

Shapes: N rows (responses) of the whole step, T response tokens of one micro-batch, all rows'
tokens one
after another; row_T says which of the N rows a token belongs to. Every aggregation is a weight
per row,
fixed before the first micro-batch, so that splitting differently changes nothing.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlvr.config import AlgorithmConfig


@dataclass(frozen=True)
class TokenBatch:
    """Everything about one micro-batch except the trainer's log-probabilities.

    engine_T: log-probabilities of the sampled tokens by the engine. ref_T: by the reference
    policy, or
    None. advantage_T, weight_T: of the token's row. on_policy_T: the row was sampled by exactly
    these
    weights, so that the ratio is 1.
    """

    engine_T: Tensor
    ref_T: Tensor | None
    advantage_T: Tensor
    weight_T: Tensor
    on_policy_T: Tensor


def row_weights(lengths: list[int], aggregation: str, max_response_len: int) -> list[float]:
    """Weight of each row's tokens: the loss is sum_t weight_t loss_t. Length 0: a masked row.

    token_mean: 1 / tokens of the step (DAPO, 2503.14476 eq. 8). response_mean: 1 / (rows x tokens
    of
    the row) (GRPO, 2402.03300 eq. 3). constant: 1 / (rows x max_response_len) (Dr. GRPO,
    2503.20783).
    """
    num_rows, num_tokens = len(lengths), max(sum(lengths), 1)
    match aggregation:
        case "token_mean":
            return [1 / num_tokens] * num_rows
        case "response_mean":
            return [1 / (num_rows * max(n, 1)) for n in lengths]
        case "constant":
            return [1 / (num_rows * max_response_len)] * num_rows
    raise ValueError(f"algorithm.aggregation = {aggregation!r}: unknown")


def kl_penalty(logp_T: Tensor, ref_T: Tensor, estimator: str) -> Tensor:
    """[T] estimates of KL(policy || reference) at tokens sampled from the policy.

    k1 = log ratio, k2 = (log ratio)^2 / 2, k3 = exp(-log ratio) + log ratio - 1, with
    log ratio = logp - ref. Source: Schulman, "Approximating KL divergence"; GRPO, 2402.03300 eq. 4.
    """
    diff_T = ref_T - logp_T
    match estimator:
        case "k1":
            return -diff_T
        case "k2":
            return diff_T.square() / 2
        case "k3":
            return diff_T.exp() - diff_T - 1
    raise ValueError(f"algorithm.kl_estimator = {estimator!r}: unknown")


def mismatch_weights(logp_T: Tensor, batch: TokenBatch, config: AlgorithmConfig) -> Tensor:
    """[T] weights that correct for an engine whose probabilities differ from the trainer's.

    tis: min(pi_train / pi_engine, C). mask: 1 where the quotient lies in [1/C, C], else 0. Rows
    sampled
    by older weights get 1: their ratio already has the engine's probability in its denominator.
    """
    if config.mismatch == "none":
        return torch.ones_like(logp_T)
    quotient_T = (logp_T.detach() - batch.engine_T).exp()
    cap = config.mismatch_cap
    if config.mismatch == "tis":
        weight_T = quotient_T.clamp(max=cap)
    else:
        weight_T = ((quotient_T >= 1 / cap) & (quotient_T <= cap)).to(quotient_T.dtype)
    return torch.where(batch.on_policy_T, weight_T, 1.0)


def policy_loss(
    logp_T: Tensor, batch: TokenBatch, config: AlgorithmConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """The micro-batch's share of the step's loss, and sums (not means) for the metrics.

    Denominator: inside `batch.weight_T` (see `row_weights`). Per token: the clipped surrogate
    -min(r A, clip(r, 1 - low, 1 + high) A) times the mismatch weight, plus beta KL. Source: GRPO,
    2402.03300 eq. 3; clip-higher, DAPO 2503.14476 eq. 10. On-policy rows have r = pi / sg(pi).
    """
    old_T = torch.where(batch.on_policy_T, logp_T.detach(), batch.engine_T)
    ratio_T = (logp_T - old_T).exp()
    clipped_T = ratio_T.clamp(1 - config.clip_low, 1 + config.clip_high)
    gain_T = torch.minimum(ratio_T * batch.advantage_T, clipped_T * batch.advantage_T)
    loss_T = -gain_T * mismatch_weights(logp_T, batch, config)
    sums = _sums(logp_T, ratio_T, batch, config)
    if batch.ref_T is not None:
        loss_T = loss_T + config.kl_beta * kl_penalty(logp_T, batch.ref_T, config.kl_estimator)
        sums["kl_ref"] = kl_penalty(logp_T.detach(), batch.ref_T, "k3").sum()
    return (loss_T * batch.weight_T).sum(), sums


@torch.no_grad()
def _sums(
    logp_T: Tensor, ratio_T: Tensor, batch: TokenBatch, config: AlgorithmConfig
) -> dict[str, Tensor]:
    low_T = (ratio_T < 1 - config.clip_low) & (batch.advantage_T < 0)
    high_T = (ratio_T > 1 + config.clip_high) & (batch.advantage_T > 0)
    drift_T = logp_T - batch.engine_T
    return {
        "clip": (low_T | high_T).float().sum(),
        "kl_engine": (drift_T.exp() - drift_T - 1).sum(),
        "ratio_max": drift_T.exp().max(),
    }
