"""One step's groups with everything that the update needs to know beyond the sampled tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from rlvr import ranks, sharding
from rlvr.advantage import advantages
from rlvr.loss import kl_penalty
from rlvr.policy import Policy, TokenRow
from rlvr.sampler import Group

if TYPE_CHECKING:
    from rlvr.config import TrainRecipe


@dataclass(frozen=True, slots=True)
class StepBatch:
    """P groups of G responses. advantages: [P][G]. references: [P][G][tokens], the reference
    policy's log-probabilities, or None without a KL penalty."""

    groups: Sequence[Group]
    advantages: list[list[float]]
    references: list[list[list[float]]] | None

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
    KL estimate, at the log-probabilities that the response was sampled with.
    Source: RLHF's penalised reward, 1909.08593 eq. 2.
    """
    algorithm = recipe.algorithm
    references = score_by_reference(groups, policy, recipe) if algorithm.kl_beta else None
    rewards = [group.rewards for group in groups]
    if references is not None and algorithm.kl_in == "reward":
        rewards = [
            [
                reward - algorithm.kl_beta * _kl_sum(r.logprobs, ref, algorithm.kl_estimator)
                for reward, r, ref in zip(group.rewards, group.responses, scores, strict=True)
            ]
            for group, scores in zip(groups, references, strict=True)
        ]
    lengths = [[len(r.token_ids) for r in group.responses] for group in groups]
    judged = [group.judged for group in groups]
    return StepBatch(groups, advantages(rewards, lengths, algorithm.advantage, judged), references)


def _kl_sum(logprobs: list[float], reference: list[float], estimator: str) -> float:
    return float(kl_penalty(torch.tensor(logprobs), torch.tensor(reference), estimator).sum())


def score_by_reference(
    groups: Sequence[Group], policy: Policy, recipe: TrainRecipe
) -> list[list[list[float]]]:
    """[P][G][tokens] log-probabilities of every response by the reference policy.

    Every rank scores its share of the rows.
    """
    rows = [TokenRow(group.prompt_ids, r.token_ids) for group in groups for r in group.responses]
    indices = ranks.balanced([len(row) for row in rows])
    mine = _score([rows[i] for i in indices], policy, recipe)
    parts = ranks.gather(list(zip(indices, mine, strict=True)))
    scores = dict(pair for part in parts for pair in part)
    remaining = iter([scores[i] for i in range(len(rows))])
    return [[next(remaining) for _ in group.responses] for group in groups]


def _score(rows: Sequence[TokenRow], policy: Policy, recipe: TrainRecipe) -> list[list[float]]:
    """[rows][tokens] log-probabilities of the responses by the reference policy."""
    scores: list[list[float]] = [[] for _ in rows]
    with policy.reference_at_hand():
        batches = policy.micro_batches(rows, recipe.train.tokens_per_microbatch)
        for _ in range(sharding.num_passes(policy, len(batches)) - len(batches)):
            policy.reference_logprobs([sharding.IDLE], recipe.rollout.temperature)
        for chosen in batches:
            part = [rows[i] for i in chosen]
            logp_T = policy.reference_logprobs(part, recipe.rollout.temperature).cpu()
            pieces = logp_T.split([len(row.response_ids) for row in part])
            for i, piece in zip(chosen, pieces, strict=True):
                scores[i] = piece.tolist()
    return scores
