"""Advantages of a step's responses. Estimators take the rewards and lengths of all its groups.

Shapes: a list of P groups, each a [G] tensor; groups may differ in G. One advantage per response.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rlvr.common.errors import RunError
from rlvr.common.own_code import part_of

MIN_JUDGED = 2
"""A group with fewer judged responses has no advantages: there is nothing to compare with."""

STD_EPS = 1e-4
"""Added to the standard deviation, as in trl's GRPOTrainer."""

Groups = Sequence[Tensor]
Estimator = Callable[[Groups, Groups], list[Tensor]]


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


ESTIMATORS: dict[str, Estimator] = {
    "group_std": group_std,
    "group_mean": group_mean,
    "leave_one_out": leave_one_out,
    "length_weighted": length_weighted,
    "batch_std": batch_std,
    "batch": batch,
    "informative_scaled": informative_scaled,
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
) -> list[list[float]]:
    """[P][G] advantages of all responses of a step, in the order given.

    lengths_PG: in tokens. judged_PG: whether the verifier judged the response; None: all of them.
    The unjudged, and groups with fewer than MIN_JUDGED judged ones, get 0 and are in no statistic:
    the others get what they would get in a step without them.
    """
    if judged_PG is None:
        judged_PG = [[True] * len(group) for group in rewards_PG]
    known = [[i for i, one in enumerate(group) if one] for group in judged_PG]
    kept = [p for p, indices in enumerate(known) if len(indices) >= MIN_JUDGED]
    values_PG = [[0.0] * len(group) for group in rewards_PG]
    if not kept:
        return values_PG
    # float64: advantages are differences of near-equal rewards, and cost nothing next to a token
    estimates = part_of(ESTIMATORS, estimator)(
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
