"""Tokens chosen by entropy and by covariance, against a slow choice, trl's and verl's formulas."""

import numpy as np
import pytest
import torch

from rlvr.algorithm.loss import TokenBatch, policy_loss
from rlvr.algorithm.surrogate import RowLayout
from rlvr.algorithm.token_selection import clip_cov, covariances, kl_cov, select, top_entropy
from rlvr.config.algorithm import AlgorithmConfig
from rlvr.policy.policy import load_policy
from rlvr.training.batch import UpdateConfig, make_batch
from rlvr.training.rows import make_rows, micro_batches
from rlvr.training.update import accumulate
from rlvr.training.update_stats import SUMS
from tests.rlvr.cases import make_groups, make_recipe

DRAW = np.random.default_rng(0)
LOGP, ADVANTAGE = DRAW.normal(-1, 1, 40), DRAW.normal(0, 1, 40)
ENTROPY = DRAW.exponential(1, 40)


@pytest.mark.parametrize("quantile", [0.2, 0.33, 0.5, 1.0])
def test_the_threshold_of_entropy_is_torchs_quantile_as_trl_takes_it(quantile):
    threshold = torch.quantile(torch.tensor(ENTROPY), 1 - quantile)
    assert top_entropy(ENTROPY, quantile).tolist() == [x >= threshold for x in ENTROPY]
    assert top_entropy(ENTROPY, quantile).sum() == pytest.approx(40 * quantile, abs=1)


def test_covariances_add_up_to_the_covariance():
    assert covariances(LOGP, ADVANTAGE).mean() == pytest.approx(
        np.cov(LOGP, ADVANTAGE, ddof=0)[0, 1]
    )


def test_kl_cov_holds_the_tokens_of_highest_covariance():
    cov_K = covariances(LOGP, ADVANTAGE)
    held = kl_cov(cov_K, 0.1)
    assert held.sum() == 4
    assert cov_K[held].min() > cov_K[~held].max()
    assert kl_cov(cov_K, 1e-9).sum() == 1


def test_clip_cov_draws_from_the_range_the_same_tokens_for_a_seed():
    cov_K = covariances(LOGP, ADVANTAGE)
    inside = (cov_K > 0.1) & (cov_K < 2)
    drawn = [clip_cov(cov_K, 0.1, (0.1, 2), seed) for seed in (1, 1, 2)]
    assert all(one.sum() == 4 and not (one & ~inside).any() for one in drawn)
    assert (drawn[0] == drawn[1]).all()
    assert (drawn[0] != drawn[2]).any()
    assert (clip_cov(cov_K, 1.0, (0.1, 2), 0) == inside).all(), "all there are"
    assert not clip_cov(cov_K, 0.5, (100, 200), 0).any(), "none there is"


def test_what_is_chosen_adds_up():
    config = AlgorithmConfig(top_entropy_quantile=0.5, cov="clip", cov_frac=0.2, cov_range=(0, 9))
    found = select(config, LOGP, ADVANTAGE, ENTROPY, seed=3)
    clipped = clip_cov(covariances(LOGP, ADVANTAGE), 0.2, (0, 9), 3)
    assert (found.kept == top_entropy(ENTROPY, 0.5) & ~clipped).all()
    assert not found.held.any()


def test_a_token_left_out_gives_no_gradient_and_one_held_is_pulled_back():
    """KL-Cov with verl's formula: -A r + coef |log pi - log pi_old| for the tokens chosen."""
    logp_T = torch.tensor([-0.5, -1.0, -2.0, -0.1], dtype=torch.float64, requires_grad=True)
    old_T = torch.tensor([-0.7, -0.9, -2.0, -0.3], dtype=torch.float64)
    a_T = torch.tensor([1.0, 1.0, -2.0, -2.0], dtype=torch.float64)
    kept, held = torch.tensor([True, True, True, False]), torch.tensor([True, True, False, False])
    config = AlgorithmConfig(clip="none", cov="kl", cov_kl_coef=0.5, mismatch="none")
    batch = TokenBatch(
        old_T,
        None,
        a_T,
        torch.full((4,), 0.25, dtype=torch.float64),
        torch.zeros(4, dtype=torch.bool),
        RowLayout.of(torch.tensor([2, 2])),
        proximal_T=old_T,
        selected=(kept, held),
    )
    loss, sums = policy_loss(logp_T, torch.zeros(4), batch, config)
    loss.backward()
    ratio_T = (logp_T - old_T).detach().exp()
    slope_T = -a_T * ratio_T * kept + 0.5 * held * (logp_T - old_T).detach().sign()
    torch.testing.assert_close(logp_T.grad, slope_T / 4)
    assert float(sums["masked"]) == 1


def gradient(policy, algorithm, tokens_per_microbatch):
    """([all parameters] the gradient of one update, its rows)."""
    recipe = make_recipe(
        algorithm=algorithm, train={"tokens_per_microbatch": tokens_per_microbatch, "steps": 1}
    )
    config = UpdateConfig.of(recipe)
    rows = make_rows(make_batch(make_groups(), policy, config), config, step=0)
    policy.model.zero_grad()
    for batch in micro_batches(policy, rows, config.tokens_per_microbatch):
        accumulate(policy, batch, config, 0.0, dict.fromkeys(SUMS, 0.0))
    return torch.cat([p.grad.flatten().clone() for p in policy.trainable]), rows


CHOICES = [
    {"top_entropy_quantile": 0.3},
    {"cov": "clip", "cov_frac": 0.3, "cov_range": (-5.0, 5.0)},
]


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_the_split_into_micro_batches_does_not_change_the_choice(choice):
    recipe = make_recipe()
    path = str(recipe.model.path)
    policy = load_policy(recipe.model, recipe.adapter, path, 0, keep_reference=False)
    whole, rows = gradient(policy, choice, 4096)
    split, _ = gradient(policy, choice, 16)
    torch.testing.assert_close(split, whole, rtol=1e-4, atol=1e-7)
    plain, _ = gradient(policy, {}, 4096)
    assert not torch.allclose(plain, whole, rtol=0.05)
    kept = [row.selected.kept for row in rows if row.selected]
    assert 0 < sum(map(sum, kept)) < sum(map(len, kept))
