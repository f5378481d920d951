"""Equal weights, an engine that rounds: what a preset cuts and charges has to be nothing."""

import functools
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from rlvr.algorithm.entropy_control import EntropyControl
from rlvr.config.presets import PRESETS
from rlvr.engines.engine import Response
from rlvr.policy.policy import load_policy
from rlvr.sampling.rollouts import Group
from rlvr.training.batch import UpdateConfig, make_batch
from rlvr.training.update import update
from tests.rlvr.cases import make_recipe

P, G, LEN, STEP = 3, 6, 32, 3
REWARDS = [[float((i + j) % 3 == 0) for j in range(G)] for i in range(P)]


@torch.no_grad()
def sample(model, prompt, num, length, draw):
    """[num, length] (tokens, their log-probabilities) by an engine whose logits are bfloat16."""
    ids = torch.tensor([prompt] * num)
    scores = []
    for _ in range(length):
        logits = model(ids).logits[:, -1].bfloat16().float()
        logp = logits.log_softmax(-1)
        token = torch.multinomial(logp.exp(), 1, generator=draw)
        scores.append(logp.gather(1, token))
        ids = torch.cat([ids, token], dim=1)
    return ids[:, len(prompt) :], torch.cat(scores, dim=1)


@pytest.fixture(scope="module")
def responses(real_logits_policy):
    """[P] prompts, and [P][G] responses of the noisy engine."""
    model = AutoModelForCausalLM.from_pretrained(real_logits_policy, dtype=torch.float32)
    draw = torch.Generator().manual_seed(0)
    prompts = [[5 + p, 9, 14, 20 + p] for p in range(P)]
    found = [sample(model, prompt, G, LEN, draw) for prompt in prompts]
    return prompts, [
        [Response(t.tolist(), x.tolist(), True) for t, x in zip(tokens, scores, strict=True)]
        for tokens, scores in found
    ]


@pytest.fixture(scope="module")
def steps(responses, real_logits_policy):
    """(batch, metrics) of a step at learning rate 0: the weights stay those that sampled."""

    @functools.cache
    def policy_of(method, dtype):
        recipe = recipe_of(method, dtype)
        path = recipe.model.path
        return load_policy(recipe.model, recipe.adapter, path, 0, keep_reference=True)

    def recipe_of(method, dtype, num_updates=1, rollout=None, **algorithm):
        return make_recipe(
            model={"path": str(real_logits_policy), "dtype": dtype},
            adapter={"method": method} | ({"rank": 4} if method == "lora" else {}),
            rollout={"max_response_len": LEN, "group_size": G, "prompts_per_step": P}
            | (rollout or {}),
            optim={"updates_per_step": num_updates},
            train={"tokens_per_microbatch": 90},
            algorithm=algorithm,
        )

    def step(age=0, method="full", dtype="float32", shift=0.0, rewards=REWARDS, **settings):
        policy, recipe = policy_of(method, dtype), recipe_of(method, dtype, **settings)
        groups = [
            Group(f"p{i}", prompt, shifted(rows, shift), given, ["wrong"] * G, STEP - age)
            for i, (prompt, rows, given) in enumerate(zip(*responses, rewards, strict=True))
        ]
        batch = make_batch(groups, policy, UpdateConfig.of(recipe))
        optimizer = torch.optim.SGD(policy.trainable, lr=0.0)
        entropy = EntropyControl(recipe.algorithm)
        return batch, update(
            policy, optimizer, batch, UpdateConfig.of(recipe), STEP, entropy
        ).metrics

    return step


def shifted(rows, shift):
    """The responses of an engine that renormalises over a part of the vocabulary."""
    return [replace(r, logprobs=[x + shift for x in r.logprobs]) for r in rows]


def test_the_engine_of_these_tests_rounds_as_real_ones_do(steps):
    """Measured between vLLM and a trainer in bfloat16: 2e-3 nats per token."""
    assert 1e-4 < steps(preset="dapo")[1]["policy/kl_engine"] < 3e-3


@pytest.mark.parametrize("age", [0, 1], ids=["fresh", "stale"])
@pytest.mark.parametrize("num_updates", [1, 2])
@pytest.mark.parametrize("preset", PRESETS)
def test_no_preset_cuts_or_charges_for_the_rounding_of_an_engine(preset, num_updates, age, steps):
    """beta times a penalty of 1e-3 nats moves no advantage by more than the tolerance."""
    batch, metrics = steps(age, num_updates=num_updates, preset=preset)
    assert metrics["policy/clip_frac"] <= 0.01
    assert metrics.get("policy/kl_ref", 0.0) <= 1e-3
    if PRESETS[preset].get("kl_in") == "reward":
        free, _ = steps(age, num_updates=num_updates, preset=preset, kl_beta=0.0)
        for charged, uncharged in zip(batch.advantages_PG, free.advantages_PG, strict=True):
            assert charged == pytest.approx(uncharged, abs=1e-4)


@pytest.mark.parametrize("preset", ["gspo", "rloo"])
def test_in_bfloat16_the_trainer_agrees_with_itself_bit_for_bit(preset, steps):
    batch, metrics = steps(1, "lora", "bfloat16", num_updates=3, preset=preset)
    free, _ = steps(1, "lora", "bfloat16", num_updates=3, preset=preset, kl_beta=0.0)
    assert metrics["policy/clip_frac"] == 0
    assert batch.advantages_PG == free.advantages_PG


@pytest.mark.parametrize("num_updates", [1, 2])
def test_truncated_sampling_charges_no_kl_in_the_reward(num_updates, steps):
    batch, metrics = steps(
        shift=0.1,  # what top_p = 0.9 renormalises by
        rewards=[[1.0] * G] * P,
        num_updates=num_updates,
        preset="rloo",
        mismatch="none",
        rollout={"top_p": 0.9, "max_staleness": 0},
    )
    assert batch.advantages_PG == [[0.0] * G] * P
    assert metrics["optim/grad_norm"] == 0
