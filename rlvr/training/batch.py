"""One step's groups with everything that the update needs to know beyond the sampled tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlvr.algorithm.advantage import advantages
from rlvr.algorithm.loss import kl_penalty, num_trained
from rlvr.distributed import ranks, sharding
from rlvr.policy.policy import Policy, TokenRow
from rlvr.sampling.rollouts import Group

if TYPE_CHECKING:
    from rlvr.config.train import TrainRecipe


@dataclass(frozen=True, slots=True)
class StepBatch:
    """P groups of G responses. advantages: [P][G]. references: [P][G][tokens], the reference
    policy's log-probabilities, or None without a KL penalty."""

    groups: Sequence[Group]
    advantages: list[list[float]]
    references: list[list[list[float]]] | None

    @property
    def num_dropped(self) -> int:
        """Response tokens left out of the loss: the engine gave them no log-probability."""
        rows = [r.logprobs for group in self.groups for r in group.responses]
        return sum(len(row) - num_trained(row) for row in rows)

    def part(self, start: int, stride: int) -> StepBatch:
        """Every stride-th group from `start` on, with the advantages it has in the whole step."""
        chosen = slice(start, None, stride)
        references = self.references
        return StepBatch(
            self.groups[chosen],
            self.advantages[chosen],
            references if references is None else references[chosen],
        )


def make_batch(groups: Sequence[Group], policy: Policy, recipe: TrainRecipe) -> StepBatch:
    """Scores the responses by the reference where a KL penalty needs it, and forms advantages.

    With algorithm.kl_in = "reward" the reward loses kl_beta times the sum over the response of the
    KL estimate. Both policies are then scored here, in the same micro-batches: the engine's
    rounding would be a penalty on length.
    Source: RLHF's penalised reward, 1909.08593 eq. 2.
    """
    algorithm = recipe.algorithm
    references = score_by_reference(groups, policy, recipe) if algorithm.kl_beta else None
    rewards = [group.rewards for group in groups]
    if references is not None and algorithm.kl_in == "reward":
        rewards = [
            [
                reward - algorithm.kl_beta * _kl_sum(own, ref, algorithm.kl_estimator)
                for reward, own, ref in zip(group.rewards, own_scores, scores, strict=True)
            ]
            for group, own_scores, scores in zip(
                groups, score_by_policy(groups, policy, recipe), references, strict=True
            )
        ]
    lengths = [[len(r.token_ids) for r in group.responses] for group in groups]
    judged = [group.judged for group in groups]
    return StepBatch(groups, advantages(rewards, lengths, algorithm.advantage, judged), references)


def _kl_sum(logprobs: list[float], reference: list[float], estimator: str) -> float:
    return float(kl_penalty(torch.tensor(logprobs), torch.tensor(reference), estimator).sum())


def score_by_reference(
    groups: Sequence[Group], policy: Policy, recipe: TrainRecipe
) -> list[list[list[float]]]:
    """[P][G][tokens] log-probabilities of every response by the reference policy."""
    with policy.reference_at_hand():
        return _score_groups(
            groups,
            policy,
            recipe,
            lambda rows: policy.reference_logprobs(rows, recipe.rollout.temperature),
        )


def score_by_policy(
    groups: Sequence[Group], policy: Policy, recipe: TrainRecipe
) -> list[list[list[float]]]:
    """[P][G][tokens] log-probabilities of every response by the policy as it is now."""
    return _score_groups(
        groups,
        policy,
        recipe,
        lambda rows: policy_logprobs(policy, rows, recipe.rollout.temperature),
    )


@torch.no_grad()
def policy_logprobs(
    policy: Policy, rows: Sequence[TokenRow], temperature: float, entropy_grad: bool = False
) -> Tensor:
    """[T] log-probabilities of the rows' response tokens, by the computation that trains on them
    and without its graph. entropy_grad: as that computation."""
    return policy.logprobs(rows, temperature, entropy_grad)[0]


Forward = Callable[[Sequence[TokenRow]], Tensor]
"""Rows of one micro-batch to the [T] log-probabilities of their response tokens."""


def _score_groups(
    groups: Sequence[Group], policy: Policy, recipe: TrainRecipe, forward: Forward
) -> list[list[list[float]]]:
    """[P][G][tokens] log-probabilities of every response; every rank scores its share of rows."""
    rows = [TokenRow(group.prompt_ids, r.token_ids) for group in groups for r in group.responses]
    indices = ranks.balanced([len(row) for row in rows])
    mine = score_rows([rows[i] for i in indices], policy, recipe, forward)
    parts = ranks.gather(list(zip(indices, mine, strict=True)))
    scores = dict(pair for part in parts for pair in part)
    remaining = iter([scores[i] for i in range(len(rows))])
    return [[next(remaining) for _ in group.responses] for group in groups]


def score_rows(
    rows: Sequence[TokenRow], policy: Policy, recipe: TrainRecipe, forward: Forward
) -> list[list[float]]:
    """[rows][tokens] log-probabilities of this rank's responses, in the update's micro-batches.

    Sharded, every rank makes as many passes as the one with the most.
    """
    scores: list[list[float]] = [[] for _ in rows]
    batches = policy.micro_batches(rows, recipe.train.tokens_per_microbatch)
    for _ in range(sharding.num_passes(policy, len(batches)) - len(batches)):
        forward([sharding.IDLE])
    for chosen in batches:
        part = [rows[i] for i in chosen]
        pieces = forward(part).cpu().split([len(row.response_ids) for row in part])
        for i, piece in zip(chosen, pieces, strict=True):
            scores[i] = piece.tolist()
    return scores
