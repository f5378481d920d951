"""One update: unpadded micro-batches, one denominator for the whole step, clipped steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlvr.algorithm.entropy_control import EntropyControl
from rlvr.algorithm.loss import TokenBatch, has_logprob, num_trained, policy_loss, row_weights
from rlvr.algorithm.surrogate import Rows
from rlvr.distributed import ranks, sharding
from rlvr.policy.packing import to_device
from rlvr.policy.policy import Policy, TokenRow
from rlvr.training.batch import StepBatch, policy_logprobs, score_rows

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from rlvr.config.train import TrainRecipe

SUMS = ("loss", "entropy", "tokens", "ratio_max", "real", "attended", "positions")
Sums = dict[str, Tensor | float]
"""Running sums of a step; those of the loss stay on the device as float64."""


@dataclass(frozen=True, slots=True)
class Row:
    """One response ready for training. num_tokens, weight: of its tokens in the step's loss.
    proximal_logprobs: None where the weights that train it are themselves the proximal policy.
    stale: sampled by the weights of an earlier step."""

    tokens: TokenRow
    engine_logprobs: list[float]
    reference_logprobs: list[float] | None
    proximal_logprobs: list[float] | None
    advantage: float
    num_tokens: int
    weight: float
    stale: bool


def make_rows(
    batch: StepBatch, recipe: TrainRecipe, step: int, entropy_on: bool = False
) -> list[Row]:
    """The rows of one optimizer step; rows that cannot move the policy are left out.

    Truncated responses are masked when reward.overlong is "mask": they count in their group's
    advantages but not in the loss. Of its denominator their tokens are no part; as rows they count
    (response_mean, response_sum, constant), as in trl. Responses that nobody judged are masked
    always, and count in no advantage. A token whose log-probability the engine could not give is no
    part of either.

    mismatch = "none" weighs nothing: the ratio of a stale row then has the engine's probability as
    its proximal one, so that its age is not ignored.
    """
    algorithm = recipe.algorithm
    masked = recipe.reward.overlong == "mask"
    groups = batch.groups
    responses = [response for group in groups for response in group.responses]
    judged = [known for group in groups for known in group.judged]
    lengths = [
        num_trained(r.logprobs) if known and not (masked and r.truncated) else 0
        for r, known in zip(responses, judged, strict=True)
    ]
    weights = row_weights(lengths, algorithm.aggregation, recipe.rollout.max_response_len)
    stale = [group.step != step for group in groups for _ in group.responses]
    by_engine = algorithm.mismatch == "none"
    values = [value for group in batch.advantages for value in group]
    prompts = [group.prompt_ids for group in groups for _ in group.responses]
    references: list[list[float] | None] = [None] * len(responses)
    if batch.references is not None:
        references = [scores for group in batch.references for scores in group]
    keep_all = entropy_on or (algorithm.kl_beta > 0 and algorithm.kl_in == "loss")
    return [
        Row(
            TokenRow(prompt, r.token_ids),
            r.logprobs,
            reference,
            r.logprobs if old and by_engine else None,
            value,
            n,
            weight,
            old,
        )
        for prompt, r, n, reference, value, weight, old in zip(
            prompts, responses, lengths, references, values, weights, stale, strict=True
        )
        if n and (value != 0 or keep_all)
    ]


def micro_batches(policy: Policy, rows: Sequence[Row], max_tokens: int) -> list[list[Row]]:
    """The rows for each forward pass: `max_tokens` tokens at most, or one row."""
    parts = policy.micro_batches([row.tokens for row in rows], max_tokens)
    return [[rows[i] for i in part] for part in parts]


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

    Every rank is given the whole batch, trains on its share of the rows, balanced by tokens, and
    ends with the same parameters: a row's weight is that in the whole step, and gradients add up.
    The rows of the second update and later are scored by the trainer before the first.

    safe_point is called as long as no parameter has moved and may raise to stop the run. An update
    whose loss or gradient is not finite is left out: parameters and optimizer stay as they are, and
    optim/skipped counts it. In float16 the loss is scaled, and less after such a gradient.
    """
    schedule = policy.method.schedule
    num_updates = min(recipe.optim.updates_per_step, len(batch.groups))
    sums: Sums = dict.fromkeys(SUMS, 0.0)
    grad_norms, num_skipped = [], 0
    rows_of = [
        make_rows(batch.part(part, num_updates), recipe, step, entropy.enabled)
        for part in range(num_updates)
    ]
    shares = [[rows[i] for i in ranks.balanced([len(r.tokens) for r in rows])] for rows in rows_of]
    if any(rows_of[1:]):
        wants_grad = entropy.coef != 0
        ranks.together(partial(_score_proximal, policy, shares, recipe, wants_grad, safe_point))
    for part, (rows, mine) in enumerate(zip(rows_of, shares, strict=True)):
        if not rows:
            continue
        num_tokens = sum(row.num_tokens for row in rows)
        before = dict(sums)
        _scale_loss(policy, rows)
        optimizer.zero_grad(set_to_none=True)
        check = safe_point if part == 0 else _go_on
        weight = entropy.coef / num_tokens
        ranks.together(partial(_backward, policy, mine, recipe, weight, sums, check))
        if not policy.strategy.is_sharded:
            ranks.sum_gradients(policy.trainable)
        if schedule:
            policy.strategy.backward(schedule.penalty(policy.model))
        entropy_sum = float(sums["entropy"] - before["entropy"])
        parts = ranks.gather((float(sums["loss"]), entropy_sum))
        valid = math.isfinite(sum(loss for loss, _ in parts))
        grad_norm = _step(policy, optimizer, recipe.optim.max_grad_norm, valid)
        if grad_norm is None:
            sums, num_skipped = before, num_skipped + 1
            continue
        if schedule:
            # a step with few groups has its updates at the end of those that it might have had
            end = (step + 1) * recipe.optim.updates_per_step
            schedule.after_update(policy.model, end - num_updates + part)
        grad_norms.append(grad_norm)
        entropy.observe(sum(entropy for _, entropy in parts) / num_tokens)
    optimizer.zero_grad(set_to_none=True)
    numbers = _merge(ranks.gather(_read(sums)))
    metrics = _metrics(numbers, grad_norms) | {
        "optim/skipped": float(num_skipped),
        "policy/dropped_tokens": float(batch.num_dropped),
    }
    if policy.loss_scale:
        metrics["optim/loss_scale"] = policy.strategy.scale
    return metrics | {"policy/entropy_coef": entropy.coef} if entropy.enabled else metrics


def _scale_loss(policy: Policy, rows: Sequence[Row]) -> None:
    """In float16, sets the scale of the update on these rows, which are those of all ranks."""
    if policy.loss_scale:
        lengths = [len(row.tokens.response_ids) for row in rows]
        policy.strategy.scale = policy.loss_scale.factor([row.weight for row in rows], lengths)


def _step(policy: Policy, optimizer: Optimizer, max_norm: float, valid: bool) -> float | None:
    """The optimizer's step, or None where it is left out; see `ShardingStrategy.step`."""
    grad_norm = policy.strategy.step(policy.trainable, optimizer, max_norm, valid)
    if policy.loss_scale and valid:
        policy.loss_scale.observe(grad_norm is not None)
    return grad_norm


def _go_on() -> None:
    """The safe point of what can no longer be stopped."""


def _score_proximal(
    policy: Policy,
    shares: list[list[Row]],
    recipe: TrainRecipe,
    entropy_grad: bool,
    safe_point: Callable[[], None],
) -> None:
    """Gives this rank's rows of every update but the first their proximal log-probabilities.

    The first update's own forward passes are that of the proximal policy. The others are scored in
    the micro-batches that will train them: in 16 bits a token's probability depends on what stands
    beside it, and where no parameter has moved the ratio has to be exactly 1.
    """
    check = sharding.agreed(policy, safe_point)

    def forward(rows: Sequence[TokenRow]) -> Tensor:
        check()
        return policy_logprobs(policy, rows, recipe.rollout.temperature, entropy_grad)

    for part, rows in enumerate(shares[1:], 1):
        scores = score_rows([row.tokens for row in rows], policy, recipe, forward)
        shares[part] = [
            replace(row, proximal_logprobs=row.proximal_logprobs or own)
            for row, own in zip(rows, scores, strict=True)
        ]


def _backward(
    policy: Policy,
    rows: Sequence[Row],
    recipe: TrainRecipe,
    entropy_weight: float,
    sums: Sums,
    safe_point: Callable[[], None],
) -> None:
    """Backward through this rank's rows; sharded, as many times as on the rank with the most."""
    batches = micro_batches(policy, rows, recipe.train.tokens_per_microbatch)
    check = sharding.agreed(policy, safe_point)
    for i in range(sharding.num_passes(policy, len(batches))):
        check()
        if i < len(batches):
            accumulate(policy, batches[i], recipe, entropy_weight, sums)
        else:
            _idle(policy, recipe, entropy_weight != 0)


def _idle(policy: Policy, recipe: TrainRecipe, entropy_grad: bool) -> None:
    """A pass that adds nothing to any gradient, beside a micro-batch of another rank."""
    logp_T, entropy_T = policy.logprobs([sharding.IDLE], recipe.rollout.temperature, entropy_grad)
    policy.strategy.backward(0.0 * (logp_T + entropy_T).sum())


def accumulate(
    policy: Policy,
    batch: Sequence[Row],
    recipe: TrainRecipe,
    entropy_weight: float,
    sums: Sums,
) -> None:
    """Backward through one micro-batch; adds its sums to `sums`, on the device: nothing waits."""
    rows = [row.tokens for row in batch]
    tokens, kept_T = _token_batch(batch, policy.device, entropy_weight)
    logp_T, entropy_T = policy.logprobs(rows, recipe.rollout.temperature, entropy_weight != 0)
    if kept_T is not None:
        logp_T, entropy_T = logp_T[kept_T], entropy_T[kept_T]
    loss, parts = policy_loss(logp_T, entropy_T, tokens, recipe.algorithm)
    policy.strategy.backward(loss)
    ratio_max = parts.pop("ratio_max").double()
    sums["ratio_max"] = torch.maximum(ratio_max, torch.zeros_like(ratio_max) + sums["ratio_max"])
    for name, value in {"loss": loss, "entropy": entropy_T.sum(), **parts}.items():
        sums[name] = sums.get(name, 0.0) + value.detach().double()
    sums["tokens"] += len(logp_T)
    sums["real"] += sum(len(row) for row in rows)
    sums["attended"] += sum(len(row) - 1 for row in rows)
    sums["positions"] += policy.num_positions(rows)


def _token_batch(
    batch: Sequence[Row], device: torch.device, entropy_weight: float
) -> tuple[TokenBatch, Tensor | None]:
    """What the loss needs besides log-probabilities, in one copy to the device; and which of the
    rows' tokens those are, as indices, where some are left out."""
    layout = Rows.of(torch.tensor([len(row.tokens.response_ids) for row in batch]))
    per_row = torch.tensor(
        [[r.advantage, r.weight, r.proximal_logprobs is None, r.stale] for r in batch]
    )
    columns = [
        torch.tensor([x for row in batch for x in row.engine_logprobs]),
        torch.tensor([x for row in batch for x in row.proximal_logprobs or row.engine_logprobs]),
    ]
    references = [row.reference_logprobs for row in batch if row.reference_logprobs is not None]
    if references:
        columns.append(torch.tensor([x for scores in references for x in scores]))
    table = torch.stack([*columns, *per_row[layout.row_T].unbind(dim=1)])
    has_T = has_logprob(columns[0])
    kept_T = None if has_T.all() else has_T.nonzero().squeeze(1)
    if kept_T is not None:
        table = table[:, kept_T]
        layout = Rows.of(torch.bincount(layout.row_T[kept_T], minlength=len(batch)))
    engine_T, proximal_T, *reference, advantage_T, weight_T, same_T, stale_T = to_device(
        table, device
    )
    tokens = TokenBatch(
        engine_T,
        reference[0] if references else None,
        advantage_T,
        weight_T,
        on_policy_T=same_T.bool(),
        rows=Rows(to_device(layout.row_T, device), to_device(layout.length_N, device)),
        entropy_weight=entropy_weight,
        proximal_T=proximal_T,
        stale_T=stale_T.bool(),
    )
    return tokens, kept_T if kept_T is None else to_device(kept_T, device)


def _read(sums: Sums) -> dict[str, float]:
    """The sums as numbers: the only wait of the step for the device besides the gradient norm's."""
    on_device = {k: v for k, v in sums.items() if isinstance(v, Tensor)}
    numbers = {k: float(v) for k, v in sums.items() if not isinstance(v, Tensor)}
    if on_device:
        values = torch.stack(list(on_device.values())).tolist()
        numbers |= dict(zip(on_device, values, strict=True))
    return numbers


def _merge(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    """The sums of all ranks; a rank without rows has not all of them."""
    names = dict.fromkeys(name for part in parts for name in part)
    merged = {name: sum(part.get(name, 0.0) for part in parts) for name in names}
    return merged | {"ratio_max": max(part["ratio_max"] for part in parts)}


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
        "train/padding_frac": 1 - sums["attended"] / sums["positions"],
        "train/tokens": sums["real"],
    }
    if "kl_ref" in sums:
        metrics["policy/kl_ref"] = sums["kl_ref"] / num_tokens
    return metrics
