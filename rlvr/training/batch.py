"""One step's groups with everything that the update needs to know beyond the sampled tokens.

Shapes: P groups of G responses; [P][G][T] are nested lists, since responses differ in length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlvr.algorithm.advantage import advantages
from rlvr.algorithm.loss import kl_penalty, num_trained
from rlvr.policy.policy import Policy, TokenRow
from rlvr.policy.sharded import IDLE
from rlvr.sampling.rollouts import Group
from rlvr.training.teacher import Teacher

if TYPE_CHECKING:
    from rlvr.config.algorithm import AlgorithmConfig
    from rlvr.config.train import OptimConfig, TrainRecipe


@dataclass(frozen=True, slots=True)
class UpdateConfig:
    """What `make_batch` and `update` take of a recipe.

    temperature: of the rollouts; the trainer divides its logits by it too. mask_truncated: whether
    responses cut off at max_response_len (tokens) stay out of the loss. teacher_weight: 0 without
    a teacher.
    """

    algorithm: AlgorithmConfig
    optim: OptimConfig
    temperature: float
    max_response_len: int
    tokens_per_microbatch: int
    mask_truncated: bool
    teacher_weight: float

    @classmethod
    def of(cls, recipe: TrainRecipe) -> UpdateConfig:
        """The recipe's."""
        return cls(
            recipe.algorithm,
            recipe.optim,
            recipe.rollout.temperature,
            recipe.rollout.max_response_len,
            recipe.train.tokens_per_microbatch,
            recipe.reward.overlong == "mask",
            recipe.teacher.weight if recipe.teacher.is_given else 0.0,
        )


@dataclass(frozen=True, slots=True)
class StepBatch:
    """P groups of G responses. references_PGT: the reference policy's log-probabilities of the
    response tokens, or None without a KL penalty. entropies_PGT: the policy's entropies (nats) at
    the response tokens, or None where nothing is chosen by them. teachers_PGT: the teacher's
    log-probabilities of them, or None without one."""

    groups: Sequence[Group]
    advantages_PG: list[list[float]]
    references_PGT: list[list[list[float]]] | None
    entropies_PGT: list[list[list[float]]] | None = None
    teachers_PGT: list[list[list[float]]] | None = None

    @property
    def num_dropped(self) -> int:
        """Response tokens that the loss skips: the engine gave them no log-probability."""
        rows = [r.logprobs for group in self.groups for r in group.responses]
        return sum(len(row) - num_trained(row) for row in rows)

    def part(self, start: int, stride: int) -> StepBatch:
        """Every stride-th group from `start` on, with the advantages it has in the whole step."""
        chosen = slice(start, None, stride)
        scores = (self.references_PGT, self.entropies_PGT, self.teachers_PGT)
        return StepBatch(
            self.groups[chosen],
            self.advantages_PG[chosen],
            *(one if one is None else one[chosen] for one in scores),
        )


def make_batch(
    groups: Sequence[Group],
    policy: Policy,
    config: UpdateConfig,
    teacher: Teacher | None = None,
) -> StepBatch:
    """Scores the responses by the teacher, if there is one, and by the reference where a KL penalty
    needs it, and forms advantages.

    With algorithm.kl_in = "reward" the reward loses kl_beta times the sum over the response of the
    KL estimate. Source: RLHF's penalised reward, 1909.08593 eq. 2.
    """
    algorithm = config.algorithm
    assert (teacher is not None) == (config.teacher_weight > 0), (teacher, config.teacher_weight)
    teachers_PGT = score_by_teacher(groups, policy, config, teacher) if teacher else None
    references_PGT = score_by_reference(groups, policy, config) if algorithm.kl_beta else None
    # the groups keep the reward itself: it is what is logged and saved
    rewards_PG = [group.rewards for group in groups]
    if references_PGT is not None and algorithm.kl_in == "reward":
        # both policies scored here and in the same micro-batches: with the engine's scores, its
        # rounding would be a penalty on length
        own_PGT = score_by_policy(groups, policy, config)
        rewards_PG = [
            [
                reward - algorithm.kl_beta * _kl_sum(own_T, ref_T, algorithm.kl_estimator)
                for reward, own_T, ref_T in zip(rewards_G, own_GT, ref_GT, strict=True)
            ]
            for rewards_G, own_GT, ref_GT in zip(rewards_PG, own_PGT, references_PGT, strict=True)
        ]
    by_entropy = algorithm.top_entropy_quantile < 1
    entropies_PGT = policy_entropies(groups, policy, config) if by_entropy else None
    advantages_PG = batch_advantages(groups, algorithm, rewards_PG)
    return StepBatch(groups, advantages_PG, references_PGT, entropies_PGT, teachers_PGT)


def batch_advantages(
    groups: Sequence[Group],
    algorithm: AlgorithmConfig,
    rewards_PG: list[list[float]] | None = None,
) -> list[list[float]]:
    """[P][G] advantages of the groups. rewards_PG: None takes their own rewards."""
    lengths_PG = [[len(r.token_ids) for r in group.responses] for group in groups]
    judged_PG = [group.judged for group in groups]
    own_PG = [group.rewards for group in groups]
    return advantages(
        rewards_PG or own_PG, lengths_PG, algorithm.advantage, judged_PG, algorithm.pass_k
    )


def _kl_sum(own_T: list[float], reference_T: list[float], estimator: str) -> float:
    return float(kl_penalty(torch.tensor(own_T), torch.tensor(reference_T), estimator).sum())


Forward = Callable[[Sequence[TokenRow]], Tensor]
"""Rows of one micro-batch to a [T] number of each response token."""


def score_by_reference(
    groups: Sequence[Group], policy: Policy, config: UpdateConfig
) -> list[list[list[float]]]:
    """[P][G][T] log-probabilities of every response token by the reference policy."""

    def forward(rows: Sequence[TokenRow]) -> Tensor:
        return policy.reference_logprobs(rows, config.temperature)

    with policy.reference_on_device():
        return _score_groups(groups, policy, config, forward)


def score_by_teacher(
    groups: Sequence[Group], policy: Policy, config: UpdateConfig, teacher: Teacher
) -> list[list[list[float]]]:
    """[P][G][T] log-probabilities of every response token by the teacher."""

    def forward(rows: Sequence[TokenRow]) -> Tensor:
        return teacher.logprobs(rows, config.temperature)

    with teacher.on_device():
        return _score_groups(groups, policy, config, forward, teacher)


def score_by_policy(
    groups: Sequence[Group], policy: Policy, config: UpdateConfig
) -> list[list[list[float]]]:
    """[P][G][T] log-probabilities of every response token by the policy as it is now."""

    def forward(rows: Sequence[TokenRow]) -> Tensor:
        return policy_logprobs(policy, rows, config.temperature)

    return _score_groups(groups, policy, config, forward)


def policy_entropies(
    groups: Sequence[Group], policy: Policy, config: UpdateConfig
) -> list[list[list[float]]]:
    """[P][G][T] entropies (nats) of the policy as it is now, at every response token."""

    @torch.no_grad()
    def forward(rows: Sequence[TokenRow]) -> Tensor:
        return policy.logprobs(rows, config.temperature)[1]

    return _score_groups(groups, policy, config, forward)


@torch.no_grad()
def policy_logprobs(
    policy: Policy, rows: Sequence[TokenRow], temperature: float, entropy_grad: bool = False
) -> Tensor:
    """[T] log-probabilities of the rows' response tokens, by the computation that trains on them
    and without its graph. entropy_grad: as that computation."""
    return policy.logprobs(rows, temperature, entropy_grad)[0]


def _score_groups(
    groups: Sequence[Group],
    policy: Policy,
    config: UpdateConfig,
    forward: Forward,
    teacher: Teacher | None = None,
) -> list[list[list[float]]]:
    """[P][G][T] what `forward` gives; every rank scores its share of rows. teacher: as in
    `score_rows`."""
    # longest first over the ranks, so each row comes with its index to find its place again
    world = policy.strategy.world
    rows = [TokenRow(group.prompt_ids, r.token_ids) for group in groups for r in group.responses]
    indices = world.my_share([len(row) for row in rows])

    def score() -> list[tuple[int, list[float]]]:
        mine = score_rows([rows[i] for i in indices], policy, config, forward, teacher)
        return list(zip(indices, mine, strict=True))

    parts = world.on_all_ranks(score)
    scores = dict(pair for part in parts for pair in part)
    remaining = iter([scores[i] for i in range(len(rows))])
    return [[next(remaining) for _ in group.responses] for group in groups]


def score_rows(
    rows: Sequence[TokenRow],
    policy: Policy,
    config: UpdateConfig,
    forward: Forward,
    teacher: Teacher | None = None,
) -> list[list[float]]:
    """[N][T] what `forward` gives of this rank's responses, in the update's micro-batches.

    teacher: whose forward pass it is, in micro-batches of its own; None: of the policy's models.
    """
    scores: list[list[float]] = [[] for _ in rows]
    batches = (teacher or policy).micro_batches(rows, config.tokens_per_microbatch)
    # a sharded forward pass gathers weights from all ranks, so all make as many of them; a teacher
    # is whole on each
    num_passes = len(batches) if teacher else policy.strategy.num_passes(len(batches))
    for _ in range(num_passes - len(batches)):
        forward([IDLE])
    for chosen in batches:
        part = [rows[i] for i in chosen]
        pieces = forward(part).cpu().split([len(row.response_ids) for row in part])
        for i, piece in zip(chosen, pieces, strict=True):
            scores[i] = piece.tolist()
    return scores
