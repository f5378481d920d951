"""A step's batch and its update: reference scores, the KL in the reward, every preset trains."""

import math
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from rlvr.adapters.optimizers import build_optimizer
from rlvr.algorithm.entropy_control import EntropyControl
from rlvr.config.presets import PRESETS
from rlvr.policy.policy import TokenRow, load_policy
from rlvr.training.batch import UpdateConfig, make_batch
from rlvr.training.rows import make_rows
from rlvr.training.update import update
from tests.rlvr import plain
from tests.rlvr.cases import make_groups, make_recipe


def load(recipe):
    policy = load_policy(recipe.model, recipe.adapter, recipe.model.path, 0, keep_reference=True)
    return policy, build_optimizer(policy.trainable, recipe.optim)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_updates_the_policy_on_and_off_policy(preset):
    recipe = make_recipe(algorithm={"preset": preset}, optim={"updates_per_step": 2})
    policy, optimizer = load(recipe)
    before = [p.detach().clone() for p in policy.trainable]
    batch = make_batch(make_groups(), policy, UpdateConfig.of(recipe))
    entropy = EntropyControl(recipe.algorithm)
    stats = update(policy, optimizer, batch, UpdateConfig.of(recipe), 0, entropy).metrics
    assert all(math.isfinite(value) for value in stats.values())
    assert all(not torch.equal(p, old) for p, old in zip(policy.trainable, before, strict=True))


def test_reference_scores_are_those_of_the_plain_model_at_step_zero():
    recipe = make_recipe(algorithm={"preset": "grpo"}, train={"tokens_per_microbatch": 30})
    policy, _ = load(recipe)
    groups = make_groups()
    with torch.no_grad():  # the reference must not move with the policy
        for parameter in policy.trainable:
            parameter += 0.1
    batch = make_batch(groups, policy, UpdateConfig.of(recipe))
    model = AutoModelForCausalLM.from_pretrained(recipe.model.path, attn_implementation="eager")
    for group, scores in zip(groups, batch.references_PGT, strict=True):
        for response, row in zip(group.responses, scores, strict=True):
            alone = plain.token_logprobs(model, [TokenRow(group.prompt_ids, response.token_ids)])
            assert row == pytest.approx(alone.tolist(), abs=1e-5)


@torch.no_grad()
def plain_sums(model, group):
    """[G] log-probability of each response, one plain forward pass at a time."""
    found = []
    for response in group.responses:
        ids = torch.tensor([group.prompt_ids + response.token_ids])
        logp = model(ids[:, :-1]).logits[0].log_softmax(-1).gather(1, ids[0, 1:, None])
        found.append(float(logp[len(group.prompt_ids) - 1 :].sum()))
    return found


def test_the_kl_in_the_reward_takes_beta_times_its_sum_off():
    """Of the trainer's policy as it is now against the reference; the engine has no part in it."""
    section = {"preset": "dr_grpo", "kl_beta": 0.5, "kl_in": "reward", "kl_estimator": "k1"}
    recipe = make_recipe(algorithm=section)
    policy, _ = load(recipe)
    groups = make_groups()
    with torch.no_grad():
        for parameter in policy.trainable:
            parameter *= 1.2
    batch = make_batch(groups, policy, UpdateConfig.of(recipe))
    for group, got in zip(groups, batch.advantages_PG, strict=True):
        ours, theirs = plain_sums(policy.model, group), plain_sums(policy.reference, group)
        assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) > 0.5
        penalised = [
            reward - 0.5 * (a - b) for reward, a, b in zip(group.rewards, ours, theirs, strict=True)
        ]
        mean = sum(penalised) / len(penalised)
        assert got == pytest.approx([value - mean for value in penalised], abs=1e-4)


def test_rows_without_an_advantage_train_only_when_something_else_moves_them():
    groups = [replace(group, rewards=[1.0] * 4) for group in make_groups()]

    def num_rows(entropy_on=False, **section):
        recipe = make_recipe(algorithm=section)
        batch = make_batch(groups, load(recipe)[0], UpdateConfig.of(recipe))
        return len(make_rows(batch, UpdateConfig.of(recipe), 0, entropy_on))

    assert num_rows(preset="dapo") == 0
    assert num_rows(preset="grpo") == 12
    assert num_rows(entropy_on=True, preset="dapo") == 12


def test_the_entropy_bonus_raises_the_entropy():
    groups = [replace(group, rewards=[1.0] * 4) for group in make_groups()]
    recipe = make_recipe(algorithm={"preset": "dapo", "entropy_coef": 1.0}, optim={"lr": 1e-2})
    policy, optimizer = load(recipe)
    entropy = EntropyControl(recipe.algorithm)
    batch = make_batch(groups, policy, UpdateConfig.of(recipe))
    seen = [
        update(policy, optimizer, batch, UpdateConfig.of(recipe), step, entropy).metrics[
            "policy/entropy"
        ]
        for step in range(5)
    ]
    assert seen == sorted(seen)
    assert seen[-1] > seen[0] + 0.05
