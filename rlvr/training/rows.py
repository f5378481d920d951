"""The rows of an optimizer step, and the tensors of a micro-batch of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rlvr.algorithm.loss import TokenBatch, has_logprob, num_trained, row_weights
from rlvr.algorithm.surrogate import RowLayout
from rlvr.algorithm.token_selection import Selection, select, selects
from rlvr.engines.engine import Response
from rlvr.policy.packing import to_device
from rlvr.policy.policy import Policy, TokenRow
from rlvr.training.batch import StepBatch, UpdateConfig


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One response ready for training.

    num_tokens, weight: of its tokens in the step's loss. proximal_logprobs: None where the weights
    that train it are themselves the proximal policy. num_stale: how many of its first tokens were
    sampled by the weights of earlier steps. selected: of its tokens, or None without a choice.
    """

    tokens: TokenRow
    engine_logprobs: list[float]
    reference_logprobs: list[float] | None
    proximal_logprobs: list[float] | None
    advantage: float
    num_tokens: int
    weight: float
    num_stale: int
    selected: Selection | None
    teacher_logprobs: list[float] | None


def make_rows(
    batch: StepBatch, config: UpdateConfig, step: int, entropy_on: bool = False
) -> list[TrainingRow]:
    """The rows of one optimizer step, without those that cannot move the policy.

    Truncated responses are masked when config.mask_truncated: they count in their group's
    advantages but not in the loss. Its denominator leaves their tokens out, but counts them as rows
    (response_mean, response_sum, constant), as trl does. Responses that nobody judged are always
    masked, and count in no advantage. A token for which the engine gave no log-probability is in
    neither the loss nor its denominator.
    """
    algorithm, groups = config.algorithm, batch.groups
    responses = [response for group in groups for response in group.responses]
    judged = [known for group in groups for known in group.judged]
    lengths = [
        num_trained(r.logprobs) if known and not (config.mask_truncated and r.truncated) else 0
        for r, known in zip(responses, judged, strict=True)
    ]
    # of the whole optimizer step, before it is split over micro-batches and ranks
    weights = row_weights(lengths, algorithm.aggregation, config.max_response_len)
    stale = [
        _num_stale(response, group.policy_version, step)
        for group in groups
        for response in group.responses
    ]
    # Without a mismatch weight nothing would account for the age of a stale row. Its ratio then
    # does: the engine's probability takes the place of the proximal one.
    by_engine = algorithm.mismatch == "none"
    values = [value for advantages_G in batch.advantages_PG for value in advantages_G]
    prompts = [group.prompt_ids for group in groups for _ in group.responses]
    references = _by_row(batch.references_PGT, len(responses))
    teachers = _by_row(batch.teachers_PGT, len(responses))
    # the KL penalty, the entropy bonus and the teacher have gradients where the advantage is 0
    in_loss = algorithm.kl_beta > 0 and algorithm.kl_in == "loss"
    keep_all = entropy_on or in_loss or batch.teachers_PGT is not None
    selected = _selections(batch, config, responses, lengths, values, step)
    return [
        TrainingRow(
            TokenRow(prompts[i], r.token_ids),
            r.logprobs,
            references[i],
            r.logprobs if stale[i] and by_engine else None,
            values[i],
            lengths[i],
            weights[i],
            stale[i],
            selected[i],
            teachers[i],
        )
        for i, r in enumerate(responses)
        if lengths[i] and (values[i] != 0 or keep_all)
    ]


def _by_row(
    scores_PGT: Sequence[Sequence[list[float]]] | None, num_rows: int
) -> Sequence[list[float] | None]:
    if scores_PGT is None:
        return [None] * num_rows
    return [scores_T for scores_GT in scores_PGT for scores_T in scores_GT]


def _selections(
    batch: StepBatch,
    config: UpdateConfig,
    responses: Sequence[Response],
    lengths: Sequence[int],
    values: Sequence[float],
    step: int,
) -> Sequence[Selection | None]:
    """Of every response; chosen among the tokens that are in the loss."""
    algorithm = config.algorithm
    if not selects(algorithm):
        return [None] * len(responses)
    sizes = [len(r.token_ids) for r in responses]
    logp_K = np.array([x for r in responses for x in r.logprobs])
    # of a masked row no token is in the loss
    in_loss = np.repeat(np.array(lengths) > 0, sizes)
    trained_K = has_logprob(torch.from_numpy(logp_K)).numpy() & in_loss
    advantage_K, entropy_K = np.repeat(np.array(values), sizes), None
    if batch.teachers_PGT is not None:
        teacher_K = np.array([x for of_G in batch.teachers_PGT for of_T in of_G for x in of_T])
        advantage_K = advantage_K + config.teacher_weight * (teacher_K - logp_K)
    if batch.entropies_PGT is not None:
        entropies = [x for of_G in batch.entropies_PGT for of_T in of_G for x in of_T]
        entropy_K = np.array(entropies)[trained_K]
    kept_K, held_K = np.zeros((2, len(logp_K)), dtype=bool)
    if trained_K.any():
        found = select(algorithm, logp_K[trained_K], advantage_K[trained_K], entropy_K, seed=step)
        kept_K[trained_K], held_K[trained_K] = found.kept, found.held
    ends = np.cumsum(sizes)[:-1]
    parts = zip(np.split(kept_K, ends), np.split(held_K, ends), strict=True)
    return [Selection(kept, held) for kept, held in parts]


def _num_stale(response: Response, policy_version: int, step: int) -> int:
    spans = response.spans or [(policy_version, len(response.token_ids))]
    return sum(count for version, count in spans if version != step)


def micro_batches(
    policy: Policy, rows: Sequence[TrainingRow], max_tokens: int
) -> list[list[TrainingRow]]:
    """The rows of each forward pass: `max_tokens` tokens at most, or one row."""
    parts = policy.micro_batches([row.tokens for row in rows], max_tokens)
    return [[rows[i] for i in part] for part in parts]


def token_batch(
    batch: Sequence[TrainingRow],
    device: torch.device,
    entropy_weight: float,
    teacher_weight: float = 0.0,
) -> tuple[TokenBatch, Tensor | None]:
    """Inputs of the loss besides log-probabilities, and which of the rows' tokens they are for, as
    [T] indices; None: all of them."""
    layout = RowLayout.of(torch.tensor([len(row.tokens.response_ids) for row in batch]))
    per_row = torch.tensor([[r.advantage, r.weight, r.proximal_logprobs is None] for r in batch])
    columns = dict(zip(PER_ROW, per_row[layout.row_T].unbind(dim=1), strict=True))
    columns |= _columns(batch)
    has_T = has_logprob(columns["engine"])
    kept_T = None if has_T.all() else has_T.nonzero().squeeze(1)
    # one table, so that everything takes one copy to the device instead of ten
    table = torch.stack(list(columns.values()))
    if kept_T is not None:
        table = table[:, kept_T]
        layout = RowLayout.of(torch.bincount(layout.row_T[kept_T], minlength=len(batch)))
    found = dict(zip(columns, to_device(table, device), strict=True))
    tokens = TokenBatch(
        found["engine"],
        found.get("reference"),
        found["advantage"],
        found["weight"],
        on_policy_T=found["on_policy"].bool(),
        layout=RowLayout(to_device(layout.row_T, device), to_device(layout.length_N, device)),
        entropy_weight=entropy_weight,
        proximal_T=found["proximal"],
        stale_T=found["stale"].bool(),
        selected=(found["kept"].bool(), found["held"].bool()) if "kept" in found else None,
        teacher_T=found.get("teacher"),
        teacher_weight=teacher_weight,
    )
    return tokens, kept_T if kept_T is None else to_device(kept_T, device)


PER_ROW = ("advantage", "weight", "on_policy")


def _columns(batch: Sequence[TrainingRow]) -> dict[str, Tensor]:
    """[T] numbers of the rows' tokens by name; without those that no row has."""
    columns = {
        "engine": [row.engine_logprobs for row in batch],
        "proximal": [row.proximal_logprobs or row.engine_logprobs for row in batch],
        "stale": [np.arange(len(r.tokens.response_ids)) < r.num_stale for r in batch],
        "reference": [r.reference_logprobs for r in batch if r.reference_logprobs is not None],
        "teacher": [r.teacher_logprobs for r in batch if r.teacher_logprobs is not None],
        "kept": [row.selected.kept for row in batch if row.selected is not None],
        "held": [row.selected.held for row in batch if row.selected is not None],
    }
    return {
        name: torch.from_numpy(np.concatenate(rows).astype(np.float32))
        for name, rows in columns.items()
        if rows
    }
