"""When a run of a comparison ends: its budget is used, a rung is reached, or it has diverged."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlvr.config.compare import BudgetConfig, RulesConfig

Rows = Sequence[Mapping[str, float]]
"""Metrics of the finished steps, oldest first."""

WINDOW = 3
"""Steps that the rules average over."""


@dataclass(frozen=True, slots=True)
class PolicySize:
    """Parameters of the policy, for operations: all of them, and those that are trained."""

    total: int
    trained: int


def diverged(rows: Rows, rules: RulesConfig) -> str | None:
    """The rule by which the newest step shows divergence ("kl", "reward", "grad_norm"), or None."""
    now = rows[-1]
    kl, kl_step = now.get("policy/kl_ref", 0.0), now.get("policy/kl_engine", 0.0)
    if not (kl <= rules.max_kl and kl_step <= rules.max_kl_step):  # so written, nan has diverged
        return "kl"
    if now.get("optim/skipped", 0.0) > 0:  # an update whose loss or gradient was not finite
        return "grad_norm"
    norms = [row["optim/grad_norm"] for row in rows if "optim/grad_norm" in row]
    if len(norms) > WINDOW:  # the first steps are what the others are measured by
        usual = statistics.median(norms[:WINDOW])
        if usual > 0 and norms[-1] > rules.max_grad_norm_ratio * usual:
            return "grad_norm"
    rewards = [row["reward/mean"] for row in rows if "reward/mean" in row]
    # means over WINDOW steps: one bad step is no collapse
    if len(rewards) >= 2 * WINDOW:
        first, last = (statistics.fmean(part) for part in (rewards[:WINDOW], rewards[-WINDOW:]))
        # a fraction of a negative mean would be a higher bar, not a lower one
        if first > 0 and last < rules.min_reward_frac * first:
            return "reward"
    return None


def sampled_tokens(rows: Rows) -> float:
    """Tokens that the engine sampled for training."""
    return sum(row.get("rollout/tokens_per_s", 0.0) * row["time/rollout_s"] for row in rows)


def trained_tokens(rows: Rows) -> float:
    """Prompt and response tokens that went through the update."""
    return sum(row["train/tokens_per_s"] * row["time/train_s"] for row in rows)


def step_seconds(rows: Rows) -> float:
    """Seconds in steps."""
    return sum(row["time/step_s"] for row in rows)


def flops(rows: Rows, size: PolicySize) -> float:
    """Estimated operations: 2 N per sampled token, and per trained token 2 N forward, 2 N backward
    through activations and 2 per trained parameter. Attention over the context is left out.

    Source: the usual 6 N per token of full training, 2001.08361, split by what an adapter saves.
    """
    update = 4 * size.total + 2 * size.trained
    return 2 * size.total * sampled_tokens(rows) + update * trained_tokens(rows)


def used(rows: Rows, budget: BudgetConfig, size: PolicySize) -> float:
    """How much of the budget's unit the steps took."""
    match budget.unit:
        case "steps":
            return float(len(rows))
        case "tokens":
            return sampled_tokens(rows)
        case "seconds":
            return step_seconds(rows)
    return flops(rows, size)
