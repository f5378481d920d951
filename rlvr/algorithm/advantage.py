"""Advantages of a step's responses. Estimators take the rewards and lengths of all its groups.

Shapes: a list of P groups, each a [G] tensor; groups may differ in G. One advantage per response.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from rlvr.common.errors import RunError
from rlvr.common.own_code import part_of

MIN_JUDGED = 2
"""A group with fewer judged responses has no advantages: there is nothing to compare with."""

STD_EPS = 1e-4
"""Added to the standard deviation, as in trl's GRPOTrainer."""

Groups = Sequence[Tensor]
Estimator = Callable[..., list[Tensor]]
"""Called with (rewards, lengths)."""


def is_informative(rewards: Sequence[float]) -> bool:
    """Whether a group's rewards differ, so that its advantages are not all zero."""
    return max(rewards) > min(rewards)


def centred(rewards_G: Tensor) -> Tensor:
    """[G] rewards minus their mean; exactly 0 where all are equal."""
    # the mean of equal numbers can be off by a rounding, which the division by std would blow up
    if rewards_G.max() == rewards_G.min():
        return torch.zeros_like(rewards_G)
    return rewards_G - rewards_G.mean()


def group_std(rewards: Groups, lengths: Groups) -> list[Tensor]:
    """(R - mean) / (std + eps) within each group, std with G - 1.

    Source: GRPO, 2402.03300. Deviation: eps in the denominator, for near-equal rewards.
    """
    return [centred(r_G) / (r_G.std() + STD_EPS) for r_G in rewards]


def group_mean(rewards: Groups, lengths: Groups) -> list[Tensor]:
    """R - mean within each group. Source: Dr. GRPO, 2503.20783."""
    return [centred(r_G) for r_G in rewards]


def leave_one_out(rewards: Groups, lengths: Groups) -> list[Tensor]:
    """R minus the mean of the group's other rewards: G / (G - 1) times R - mean.

    Source: RLOO, 2402.14740.
    """
    return [centred(r_G) * len(r_G) / (len(r_G) - 1) for r_G in rewards]


def length_weighted(rewards: Groups, lengths: Groups) -> list[Tensor]:
    """R minus the group's mean weighted by response length, the variance-optimal baseline.

    Source: OPO, 2505.23585; it takes the squared norm of the gradient of a response's
    log-probability as proportional to its length.
    """
    return [
        torch.zeros_like(r_G) if r_G.max() == r_G.min() else r_G - (r_G * n_G).sum() / n_G.sum()
        for r_G, n_G in zip(rewards, lengths, strict=True)
    ]


def batch_std(rewards: Groups, lengths: Groups) -> list[Tensor]:
    """(R - the group's mean) / (std of all rewards of the step + eps).

    Source: "Tricks or Traps?" (Lite PPO), 2508.08221.
    """
    # over responses, not over groups: a group's own std would weigh nearly solved problems up
    scale = torch.cat(list(rewards)).std() + STD_EPS
    return [centred(r_G) / scale for r_G in rewards]


def batch(rewards: Groups, lengths: Groups) -> list[Tensor]:
    """(R - mean of all rewards of the step) / (their std + eps): no baseline per group.

    Source: REINFORCE++, 2501.03262. Deviation: the KL penalty in the reward is summed over
    the response, where the paper sums it from each token on.
    """
    everything = torch.cat(list(rewards))
    if everything.max() == everything.min():
        return [torch.zeros_like(r_G) for r_G in rewards]
    return [(r_G - everything.mean()) / (everything.std() + STD_EPS) for r_G in rewards]


def informative_scaled(rewards: Groups, lengths: Groups) -> list[Tensor]:
    """(R - mean) times all groups / groups whose rewards differ: zero gradients dilute nothing.

    Source: GPG, 2504.02546, with F_norm = 1.
    """
    # without one all advantages are 0, whatever they are scaled by
    num_informative = sum(bool(r_G.max() > r_G.min()) for r_G in rewards)
    return [centred(r_G) * len(rewards) / max(num_informative, 1) for r_G in rewards]


def over_mean(rewards: Groups, lengths: Groups) -> list[Tensor]:
    """(R - mean) / mean within each group, for rewards of 0 and 1; 0 where all are equal.

    On average the gradient of the log-likelihood's expansion in failure rates, cut off after G - 1
    terms: a problem that is rarely solved weighs about 1 / pass rate. Source: MaxRL, 2602.02710.
    """
    # a mean of 0 is that of a group without a right response, whose advantages are 0
    return [centred(r_G) / r_G.mean().where(r_G.mean() != 0, 1) for r_G in rewards]


def pass_at_k(rewards: Groups, lengths: Groups, k: int = 1) -> list[Tensor]:
    """(mean over the sets of k with the response - mean over all sets) / std over all sets, where
    a set of k of the group's responses is worth its largest reward.

    0 where every set is worth the same, as where fewer than k responses are wrong. A group smaller
    than k is one set. Source: Pass@k Training, 2508.10751 eq. 14 and 15, there for rewards of 0
    and 1.
    """
    return [_best_of_k(r_G, min(k, len(r_G))) for r_G in rewards]


def _best_of_k(rewards_G: Tensor, k: int) -> Tensor:
    size = len(rewards_G)
    sorted_G, order_G = rewards_G.sort()
    if sorted_G[k - 1] == sorted_G[-1]:  # every set is worth the same
        return torch.zeros_like(rewards_G)

    def sets(chosen: int, among: int) -> float:
        return math.comb(among, chosen) if 0 <= chosen <= among else 0

    # the j-th smallest is the largest of its set where the others come from the j before it
    best_G = torch.tensor([sets(k - 1, j) for j in range(size)], dtype=rewards_G.dtype)
    share_G = best_G / sets(k, size)
    mean = (share_G * sorted_G).sum()
    std = (share_G * (sorted_G - mean).square()).sum().sqrt()
    # of sets with the m-th: it is the largest, or a larger j-th is, beside k - 2 from below j
    above_G = torch.tensor([sets(k - 2, j - 1) for j in range(size)], dtype=rewards_G.dtype)
    tail_G = (above_G * sorted_G).flip(0).cumsum(0).flip(0) - above_G * sorted_G
    with_G = (best_G * sorted_G + tail_G) / sets(k - 1, size - 1)
    return torch.empty_like(rewards_G).scatter(0, order_G, (with_G - mean) / std)


def none(rewards: Groups, lengths: Groups) -> list[Tensor]:
    """0: what a teacher adds to it is all that trains, see `rlvr.algorithm.loss.with_teacher`."""
    return [torch.zeros_like(r_G) for r_G in rewards]


ESTIMATORS: dict[str, Estimator] = {
    "group_std": group_std,
    "group_mean": group_mean,
    "leave_one_out": leave_one_out,
    "length_weighted": length_weighted,
    "batch_std": batch_std,
    "batch": batch,
    "informative_scaled": informative_scaled,
    "over_mean": over_mean,
    "pass_at_k": pass_at_k,
    "none": none,
}
"""Each algorithm.advantage as a function."""


def _check_own(name: str, estimates: list[Tensor], sizes: Sequence[int]) -> None:
    """Raises: RunError where a function of the user's own gave something else than advantages."""
    found = [list(one.shape) for one in estimates]
    if found != [[size] for size in sizes]:
        wanted = f"tensors of {', '.join(map(str, sizes))} advantages"
        raise RunError(
            f"algorithm.advantage = {name!r}: gave shapes {found}, not {wanted}; mend it"
        )
    if not all(torch.isfinite(one).all() for one in estimates):
        raise RunError(f"algorithm.advantage = {name!r}: gave a number that is not finite; mend it")


def advantages(
    rewards_PG: Sequence[Sequence[float]],
    lengths_PG: Sequence[Sequence[int]],
    estimator: str,
    judged_PG: Sequence[Sequence[bool]] | None = None,
    pass_k: int = 1,
) -> list[list[float]]:
    """[P][G] advantages of all responses of a step, in the order given.

    lengths_PG: in tokens. pass_k: of "pass_at_k". judged_PG: whether the verifier judged the
    response; None: all of them. The unjudged, and groups with fewer than MIN_JUDGED judged ones,
    get 0 and are in no statistic: the others get what they would get in a step without them.
    """
    if judged_PG is None:
        judged_PG = [[True] * len(group) for group in rewards_PG]
    known = [[i for i, one in enumerate(group) if one] for group in judged_PG]
    kept = [p for p, indices in enumerate(known) if len(indices) >= MIN_JUDGED]
    values_PG = [[0.0] * len(group) for group in rewards_PG]
    if not kept:
        return values_PG
    # float64: advantages are differences of near-equal rewards, and cost nothing next to a token
    estimate = part_of(ESTIMATORS, estimator)
    if estimator == "pass_at_k":
        estimate = partial(estimate, k=pass_k)
    estimates = estimate(
        [torch.tensor([rewards_PG[p][i] for i in known[p]], dtype=torch.float64) for p in kept],
        [torch.tensor([lengths_PG[p][i] for i in known[p]], dtype=torch.float64) for p in kept],
    )
    if estimator not in ESTIMATORS:
        estimates = [torch.as_tensor(one, dtype=torch.float64) for one in estimates]
        _check_own(estimator, estimates, [len(known[p]) for p in kept])
    for p, estimate_K in zip(kept, estimates, strict=True):
        for i, value in zip(known[p], estimate_K.tolist(), strict=True):
            values_PG[p][i] = value
    return values_PG
