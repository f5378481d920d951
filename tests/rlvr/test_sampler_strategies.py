"""Predictive and curriculum sampling inside the real sampler, engine and verifier."""

import json

import pytest

from rewards import Verifier
from rlvr.data import encode_prompts, load_problems
from rlvr.policy import load_policy
from rlvr.rollout.transformers import TransformersEngine
from rlvr.sampler import Sampler


@pytest.mark.parametrize("strategy", ["predictive", "curriculum"])
def test_a_restored_sampler_asks_for_the_same_problems(strategy, make_recipe):
    recipe = make_recipe(
        sampling={"strategy": strategy, "dynamic": False},
        data={"difficulty_field": "answer"},
        train={"steps": 4},
    )
    policy = load_policy(recipe.model, recipe.adapter, recipe.model.path, 0, keep_reference=False)
    data, prompts = encode_prompts(load_problems(recipe.data), policy.tokenizer, recipe.data, 100)

    def make_sampler():
        return Sampler(recipe, data.problems, prompts, policy.tokenizer.decode)

    def collect(sampler, step):
        got = sampler.collect(step, engine, verifier, lambda: None)
        responses = [(g.problem_id, g.rewards, g.responses) for g in got.groups]
        return responses, got.used_frac, got.used_max

    engine = TransformersEngine(policy)
    with Verifier(answer_mode="last_number", num_workers=1) as verifier:
        first = make_sampler()
        collect(first, 0)
        second = make_sampler()
        second.load_state(json.loads(json.dumps(first.state())))
        assert collect(second, 1) == collect(first, 1)
        assert second.state() == first.state()
    assert len(first.state()["selector"]["pass_rates"]) == 4
    assert sum(first.state()["used"].values()) == 4
