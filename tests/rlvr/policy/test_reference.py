"""The reference policy under full fine-tuning: fixed, re-anchored, averaged, and saved."""

import pytest
import torch

from rlvr.common.errors import ConfigError
from rlvr.config.algorithm import AlgorithmConfig
from rlvr.policy.policy import load_policy
from rlvr.policy.reference import (
    load_reference,
    prepare_reference,
    save_reference,
    update_reference,
)
from tests.rlvr.cases import make_recipe

KL = {"preset": "grpo"}


def moved_policy(**settings):
    """A policy whose weights have all gone up by 1 since the reference was taken."""
    recipe = make_recipe(algorithm=KL | settings)
    policy = load_policy(recipe.model, recipe.adapter, recipe.model.path, 0, keep_reference=True)
    prepare_reference(policy, recipe.algorithm)
    with torch.no_grad():
        for value in policy.model.parameters():
            value += 1.0
    return policy, recipe.algorithm


def distance(policy):
    """How far the reference is behind the policy; equal for all weights."""
    reference = dict(policy.reference.named_parameters())
    gaps = torch.cat([(p - reference[n]).flatten() for n, p in policy.model.named_parameters()])
    assert float((gaps - gaps.mean()).abs().max()) < 1e-5
    return float(gaps.mean().detach())


def test_a_fixed_reference_stays():
    policy, config = moved_policy()
    update_reference(policy, config, 100)
    assert distance(policy) == pytest.approx(1.0)


def test_an_anchored_reference_becomes_the_policy_at_multiples_only():
    policy, config = moved_policy(reference="anchor", reference_every=3)
    update_reference(policy, config, 2)
    assert distance(policy) == pytest.approx(1.0)
    update_reference(policy, config, 3)
    assert distance(policy) == 0.0


def test_an_average_reference_closes_its_share_of_the_gap_every_step():
    policy, config = moved_policy(reference="ema", reference_decay=0.5)
    update_reference(policy, config, 1)
    update_reference(policy, config, 2)
    assert distance(policy) == pytest.approx(0.25, abs=1e-6)


def test_a_saved_reference_comes_back(tmp_path):
    policy, config = moved_policy(reference="ema", reference_decay=0.5)
    update_reference(policy, config, 1)
    save_reference(policy, config, tmp_path)
    again, _ = moved_policy(reference="ema", reference_decay=0.5)
    load_reference(again, config, tmp_path)
    assert distance(again) == pytest.approx(0.5, abs=1e-6)


def test_a_following_reference_with_an_adapter_is_refused():
    with pytest.raises(ConfigError, match=r'moves with adapter\.method = "full" alone'):
        make_recipe(algorithm=KL | {"reference": "ema"}, adapter={"method": "lora"})
    assert AlgorithmConfig(**KL).reference == "initial"
