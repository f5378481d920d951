"""Predictive and curriculum sampling inside the real sampler, engine and verifier."""

import json

import pytest

from rewards import Verifier
from rlvr.data.problems import encode_prompts, load_problems
from rlvr.engines.transformers import BATCH_ROWS, TransformersEngine
from rlvr.policy.policy import load_policy
from rlvr.training.build import make_sampler


@pytest.mark.parametrize("strategy", ["predictive", "curriculum"])
def test_a_restored_sampler_asks_for_the_same_problems(strategy, make_recipe):
    recipe = make_recipe(
        sampling={"strategy": strategy, "dynamic": False},
        data={"difficulty_field": "answer"},
        train={"steps": 4},
    )
    policy = load_policy(recipe.model, recipe.adapter, recipe.model.path, 0, keep_reference=False)
    data, prompts = encode_prompts(load_problems(recipe.data), policy.tokenizer, recipe.data, 100)

    def fresh_sampler():
        return make_sampler(recipe, data.problems, prompts, engine, verifier, policy.decode)

    def collect(sampler, step):
        got = sampler.collect(step)
        responses = [(g.problem_id, g.rewards, g.responses) for g in got.groups]
        return responses, got.metrics["sampler/problems_used_frac"]

    engine = TransformersEngine(policy)
    with Verifier(answer_mode="last_number", num_workers=1) as verifier:
        first = fresh_sampler()
        collect(first, 0)
        second = fresh_sampler()
        second.load_state(json.loads(json.dumps(first.state())))
        assert collect(second, 1) == collect(first, 1)
        assert second.state() == first.state()
    assert len(first.state()["selector"]["pass_rates"]) == 4
    assert sum(first.state()["used"].values()) == 4


@pytest.fixture
def sampler_of(make_recipe):
    """The sampler of a small recipe whose policy generates itself."""

    def make(verifier, **sections):
        recipe = make_recipe(**sections)
        path = recipe.model.path
        policy = load_policy(recipe.model, recipe.adapter, path, 0, keep_reference=False)
        problems = load_problems(recipe.data)
        data, prompts = encode_prompts(problems, policy.tokenizer, recipe.data, 100)
        engine = TransformersEngine(policy)
        return make_sampler(recipe, data.problems, prompts, engine, verifier, policy.decode)

    return make


def test_a_step_that_the_bound_on_refills_leaves_short_goes_on_and_says_why(sampler_of, capsys):
    sections = {"rollout": {"prompts_per_step": 8}, "sampling": {"max_refills": 0}}
    with Verifier(answer_mode="last_number", num_workers=1) as verifier:
        got = sampler_of(verifier, **sections).collect(0)
    assert 0 < len(got.groups) < 8
    assert got.metrics["sampler/refills"] == 0
    said = capsys.readouterr().err
    assert f"step 1 has {len(got.groups)} of 8 groups" in said
    assert "carried a signal in 1 round (22 prompts" in said


def test_left_over_groups_age_and_are_dropped_at_the_limit(sampler_of):
    for limit, dropped, ages in ((4, 0, 1.0), (0, 32, 0.0)):
        rollout = {"max_staleness": limit, "prompts_per_step": 1, "group_size": 32}
        with Verifier(answer_mode="last_number", num_workers=1) as verifier:
            sampler, step = sampler_of(verifier, rollout=rollout), 0
            while not sampler.state()["surplus"]:
                sampler.collect(step)
                step += 1
            left = len(sampler.state()["surplus"])
            metrics = sampler.collect(step).metrics
        assert metrics["rollout/stale_dropped"] == dropped * left
        assert metrics["rollout/staleness_mean"] == ages


def test_aborted_groups_are_counted_and_their_problems_not_observed(sampler_of):
    with Verifier(answer_mode="last_number", num_workers=1) as verifier:
        sampler = sampler_of(
            verifier,
            rollout={"abort_stragglers": True, "prompts_per_step": 2, "group_size": BATCH_ROWS},
            sampling={"strategy": "predictive"},
        )
        metrics = sampler.collect(0).metrics
    selector = sampler.state()["selector"]
    asked = selector["num_drawn"]
    assert metrics["rollout/responses"] == BATCH_ROWS * asked
    aborted = round(metrics["rollout/aborted_frac"] * asked)
    assert aborted > 0, "the case has stragglers"
    right, wrong = (sum(row[k] for row in selector["pass_rates"]) for k in (1, 2))
    assert right + wrong == BATCH_ROWS * (asked - aborted)
