"""The policy-gradient loss on flat, unpadded response tokens.

Shapes: T response tokens of one micro-batch, all rows' tokens one after another. Every aggregation
is a weight per row, fixed before the first micro-batch, so that splitting the step differently
changes nothing.

Three policies: the behaviour policy is the engine that sampled; the proximal policy is the trainer
at the start of the step; the current policy is the trainer now. The ratio is current / proximal,
the mismatch weight proximal / behaviour. Source: decoupled PPO, 2110.00641; AReaL, 2505.24298.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rlvr.algorithm.surrogate import RowLayout, bounded_exp, surrogate
from rlvr.config.algorithm import AlgorithmConfig

LOWEST = -1000.0
"""No token is sampled with a log-probability this low; vLLM's servers write -inf as -9999."""


@dataclass(frozen=True)
class TokenBatch:
    """Everything about one micro-batch except the trainer's log-probabilities.

    engine_T: log-probabilities of the sampled tokens by the engine. ref_T: by the reference policy,
    or None without a KL penalty. advantage_T, weight_T: of the token's row. on_policy_T: whether
    the weights being trained are the proximal policy, so that the ratio is 1. layout: each token's
    row. entropy_weight: coefficient of the summed entropy in the loss; 0 without a bonus.
    proximal_T: by the proximal policy, used where on_policy_T is false; None: the engine's.
    stale_T: whether the weights of an earlier step sampled the row; None: none did.
    selected: see `token_selection.Selection`, as [T] tensors; None: all tokens are kept, none held.
    teacher_T: log-probabilities by the teacher, or None without one. teacher_weight: its factor.
    """

    engine_T: Tensor
    ref_T: Tensor | None
    advantage_T: Tensor
    weight_T: Tensor
    on_policy_T: Tensor
    layout: RowLayout
    entropy_weight: float = 0.0
    proximal_T: Tensor | None = None
    stale_T: Tensor | None = None
    selected: tuple[Tensor, Tensor] | None = None
    teacher_T: Tensor | None = None
    teacher_weight: float = 0.0

    def proximal(self, logp_T: Tensor) -> Tensor:
        """[T] log-probabilities by the proximal policy, without a gradient."""
        scored_T = self.engine_T if self.proximal_T is None else self.proximal_T
        return torch.where(self.on_policy_T, logp_T.detach(), scored_T)


def has_logprob(engine_T: Tensor) -> Tensor:
    """[T] bool: whether the engine gave a log-probability; the loss skips tokens without one."""
    return (engine_T > LOWEST) & (engine_T < math.inf)


def num_trained(engine_logprobs: Sequence[float]) -> int:
    """Number of the response's tokens in the loss; see `has_logprob`."""
    return sum(LOWEST < x < math.inf for x in engine_logprobs)


def row_weights(lengths: list[int], aggregation: str, max_response_len: int) -> list[float]:
    """[N] weight of each row's tokens: the loss is sum_t weight_t loss_t. Length 0: a masked row.

    lengths: tokens in the loss. A masked row adds no tokens; it counts among the rows.

    token_mean: 1 / tokens of the step (DAPO, 2503.14476 eq. 8). response_mean: 1 / (rows x tokens
    of the row) (GRPO, 2402.03300 eq. 3). response_sum: 1 / rows (REINFORCE; OPO, 2505.23585).
    constant: 1 / (rows x max_response_len) (Dr. GRPO, 2503.20783).
    """
    # 1 where every row is masked: nothing is trained then, but the division is made
    num_rows, num_tokens = len(lengths), max(sum(lengths), 1)
    match aggregation:
        case "token_mean":
            return [1 / num_tokens] * num_rows
        case "response_mean":
            # max: the weight of a masked row meets no token, but is formed
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
    # the sign matters to k3: only with ref / policy is its mean the KL
    diff_T = ref_T - logp_T
    match estimator:
        case "k1":
            return -diff_T
        case "k2":
            return diff_T.square() / 2
        case "k3":
            return bounded_exp(diff_T) - diff_T - 1
    raise ValueError(f"algorithm.kl_estimator = {estimator!r}: unknown")


def mismatch_weights(logp_T: Tensor, batch: TokenBatch, config: AlgorithmConfig) -> Tensor:
    """[T] importance weights: the trainer's proximal policy over the engine's, which sampled.

    With q = pi_proximal / pi_engine of the token or of the whole response (mismatch_level): tis
    gives min(q, C); mask gives q inside [1/C, C] and 0 outside. q carries the engine's rounding
    and, in rows sampled by older weights, their age.
    Source: TIS, Yao et al. 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL
    Training"; mask, IcePop, 2510.18855.
    """
    if config.mismatch == "none":
        return torch.ones_like(logp_T)
    # without a gradient: a weight corrects for the sampling, it is no objective of its own
    log_quotient_T = batch.proximal(logp_T) - batch.engine_T
    if config.mismatch_level == "sequence":
        log_quotient_T = batch.layout.total(log_quotient_T)
    quotient_T, cap = bounded_exp(log_quotient_T), config.mismatch_cap
    if config.mismatch == "tis":
        return quotient_T.clamp(max=cap)
    return quotient_T * ((quotient_T >= 1 / cap) & (quotient_T <= cap))


def masked(logp_T: Tensor, batch: TokenBatch, config: AlgorithmConfig) -> Tensor | None:
    """[T] bool: the token gives no policy gradient, alone (see `token_selection`) or with its row;
    None where no mask is set.

    geometric_mask: the geometric mean over the row of q (see `mismatch_weights`) is outside of it.
    Source: Liu et al. 2025, "When Speed Kills Stability". off_policy_mask: the advantage is
    negative and the mean over the row of log pi_engine - log pi is above it. Source:
    DeepSeek-V3.2, 2512.02556 eq. 9; the threshold is on the sampling policy's, as in trl.
    """
    masks = [] if batch.selected is None else [~batch.selected[0]]
    if config.geometric_mask is not None:
        low, high = config.geometric_mask
        mean_T = bounded_exp(batch.layout.mean(batch.proximal(logp_T) - batch.engine_T))
        masks.append((mean_T < low) | (mean_T > high))
    if config.off_policy_mask is not None:
        mean_T = batch.layout.mean(batch.engine_T - logp_T.detach())
        masks.append((batch.advantage_T < 0) & (mean_T > config.off_policy_mask))
    return torch.stack(masks).any(dim=0) if masks else None


def kl_in_loss(logp_T: Tensor, batch: TokenBatch, ref_T: Tensor, config: AlgorithmConfig) -> Tensor:
    """[T] KL estimates whose gradients, for k2 and with kl_unbiased, are on average the KL's own.

    Where the policy has moved away from the one that sampled, the token's ratio corrects them:
    with its gradient under kl_unbiased (DeepSeek-V3.2, 2512.02556), detached at k2, whose gradient
    log ratio x grad log pi is right as it is. The policy that sampled is the proximal one, from
    which the engine differs by rounding only, or, in stale rows, the engine's.
    """
    kl_T = kl_penalty(logp_T, ref_T, config.kl_estimator)
    if not config.kl_unbiased and config.kl_estimator != "k2":
        return kl_T
    sampled_T = batch.proximal(logp_T)
    if batch.stale_T is not None:
        sampled_T = torch.where(batch.stale_T, batch.engine_T, sampled_T)
    ratio_T = bounded_exp(logp_T - sampled_T)
    return kl_T * (ratio_T if config.kl_unbiased else ratio_T.detach())


def with_teacher(logp_T: Tensor, batch: TokenBatch) -> TokenBatch:
    """The batch with the advantage of every token: its row's plus, where there is a teacher,
    teacher_weight (log p_teacher - log pi), without a gradient.

    With the ratio its expected gradient is that of -teacher_weight KL(pi || p_teacher), the sampled
    prefixes given. Source: Thinking Machines, "On-Policy Distillation" (2025); GKD, 2306.13649.
    Deviation: log pi is the trainer's now, there the engine's. In the first update of a step that
    differs by the engine's rounding; in later ones the gradient stays the KL's.
    """
    if batch.teacher_T is None:
        return batch
    gap_T = batch.teacher_T - logp_T.detach()
    return replace(batch, advantage_T=batch.advantage_T + batch.teacher_weight * gap_T)


def policy_loss(
    logp_T: Tensor, entropy_T: Tensor, batch: TokenBatch, config: AlgorithmConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """The micro-batch's share of the step's loss, and sums (not means) for the metrics.

    Denominator: inside `batch.weight_T` (see `row_weights`). Per token: minus the surrogate (see
    `rlvr.algorithm.surrogate`) times the mismatch weight, plus the penalty on tokens that are held,
    plus kl_beta times the KL estimate, and minus the entropy bonus.
    """
    batch, proximal_T = with_teacher(logp_T, batch), batch.proximal(logp_T)
    gain_T, clipped_T = surrogate(
        logp_T, proximal_T, batch.advantage_T, batch.layout, config, batch.engine_T
    )
    loss_T = -gain_T * mismatch_weights(logp_T, batch, config)
    sums = _sums(logp_T, clipped_T, batch)
    masked_T = masked(logp_T, batch, config)
    if masked_T is not None:
        # chosen, not multiplied: a gradient that is not finite has no place in what is left out
        loss_T = torch.where(masked_T, torch.zeros_like(loss_T), loss_T)
        sums["masked"] = masked_T.float().sum()
    if batch.selected is not None:
        # KL-Cov (2505.22617 eq. 14): the drift of the tokens that are held
        loss_T = loss_T + config.cov_kl_coef * batch.selected[1] * (logp_T - proximal_T).abs()
    if batch.ref_T is not None and config.kl_in == "loss":
        loss_T = loss_T + config.kl_beta * kl_in_loss(logp_T, batch, batch.ref_T, config)
    loss = (loss_T * batch.weight_T).sum()
    if batch.entropy_weight:
        loss = loss - batch.entropy_weight * entropy_T.sum()
    return loss, sums


@torch.no_grad()
def _sums(logp_T: Tensor, clipped_T: Tensor, batch: TokenBatch) -> dict[str, Tensor]:
    # sums, not means: a micro-batch does not know how many tokens the step has
    drift_T = logp_T - batch.engine_T
    quotient_T = bounded_exp(drift_T)
    sums = {
        "clip": clipped_T.float().sum(),
        "kl_engine": (quotient_T - drift_T - 1).sum(),
        "ratio_max": quotient_T.max(),
    }
    if batch.ref_T is not None:
        # k3 whatever the loss takes, so that the metric means the same in all runs
        sums["kl_ref"] = kl_penalty(logp_T, batch.ref_T, "k3").sum()
    if batch.teacher_T is not None:
        sums["kl_teacher"] = (logp_T - batch.teacher_T).sum()
    return sums
