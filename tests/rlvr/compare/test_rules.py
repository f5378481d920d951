"""When a run ends, on hand-made series."""

import math

import pytest

from rlvr.compare.execution.end_rules import PolicySize, diverged, flops, sampled_tokens, used
from rlvr.config.compare import BudgetConfig, RulesConfig

RULES = RulesConfig()


def row(reward=0.5, norm=0.2, kl_ref=0.0, kl_step=0.0):
    return {
        "reward/mean": reward,
        "optim/grad_norm": norm,
        "policy/kl_ref": kl_ref,
        "policy/kl_engine": kl_step,
    }


HEALTHY = [row(reward=0.4 + 0.01 * i, norm=0.2 + 0.05 * (i % 3)) for i in range(10)]


def test_a_healthy_run_never_diverges():
    assert [diverged(HEALTHY[:n], RULES) for n in range(1, 11)] == [None] * 10


@pytest.mark.parametrize(
    ("rows", "rule"),
    [
        ([*HEALTHY, row(kl_ref=1.5)], "kl"),
        ([*HEALTHY, row(kl_step=0.5)], "kl"),
        ([*HEALTHY, row(kl_step=math.nan)], "kl"),
        ([*HEALTHY, {**row(norm=0.0), "optim/skipped": 1.0}], "grad_norm"),
        ([*HEALTHY, row(norm=30.0)], "grad_norm"),
        ([*HEALTHY, *[row(reward=0.1)] * 3], "reward"),
    ],
)
def test_each_rule_ends_what_it_names(rows, rule):
    assert diverged(rows, RULES) == rule


def test_one_bad_step_is_no_collapse():
    assert diverged([*HEALTHY, row(reward=0.05)], RULES) is None


def test_budgets_count_what_they_name():
    rows = [
        {
            "rollout/tokens_per_s": 1000.0,
            "time/rollout_s": 2.0,
            "train/tokens_per_s": 500.0,
            "time/train_s": 6.0,
            "time/step_s": 9.0,
        }
    ] * 2
    size = PolicySize(total=10, trained=4)
    assert sampled_tokens(rows) == 4000
    assert used(rows, BudgetConfig(steps=5), size) == 2
    assert used(rows, BudgetConfig(tokens=1e6), size) == 4000
    assert used(rows, BudgetConfig(seconds=60), size) == 18
    assert flops(rows, size) == 2 * 10 * 4000 + (4 * 10 + 2 * 4) * 6000


def test_full_training_costs_the_usual_6_n_per_trained_token():
    rows = [{"train/tokens_per_s": 1.0, "time/train_s": 1.0, "time/rollout_s": 0.0}]
    assert flops(rows, PolicySize(100, 100)) == 600
