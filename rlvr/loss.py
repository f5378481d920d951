"""The policy-gradient loss on flat, unpadded response tokens.

Shapes: T response tokens of one micro-batch, all rows' tokens one after another. Every aggregation
is a weight per row, fixed before the first micro-batch, so that splitting the step differently
changes nothing.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlvr.config import AlgorithmConfig
from rlvr.surrogate import Rows, surrogate


@dataclass(frozen=True)
class TokenBatch:
    """Everything about one micro-batch except the trainer's log-probabilities.

    engine_T: log-probabilities of the sampled tokens by the engine. ref_T: by the reference policy,
    or None without a KL penalty. advantage_T, weight_T: of the token's row. on_policy_T:
    the row was sampled by exactly these weights, so that the ratio is 1. rows: which row is whose.
    entropy_weight: coefficient of the summed entropy in the loss; 0 without a bonus.
    """

    engine_T: Tensor
    ref_T: Tensor | None
    advantage_T: Tensor
    weight_T: Tensor
    on_policy_T: Tensor
    rows: Rows
    entropy_weight: float = 0.0


def row_weights(lengths: list[int], aggregation: str, max_response_len: int) -> list[float]:
    """Weight of each row's tokens: the loss is sum_t weight_t loss_t. Length 0: a masked row.

    token_mean: 1 / tokens of the step (DAPO, 2503.14476 eq. 8). response_mean: 1 / (rows x tokens
    of the row) (GRPO, 2402.03300 eq. 3). response_sum: 1 / rows (REINFORCE; OPO, 2505.23585).
    constant: 1 / (rows x max_response_len) (Dr. GRPO, 2503.20783).
    """
    num_rows, num_tokens = len(lengths), max(sum(lengths), 1)
    match aggregation:
        case "token_mean":
            return [1 / num_tokens] * num_rows
        case "response_mean":
            return [1 / (num_rows * max(n, 1)) for n in lengths]
        case "response_sum":
            return [1 / num_rows] * num_rows
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

    With q = pi_train / pi_engine of the token or of the whole response (mismatch_level): tis gives
    min(q, C); mask gives q inside [1/C, C] and 0 outside. Rows sampled by older weights get 1:
    their ratio has the engine's probability in its denominator.
    Source: TIS, Yao et al. 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL
    Training"; mask, IcePop, 2510.18855.
    """
    if config.mismatch == "none":
        return torch.ones_like(logp_T)
    log_quotient_T = logp_T.detach() - batch.engine_T
    if config.mismatch_level == "sequence":
        log_quotient_T = batch.rows.total(log_quotient_T)
    quotient_T, cap = log_quotient_T.exp(), config.mismatch_cap
    if config.mismatch == "tis":
        weight_T = quotient_T.clamp(max=cap)
    else:
        weight_T = quotient_T * ((quotient_T >= 1 / cap) & (quotient_T <= cap))
    return torch.where(batch.on_policy_T, weight_T, 1.0)


def policy_loss(
    logp_T: Tensor, entropy_T: Tensor, batch: TokenBatch, config: AlgorithmConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """The micro-batch's share of the step's loss, and sums (not means) for the metrics.

    Denominator: inside `batch.weight_T` (see `row_weights`). Per token: minus the surrogate (see
    `rlvr.surrogate`) times the mismatch weight, plus kl_beta times the KL estimate, and minus the
    entropy bonus. kl_unbiased multiplies the estimate by the token's ratio, whose gradient makes
    that of the whole the gradient of KL(policy || reference) (DeepSeek-V3.2, 2512.02556).
    """
    old_T = torch.where(batch.on_policy_T, logp_T.detach(), batch.engine_T)
    gain_T, clipped_T = surrogate(logp_T, old_T, batch.advantage_T, batch.rows, config)
    loss_T = -gain_T * mismatch_weights(logp_T, batch, config)
    sums = _sums(logp_T, clipped_T, batch)
    if batch.ref_T is not None and config.kl_in == "loss":
        kl_T = kl_penalty(logp_T, batch.ref_T, config.kl_estimator)
        if config.kl_unbiased:
            kl_T = kl_T * (logp_T - old_T).exp()
        loss_T = loss_T + config.kl_beta * kl_T
    loss = (loss_T * batch.weight_T).sum()
    if batch.entropy_weight:
        loss = loss - batch.entropy_weight * entropy_T.sum()
    return loss, sums


@torch.no_grad()
def _sums(logp_T: Tensor, clipped_T: Tensor, batch: TokenBatch) -> dict[str, Tensor]:
    drift_T = logp_T - batch.engine_T
    sums = {
        "clip": clipped_T.float().sum(),
        "kl_engine": (drift_T.exp() - drift_T - 1).sum(),
        "ratio_max": drift_T.exp().max(),
    }
    if batch.ref_T is not None:
        sums["kl_ref"] = kl_penalty(logp_T, batch.ref_T, "k3").sum()
    return sums
