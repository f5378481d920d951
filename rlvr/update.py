"""One update: groups to advantages, unpadded micro-batches, one denominator for the whole step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from rlvr.batch import StepBatch, fill
from rlvr.entropy import EntropyControl
from rlvr.loss import TokenBatch, policy_loss, row_weights
from rlvr.policy import Policy, TokenRow
from rlvr.recipe import RunError
from rlvr.surrogate import Rows

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from rlvr.config import TrainRecipe

SUMS = ("loss", "entropy", "tokens", "ratio_max", "real", "padded")


@dataclass(frozen=True, slots=True)
class Row:
    """One response ready for training. weight: of each of its tokens in the step's loss."""

    tokens: TokenRow
    engine_logprobs: list[float]
    reference_logprobs: list[float] | None
    advantage: float
    weight: float
    on_policy: bool


def make_rows(
    batch: StepBatch, recipe: TrainRecipe, step: int, entropy_on: bool = False
) -> list[Row]:
    """The rows of one optimizer step; rows that cannot move the policy are left out.

    Truncated responses are masked when reward.overlong is "mask": they count in their group's
    advantages but not in the loss or its denominator.
    """
    algorithm = recipe.algorithm
    masked = recipe.reward.overlong == "mask"
    groups = batch.groups
    responses = [response for group in groups for response in group.responses]
    lengths = [0 if masked and r.truncated else len(r.token_ids) for r in responses]
    weights = row_weights(lengths, algorithm.aggregation, recipe.rollout.max_response_len)
    on_policy = [
        group.step == step and recipe.optim.updates_per_step == 1
        for group in groups
        for _ in group.responses
    ]
    values = [value for group in batch.advantages for value in group]
    prompts = [group.prompt_ids for group in groups for _ in group.responses]
    references: list[list[float] | None] = [None] * len(responses)
    if batch.references is not None:
        references = [scores for group in batch.references for scores in group]
    keep_all = entropy_on or (algorithm.kl_beta > 0 and algorithm.kl_in == "loss")
    return [
        Row(TokenRow(prompt, r.token_ids), r.logprobs, reference, value, weight, fresh)
        for prompt, r, n, reference, value, weight, fresh in zip(
            prompts, responses, lengths, references, values, weights, on_policy, strict=True
        )
        if n and (value != 0 or keep_all)
    ]


def micro_batches(rows: Sequence[Row], max_tokens: int) -> list[list[Row]]:
    """Rows of similar length together: `max_tokens` tokens with padding at most, or one row."""
    return [[rows[i] for i in part] for part in fill([len(r.tokens) for r in rows], max_tokens)]


def update(
    policy: Policy,
    optimizer: Optimizer,
    batch: StepBatch,
    recipe: TrainRecipe,
    step: int,
    entropy: EntropyControl,
    safe_point: Callable[[], None],
) -> dict[str, float]:
    """Trains on the batch, `updates_per_step` optimizer steps; the step's metrics by name.

    safe_point is called as long as no parameter has moved and may raise to stop the run. Raises:
    RunError for a non-finite loss or gradient.
    """
    schedule = policy.method.schedule
    num_updates = min(recipe.optim.updates_per_step, len(batch.groups))
    sums: dict[str, float] = dict.fromkeys(SUMS, 0.0)
    grad_norms = []
    for part in range(num_updates):
        rows = make_rows(batch.part(part, num_updates), recipe, step, entropy.enabled)
        if not rows:
            continue
        num_tokens = sum(len(row.tokens.response_ids) for row in rows)
        entropy_before = sums["entropy"]
        optimizer.zero_grad(set_to_none=True)
        for micro_batch in micro_batches(rows, recipe.train.tokens_per_microbatch):
            if part == 0:
                safe_point()
            accumulate(policy, micro_batch, recipe, entropy.coef / num_tokens, sums)
        if schedule:
            schedule.penalty(policy.model).backward()
        grad_norm = float(
            torch.nn.utils.clip_grad_norm_(policy.trainable, recipe.optim.max_grad_norm)
        )
        if not math.isfinite(grad_norm):
            raise RunError(
                f"step {step}: the gradient norm is {grad_norm}; lower optim.lr, or use float32"
            )
        optimizer.step()
        if schedule:
            schedule.after_update(policy.model, step * num_updates + part)
        grad_norms.append(grad_norm)
        entropy.observe((sums["entropy"] - entropy_before) / num_tokens)
    optimizer.zero_grad(set_to_none=True)
    metrics = _metrics(sums, grad_norms)
    return metrics | {"policy/entropy_coef": entropy.coef} if entropy.enabled else metrics


def accumulate(
    policy: Policy,
    batch: Sequence[Row],
    recipe: TrainRecipe,
    entropy_weight: float,
    sums: dict[str, float],
) -> None:
    """Backward through one micro-batch; adds its sums to `sums`."""
    rows = [row.tokens for row in batch]
    lengths = torch.tensor([len(row.response_ids) for row in rows])

    def per_token(values: list[float] | list[bool]) -> torch.Tensor:
        return torch.tensor(values).repeat_interleave(lengths).to(policy.device)

    def joined(values: Iterable[list[float]]) -> torch.Tensor:
        return torch.tensor([x for row in values for x in row]).to(policy.device)

    logp_T, entropy_T = policy.logprobs(rows, recipe.rollout.temperature, entropy_weight != 0)
    references = [row.reference_logprobs for row in batch if row.reference_logprobs is not None]
    tokens = TokenBatch(
        engine_T=joined(row.engine_logprobs for row in batch),
        ref_T=joined(references) if references else None,
        advantage_T=per_token([row.advantage for row in batch]),
        weight_T=per_token([row.weight for row in batch]),
        on_policy_T=per_token([row.on_policy for row in batch]),
        rows=Rows.of(lengths.to(policy.device)),
        entropy_weight=entropy_weight,
    )
    loss, parts = policy_loss(logp_T, entropy_T, tokens, recipe.algorithm)
    loss.backward()
    sums["loss"] += float(loss.detach())
    sums["entropy"] += float(entropy_T.detach().sum())
    sums["tokens"] += float(lengths.sum())
    sums["ratio_max"] = max(sums["ratio_max"], float(parts.pop("ratio_max")))
    for name, value in parts.items():
        sums[name] = sums.get(name, 0.0) + float(value)
    real = [len(row) for row in rows]
    sums["real"] += sum(real)
    sums["padded"] += max(real) * len(real)


def _metrics(sums: dict[str, float], grad_norms: list[float]) -> dict[str, float]:
    if not grad_norms:
        return {"optim/grad_norm": 0.0, "policy/loss": 0.0}
    num_tokens = sums["tokens"]
    metrics = {
        "policy/loss": sums["loss"] / len(grad_norms),
        "policy/entropy": sums["entropy"] / num_tokens,
        "policy/kl_engine": sums["kl_engine"] / num_tokens,
        "policy/clip_frac": sums["clip"] / num_tokens,
        "policy/ratio_max": sums["ratio_max"],
        "optim/grad_norm": sum(grad_norms) / len(grad_norms),
        "train/padding_frac": 1 - sums["real"] / sums["padded"],
        "train/tokens": sums["real"],
    }
    if "kl_ref" in sums:
        metrics["policy/kl_ref"] = sums["kl_ref"] / num_tokens
    return metrics
