"""A response that nobody judged teaches nothing: no statistic, no loss, no pass rate knows it."""

from dataclasses import replace
from statistics import fmean, stdev

import pytest
import torch
from transformers import AutoModelForCausalLM

from rewards import Reason, Verdict, Verifier
from rewards.counters import UNJUDGED
from rlvr.adapters.optimizers import build_optimizer
from rlvr.algorithm.advantage import ESTIMATORS, advantages
from rlvr.algorithm.entropy_control import EntropyControl
from rlvr.data.problems import encode_prompts, load_problems
from rlvr.engines.engine import Response
from rlvr.engines.transformers import TransformersEngine
from rlvr.policy.policy import load_policy
from rlvr.sampling.reward import shaped_rewards
from rlvr.sampling.rollouts import EngineCost, RolloutStats
from rlvr.training.batch import UpdateConfig, make_batch
from rlvr.training.build import make_sampler
from rlvr.training.update import update
from tests.rlvr.cases import make_groups, make_recipe, model_folder

EPS = 1e-4
FIRST = stdev([1, 1, 0]) + EPS
"""Of group one without its third response. The step's five judged rewards: 1, 1, 0, 1, 0."""
STEP = stdev([1, 1, 0, 1, 0]) + EPS
THIRD = stdev([1, 0]) + EPS
BY_HAND = {
    "group_std": [
        1 / 3 / FIRST,
        1 / 3 / FIRST,
        0,
        -2 / 3 / FIRST,
        0,
        0,
        0,
        0.5 / THIRD,
        -0.5 / THIRD,
        0,
    ],
    "group_mean": [1 / 3, 1 / 3, 0, -2 / 3, 0, 0, 0, 0.5, -0.5, 0],
    "leave_one_out": [0.5, 0.5, 0, -1, 0, 0, 0, 1, -1, 0],
    "length_weighted": [3 / 6, 3 / 6, 0, -3 / 6, 0, 0, 0, 0.75, -0.25, 0],
    "batch_std": [
        1 / 3 / STEP,
        1 / 3 / STEP,
        0,
        -2 / 3 / STEP,
        0,
        0,
        0,
        0.5 / STEP,
        -0.5 / STEP,
        0,
    ],
    "batch": [0.4 / STEP, 0.4 / STEP, 0, -0.6 / STEP, 0, 0, 0, 0.4 / STEP, -0.6 / STEP, 0],
    "informative_scaled": [1 / 3, 1 / 3, 0, -2 / 3, 0, 0, 0, 0.5, -0.5, 0],
    "over_mean": [0.5, 0.5, 0, -1, 0, 0, 0, 1, -1, 0],
    # sets of one response; the std is that with G
    "pass_at_k": [0.5**0.5, 0.5**0.5, 0, -(2**0.5), 0, 0, 0, 1, -1, 0],
    "none": [0] * 10,
}
"""Group two has one judged response, which is one too few."""


@pytest.mark.parametrize("name", ESTIMATORS)
def test_advantages_are_those_of_the_judged_responses_by_hand(name):
    rewards = [[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    lengths = [[1, 2, 9, 3], [4, 4, 4], [1, 3, 50]]
    judged = [[True, True, False, True], [True, False, False], [True, True, False]]
    got = advantages(rewards, lengths, name, judged)
    assert [len(group) for group in got] == [4, 3, 3]
    assert [value for group in got for value in group] == pytest.approx(BY_HAND[name], abs=1e-12)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_step_that_nobody_judged_has_no_advantages(name):
    assert advantages([[0.0, 0.0]], [[1, 1]], name, [[False, True]]) == [[0.0, 0.0]]


def test_every_reason_that_is_no_judgement_leaves_the_group_undecided():
    group = make_groups()[0]
    for reason in Reason:
        reasons = ["correct", str(reason), str(reason), str(reason)]
        given = replace(group, rewards=[1.0, 0.0, 0.0, 0.0], reasons=reasons)
        assert given.informative == (reason not in UNJUDGED), reason


def test_shaping_within_a_group_does_not_see_an_unjudged_response():
    lengths = [4, 6, 9]
    responses = [Response([1] * n, [0.0] * n, False) for n in [*lengths, 12]]
    reasons = [Reason.CORRECT, Reason.WRONG, Reason.CORRECT, Reason.TIMEOUT]
    verdicts = [Verdict(r == Reason.CORRECT, r, "1", "fast", 0.1) for r in reasons]
    config = make_recipe(reward={"length_weight": 1.0, "normalise": True}).reward
    got = shaped_rewards(config, responses, verdicts, [""] * 4, 12)
    answer, length = [1.0, 0.0, 1.0], [0.5, 0.0, -0.5]  # the wrong one gets at most 0: 0.5 - 2 / 5
    length[1] = min(0.0, 0.5 - (6 - 4) / (9 - 4))
    expected = [
        sum((part[i] - fmean(part)) / (stdev(part) + EPS) for part in (answer, length))
        for i in range(3)
    ]
    assert got == pytest.approx([*expected, 0.0])


def test_the_gradient_is_that_of_the_step_without_the_unjudged_responses():
    """Against plain transformers: - sum A log pi / tokens, on-policy, one row at a time."""
    groups = make_groups()
    for i, reasons in enumerate((["timeout", "wrong", "wrong", "correct"], ["worker_died"] * 4)):
        groups[i] = replace(groups[i], reasons=reasons)
    expected_A = {(0, 1): -1 / 3, (0, 2): -1 / 3, (0, 3): 2 / 3}
    expected_A |= {(2, k): reward - 0.25 for k, reward in enumerate(groups[2].rewards)}
    model = AutoModelForCausalLM.from_pretrained(model_folder(), dtype=torch.float32)
    num_tokens = sum(len(groups[p].responses[k].token_ids) for p, k in expected_A)
    for (p, k), advantage in expected_A.items():
        prompt, answer = groups[p].prompt_ids, groups[p].responses[k].token_ids
        logits = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
        logp_T = logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None])
        (-advantage * logp_T.sum() / num_tokens).backward()

    algorithm = {"preset": "dapo", "advantage": "group_mean", "mismatch": "none"}
    recipe = make_recipe(algorithm=algorithm, optim={"max_grad_norm": 1e9})
    assert recipe.model.path is not None
    policy = load_policy(recipe.model, recipe.adapter, recipe.model.path, 0, False)
    kept = {}
    for name, p in policy.model.named_parameters():
        p.register_post_accumulate_grad_hook(lambda q, name=name: kept.update({name: q.grad}))
    optimizer = build_optimizer(policy.trainable, recipe.optim)
    batch = make_batch(groups, policy, UpdateConfig.of(recipe))
    update(policy, optimizer, batch, UpdateConfig.of(recipe), 0, EntropyControl(recipe.algorithm))
    for name, p in model.named_parameters():
        torch.testing.assert_close(kept[name], p.grad, atol=1e-6, rtol=1e-4, msg=name)


def test_the_step_counts_what_nobody_judged_and_leaves_it_out_of_the_mean():
    groups = make_groups()
    groups[0] = replace(groups[0], reasons=["correct", "timeout", "wrong", "correct"])
    groups[1] = replace(groups[1], reasons=["worker_died", "gold_invalid", "timeout", "wrong"])
    tally = RolloutStats(num_asked=12, fresh=groups, costs=[EngineCost(generate_s=1.0)])
    metrics = tally.metrics(groups, 0)
    judged = [1.0, 0.0, 1.0, 0.25, *groups[2].rewards]
    assert metrics["reward/mean"] == pytest.approx(fmean(judged))
    assert metrics["reward/timeout_frac"] == pytest.approx(2 / 12)
    assert metrics["sampler/unjudged_frac"] == pytest.approx(4 / 12)
    assert metrics["sampler/unjudged_groups"] == 1
    assert metrics["sampler/informative_frac"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("dynamic", [True, False])
def test_a_problem_that_cannot_be_judged_is_asked_for_nothing(make_recipe, dynamic):
    """Every second gold is one that the verifier cannot read; its groups are replaced."""
    recipe = make_recipe(
        sampling={"strategy": "predictive", "dynamic": dynamic},
        rollout={"prompts_per_step": 6, "group_size": 8},
    )
    policy = load_policy(recipe.model, recipe.adapter, recipe.model.path, 0, keep_reference=False)
    problems = load_problems(recipe.data)
    data, prompts = encode_prompts(problems, policy.tokenizer, recipe.data, 100)
    asked = [replace(p, gold=p.gold if i % 2 else "") for i, p in enumerate(data.problems)]
    engine = TransformersEngine(policy)
    with Verifier(answer_mode="last_number", num_workers=1) as verifier:
        sampler = make_sampler(recipe, asked, prompts, engine, verifier, policy.decode)
        got = sampler.collect(0)
    assert got.metrics["sampler/unjudged_groups"] > 0, "the case has unusable golds"
    assert got.metrics["reward/gold_invalid_frac"] == got.metrics["sampler/unjudged_frac"]
    assert len(got.groups) == 6
    assert all("gold_invalid" not in group.reasons for group in got.groups)
    met = {int(row[0]) for row in sampler.state()["selector"]["pass_rates"]}
    assert met
    assert all(index % 2 for index in met), "a pass rate was learned from what nobody judged"
