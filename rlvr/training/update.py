"""One update: unpadded micro-batches, one denominator for the whole step, clipped steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlvr.algorithm.entropy_control import EntropyControl
from rlvr.algorithm.loss import policy_loss
from rlvr.common.signals import never_stop
from rlvr.policy.flops import Work, update_cost_of
from rlvr.policy.policy import Policy, TokenRow
from rlvr.policy.sharded import IDLE
from rlvr.training.batch import StepBatch, UpdateConfig, policy_logprobs, score_rows
from rlvr.training.rows import TrainingRow, make_rows, micro_batches, token_batch
from rlvr.training.update_stats import SUMS, Sums, UpdateStats, loss_metrics, read_sums

if TYPE_CHECKING:
    from torch.optim import Optimizer


def update(
    policy: Policy,
    optimizer: Optimizer,
    batch: StepBatch,
    config: UpdateConfig,
    step: int,
    entropy: EntropyControl,
    safe_point: Callable[[], None] = never_stop,
) -> UpdateStats:
    """Trains on the batch in `updates_per_step` optimizer steps.

    Every rank is given the whole batch, trains on its share of the rows, balanced by tokens, and
    ends with the same parameters: a row's weight is that in the whole step, and gradients add up.

    safe_point is called as long as no parameter has moved and may raise to stop the run. An update
    whose loss or gradient is not finite is skipped: parameters and optimizer stay as they are. In
    float16 the loss is scaled, and less after such a gradient.
    """
    updates = _rows_of_updates(policy, batch, config, step, entropy, safe_point)
    # with few groups a step has fewer updates; they count as the last of those it might have
    first_update = (step + 1) * config.optim.updates_per_step - len(updates)
    sums: Sums = dict.fromkeys(SUMS, 0.0)
    grad_norms, num_skipped = [], 0
    cost, flops = update_cost_of(policy), 0.0
    for number, (rows, mine) in enumerate(updates):
        if not rows:
            continue
        before = dict(sums)
        # a stop between two updates would leave a step that is neither done nor undone
        check = safe_point if number == 0 else never_stop
        optimizer.zero_grad(set_to_none=True)
        loss, mean_entropy = _gradients(policy, rows, mine, config, entropy.coef, sums, check)
        grad_norm = _step(policy, optimizer, config.optim.max_grad_norm, math.isfinite(loss))
        if grad_norm is None:
            # its sums may be nan, and no update came of them
            sums, num_skipped = before, num_skipped + 1
            continue
        if policy.method.schedule:
            policy.method.schedule.after_update(policy.model, first_update + number)
        grad_norms.append(grad_norm)
        flops += cost(Work.of(row.tokens for row in rows)) if cost else 0.0
        entropy.observe(mean_entropy)
    optimizer.zero_grad(set_to_none=True)
    numbers = read_sums(sums, policy.strategy.world)
    metrics = loss_metrics(numbers, grad_norms) | {
        "optim/skipped": float(num_skipped),
        "policy/dropped_tokens": float(batch.num_dropped),
    }
    if policy.loss_scale:
        metrics["optim/loss_scale"] = policy.strategy.scale
    if entropy.enabled:
        metrics["policy/entropy_coef"] = entropy.coef
    return UpdateStats(numbers["real"], num_skipped, metrics, flops)


def _rows_of_updates(
    policy: Policy,
    batch: StepBatch,
    config: UpdateConfig,
    step: int,
    entropy: EntropyControl,
    safe_point: Callable[[], None],
) -> list[tuple[list[TrainingRow], list[TrainingRow]]]:
    """(rows of all ranks, this rank's share of them) of every update; groups are dealt out in turn.

    The rows of the second update and later are scored by the trainer before the first.
    """
    world = policy.strategy.world
    num_updates = min(config.optim.updates_per_step, len(batch.groups))
    rows_of = [
        make_rows(batch.part(number, num_updates), config, step, entropy.enabled)
        for number in range(num_updates)
    ]
    shares = [[rows[i] for i in world.my_share([len(r.tokens) for r in rows])] for rows in rows_of]
    if any(rows_of[1:]):
        has_bonus = entropy.coef != 0
        world.on_all_ranks(partial(_score_proximal, policy, shares, config, has_bonus, safe_point))
    return list(zip(rows_of, shares, strict=True))


def _gradients(
    policy: Policy,
    rows: Sequence[TrainingRow],
    mine: Sequence[TrainingRow],
    config: UpdateConfig,
    entropy_coef: float,
    sums: Sums,
    safe_point: Callable[[], None],
) -> tuple[float, float]:
    """Gives every parameter the gradient of one update; (loss so far, mean token entropy).

    rows: of all ranks. mine: this rank's.
    """
    world, strategy = policy.strategy.world, policy.strategy
    num_tokens = sum(row.num_tokens for row in rows)
    entropy_before = sums["entropy"]
    if policy.loss_scale:
        lengths = [len(row.tokens.response_ids) for row in rows]
        strategy.scale = policy.loss_scale.factor([row.weight for row in rows], lengths)
    weight = entropy_coef / num_tokens
    world.on_all_ranks(partial(_backward, policy, mine, config, weight, sums, safe_point))
    if not strategy.is_sharded:  # else its backward pass has summed them
        world.sum_gradients(policy.trainable)
    if policy.method.schedule:
        strategy.backward(policy.method.schedule.penalty(policy.model))
    entropy_sum = float(sums["entropy"] - entropy_before)
    parts = world.gather((float(sums["loss"]), entropy_sum))
    return sum(loss for loss, _ in parts), sum(entropy for _, entropy in parts) / num_tokens


def _step(policy: Policy, optimizer: Optimizer, max_norm: float, valid: bool) -> float | None:
    """The gradient's norm; None where the optimizer's step was not made: see ShardingStrategy."""
    grad_norm = policy.strategy.step(policy.trainable, optimizer, max_norm, valid)
    # a loss that is not finite says nothing about the scale, which only gradients overflow
    if policy.loss_scale and valid:
        policy.loss_scale.observe(grad_norm is not None)
    return grad_norm


def _score_proximal(
    policy: Policy,
    shares: list[list[TrainingRow]],
    config: UpdateConfig,
    entropy_grad: bool,
    safe_point: Callable[[], None],
) -> None:
    """Gives this rank's rows of every update but the first their proximal log-probabilities.

    The first update's own forward passes are that of the proximal policy. The others are scored in
    the micro-batches that will train them: in 16 bits a token's probability depends on what stands
    beside it, and where no parameter has moved the ratio has to be exactly 1.
    """
    check = policy.strategy.synchronized_stop(safe_point)

    def forward(rows: Sequence[TokenRow]) -> Tensor:
        check()
        return policy_logprobs(policy, rows, config.temperature, entropy_grad)

    for part, rows in enumerate(shares[1:], 1):
        scores = score_rows([row.tokens for row in rows], policy, config, forward)
        shares[part] = [
            replace(row, proximal_logprobs=row.proximal_logprobs or own_T)
            for row, own_T in zip(rows, scores, strict=True)
        ]


def _backward(
    policy: Policy,
    rows: Sequence[TrainingRow],
    config: UpdateConfig,
    entropy_weight: float,
    sums: Sums,
    safe_point: Callable[[], None],
) -> None:
    """Backward through this rank's rows; sharded, as many times as on the rank with the most."""
    batches = micro_batches(policy, rows, config.tokens_per_microbatch)
    check = policy.strategy.synchronized_stop(safe_point)
    for i in range(policy.strategy.num_passes(len(batches))):
        check()
        if i < len(batches):
            accumulate(policy, batches[i], config, entropy_weight, sums)
        else:
            _idle(policy, config, entropy_weight != 0)


def _idle(policy: Policy, config: UpdateConfig, entropy_grad: bool) -> None:
    """A pass that adds nothing to any gradient, beside a micro-batch of another rank."""
    logp_T, entropy_T = policy.logprobs([IDLE], config.temperature, entropy_grad)
    policy.strategy.backward(0.0 * (logp_T + entropy_T).sum())


def accumulate(
    policy: Policy,
    batch: Sequence[TrainingRow],
    config: UpdateConfig,
    entropy_weight: float,
    sums: Sums,
) -> None:
    """Backward through one micro-batch; adds its sums to `sums`, on the device: nothing waits."""
    rows = [row.tokens for row in batch]
    tokens, kept_T = token_batch(batch, policy.device, entropy_weight, config.teacher_weight)
    logp_T, entropy_T = policy.logprobs(rows, config.temperature, entropy_weight != 0)
    if kept_T is not None:
        logp_T, entropy_T = logp_T[kept_T], entropy_T[kept_T]
    loss, parts = policy_loss(logp_T, entropy_T, tokens, config.algorithm)
    policy.strategy.backward(loss)
    for name, part in {"loss": loss, "entropy": entropy_T.sum(), **parts}.items():
        # float64: a step adds up millions of tokens
        value = part.detach().double()
        before = torch.zeros_like(value) + sums.get(name, 0.0)
        sums[name] = torch.maximum(value, before) if name == "ratio_max" else before + value
    sums["tokens"] += len(logp_T)
    sums["real"] += sum(len(row) for row in rows)
    sums["attended"] += sum(len(row) - 1 for row in rows)
    sums["positions"] += policy.num_positions(rows)
