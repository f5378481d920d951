"""One update: groups to advantages, unpadded micro-batches, one denominator for the whole step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from rlvr.advantage import advantages
from rlvr.loss import TokenBatch, policy_loss, row_weights
from rlvr.policy import Policy, TokenRow
from rlvr.recipe import RunError
from rlvr.sampler import Group

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from rlvr.config import TrainRecipe


@dataclass(frozen=True, slots=True)
class Row:
    """One response ready for training. weight: of each of its tokens in the step's loss."""

    tokens: TokenRow
    engine_logprobs: list[float]
    advantage: float
    weight: float
    on_policy: bool


def make_rows(groups: Sequence[Group], recipe: TrainRecipe, step: int) -> list[Row]:
    """The rows of one optimizer step; rows that cannot move the policy are left out.

    Truncated responses are masked when reward.overlong is "mask": they count in their group's
    advantages but not in the loss or its denominator.
    """
    algorithm = recipe.algorithm
    masked = recipe.reward.overlong == "mask"
    responses = [response for group in groups for response in group.responses]
    lengths = [0 if masked and r.truncated else len(r.token_ids) for r in responses]
    weights = row_weights(lengths, algorithm.aggregation, recipe.rollout.max_response_len)
    values = advantages([group.rewards for group in groups], algorithm.advantage)
    on_policy = [
        group.step == step and recipe.optim.updates_per_step == 1
        for group in groups
        for _ in group.responses
    ]
    flat = [value for group in values for value in group]
    prompts = [group.prompt_ids for group in groups for _ in group.responses]
    return [
        Row(TokenRow(prompt, r.token_ids), r.logprobs, value, weight, fresh)
        for prompt, r, n, value, weight, fresh in zip(
            prompts, responses, lengths, flat, weights, on_policy, strict=True
        )
        if n and (value != 0 or algorithm.kl_beta > 0)
    ]


def micro_batches(rows: Sequence[Row], max_tokens: int) -> list[list[Row]]:
    """Rows of similar length together: `max_tokens` tokens with padding at most, or one row."""
    batches: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: -len(row.tokens)):
        if batches and (len(batches[-1]) + 1) * len(batches[-1][0].tokens) <= max_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def update(
    policy: Policy,
    optimizer: Optimizer,
    groups: Sequence[Group],
    recipe: TrainRecipe,
    step: int,
    safe_point: Callable[[], None],
) -> dict[str, float]:
    """Trains on the groups, `updates_per_step` optimizer steps; the step's metrics by name.

    safe_point is called as long as no parameter has moved and may raise to stop the run. Raises:
    RunError for a non-finite loss or gradient.
    """
    schedule = policy.method.schedule
    num_updates = min(recipe.optim.updates_per_step, len(groups))
    sums: dict[str, float] = {"loss": 0.0, "padded": 0.0, "real": 0.0, "ratio_max": 0.0}
    grad_norms = []
    for part in range(num_updates):
        rows = make_rows(groups[part::num_updates], recipe, step)
        if not rows:
            continue
        optimizer.zero_grad(set_to_none=True)
        for batch in micro_batches(rows, recipe.train.tokens_per_microbatch):
            if part == 0:
                safe_point()
            _accumulate(policy, batch, recipe, sums)
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
    optimizer.zero_grad(set_to_none=True)
    return _metrics(sums, grad_norms)


def _accumulate(
    policy: Policy, batch: Sequence[Row], recipe: TrainRecipe, sums: dict[str, float]
) -> None:
    """Backward through one micro-batch; adds its sums to `sums`."""
    rows = [row.tokens for row in batch]
    lengths = torch.tensor([len(row.response_ids) for row in rows])

    def per_token(values: list[float] | list[bool]) -> torch.Tensor:
        return torch.tensor(values).repeat_interleave(lengths).to(policy.device)

    temperature = recipe.rollout.temperature
    logp_T, entropy_T = policy.logprobs(rows, temperature)
    ref_T = policy.reference_logprobs(rows, temperature) if recipe.algorithm.kl_beta else None
    tokens = TokenBatch(
        engine_T=torch.tensor([p for row in batch for p in row.engine_logprobs]).to(policy.device),
        ref_T=ref_T,
        advantage_T=per_token([row.advantage for row in batch]),
        weight_T=per_token([row.weight for row in batch]),
        on_policy_T=per_token([row.on_policy for row in batch]),
    )
    loss, parts = policy_loss(logp_T, tokens, recipe.algorithm)
    loss.backward()
    sums["loss"] += float(loss.detach())
    sums["entropy"] = sums.get("entropy", 0.0) + float(entropy_T.sum())
    sums["tokens"] = sums.get("tokens", 0.0) + float(lengths.sum())
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
