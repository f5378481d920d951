"""The real vLLM and the transformers engine: exact weights and probabilities, seeds that hold."""

import math

import pytest
import torch

from rlvr.adapters.merge import merged_weights
from rlvr.common.errors import ConfigError
from rlvr.common.seeds import sample_seed
from rlvr.config.train import AdapterConfig
from rlvr.engines.engine import Request, SamplingParams
from rlvr.engines.transformers import TransformersEngine, draw
from rlvr.engines.vllm_local import VllmEngine
from rlvr.engines.vllm_requests import vllm_params
from rlvr.engines.vllm_shared import SharedVllm, VllmShare
from rlvr.engines.vllm_start import known_args
from rlvr.engines.weights.sync import Syncer, SyncError
from rlvr.policy.policy import load_policy
from tests.rlvr.engines.engine_cases import (
    PROMPTS,
    SAMPLING,
    adapted_policy,
    assert_ends_at_a_stop_token,
    assert_pauses_and_goes_on,
    requests,
    sampled_error,
)


@pytest.fixture(scope="module")
def vllm_engine(make_recipe):
    """One real engine for the module, able to take merged weights and adapters."""
    recipe = make_recipe()
    rollout = make_recipe(
        rollout={"engine": "vllm", "engine_args": {"max_num_batched_tokens": 4096}}
    ).rollout
    engine = VllmEngine(recipe.model, rollout, recipe.model.path, max_lora_rank=8)
    yield engine
    engine.close()


@pytest.mark.engine
@pytest.mark.parametrize("mode", ["merged", "adapter"])
def test_after_real_updates_vllm_serves_exactly_the_policy(make_recipe, vllm_engine, mode):
    recipe = make_recipe()
    policy = adapted_policy(recipe)
    syncer = Syncer(recipe.rollout, policy, vllm_engine, mode, PROMPTS)
    vllm_engine.generate(requests(8), SAMPLING)  # its cache has prefixes of the old weights
    stats = syncer.sync()
    assert stats.num_bytes > 0
    assert stats.logprob_error < 1e-4
    for temperature in (1.0, 0.7):
        assert sampled_error(policy, vllm_engine, SamplingParams(24, temperature)) < 1e-4
    clear_adapter(vllm_engine, recipe)


@pytest.mark.engine
@pytest.mark.parametrize(
    "sampling",
    [SAMPLING, SamplingParams(24, 0.7, top_p=0.9), SamplingParams(24, 1.3, top_k=5)],
)
def test_both_engines_draw_the_same_tokens_from_the_same_seeds(make_recipe, vllm_engine, sampling):
    recipe = make_recipe()
    policy = load_policy(recipe.model, recipe.adapter, recipe.model.path, 0, keep_reference=False)
    ours = vllm_engine.generate(requests(12), sampling)
    theirs = TransformersEngine(policy).generate(requests(12), sampling)
    equal = [x.token_ids == y.token_ids for x, y in zip(ours, theirs, strict=True)]
    assert sum(equal) >= 11, "one may have met a number between two roundings"


def clear_adapter(engine, recipe) -> None:
    """Back to the base policy, so that tests do not depend on their order."""
    engine._adapter = None
    base = load_policy(recipe.model, recipe.adapter, recipe.model.path, 0, keep_reference=False)
    engine.load_weights(merged_weights(base.model))


@pytest.mark.engine
def test_a_run_that_shares_vllm_never_reads_prefixes_of_its_old_adapter(make_recipe, vllm_engine):
    """A shared engine cannot forget all prefixes at a sync, as others are decoding."""
    recipe = make_recipe()
    share = VllmShare(SharedVllm(vllm_engine, vllm_engine.step, {}), number=1, alone=False)
    for steps in (2, 4):
        policy = adapted_policy(recipe, steps)
        Syncer(recipe.rollout, policy, share, "adapter", PROMPTS).sync()
        assert sampled_error(policy, share) < 1e-4
    share.close()
    clear_adapter(vllm_engine, recipe)


@pytest.mark.engine
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mode", ["merged", "adapter"])
def test_a_vllm_that_slept_gives_its_memory_up_and_serves_the_policy_again(make_recipe, mode):
    recipe = make_recipe(rollout={"engine": "vllm", "sleep": True})
    engine = VllmEngine(
        recipe.model,
        recipe.rollout,
        recipe.model.path,
        max_lora_rank=8 if mode == "adapter" else None,
    )
    policy = adapted_policy(recipe)
    syncer = Syncer(recipe.rollout, policy, engine, mode, PROMPTS)
    for _ in range(2):
        assert syncer.sync().logprob_error < 1e-4
        before = torch.cuda.mem_get_info()[0]
        engine.sleep()
        assert torch.cuda.mem_get_info()[0] - before > 0.2 * torch.cuda.mem_get_info()[1]
    assert syncer.sync().logprob_error < 1e-4, "it woke"
    engine.close()


@pytest.mark.engine
def test_vllm_draws_nothing_from_torchs_own_generator(vllm_engine):
    """Else a resumed run, which hands its weights over once more, would not be the same."""
    before = torch.get_rng_state()
    vllm_engine.score(PROMPTS)
    vllm_engine.generate(requests(8), SAMPLING)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.engine
def test_full_fine_tuning_reaches_vllm_exactly(make_recipe, vllm_engine):
    recipe = make_recipe().model_copy(update={"adapter": AdapterConfig(method="full")})
    policy = adapted_policy(recipe)
    syncer = Syncer(recipe.rollout, policy, vllm_engine, "merged", PROMPTS)
    assert syncer.sync().logprob_error < 1e-4
    base = load_policy(recipe.model, recipe.adapter, recipe.model.path, 0, keep_reference=False)
    vllm_engine.load_weights(base.engine_weights())


@pytest.mark.engine
def test_a_module_that_does_not_arrive_is_named(make_recipe, vllm_engine, monkeypatch):
    recipe = make_recipe()
    policy = adapted_policy(recipe)
    lost = "model.layers.1.mlp.down_proj"
    kept = [(n, w) for n, w in merged_weights(policy.model) if not n.startswith(lost)]
    monkeypatch.setattr(type(policy), "engine_weights", lambda self: iter(kept))
    syncer = Syncer(recipe.rollout, policy, vllm_engine, "merged", PROMPTS)
    with pytest.raises(SyncError, match=rf"{lost} without its update"):
        syncer.sync()
    monkeypatch.setattr(type(policy), "engine_weights", lambda self: iter([]))
    clear_adapter(vllm_engine, recipe)
    with pytest.raises(SyncError, match="ignored the whole update"):
        syncer.sync()


@pytest.mark.engine
def test_vllm_rollouts_do_not_depend_on_their_batch(vllm_engine):
    together = vllm_engine.generate(requests(12), SAMPLING)
    alone = [vllm_engine.generate([request], SAMPLING)[0] for request in requests(12)]
    assert [r.token_ids for r in together] == [r.token_ids for r in alone]
    assert together[0].token_ids != together[4].token_ids, "one prompt, two seeds"


@pytest.mark.engine
def test_vllm_reads_a_prompt_once_for_all_its_responses(vllm_engine):
    vllm_engine.drop_adapter()  # forgets what other tests asked
    params = [vllm_params(SAMPLING, Request(PROMPTS[3], seed)) for seed in range(4)]
    names = [vllm_engine.ask(PROMPTS[3], each, None) for each in params]
    while not vllm_engine.is_idle:
        vllm_engine.step()
    cached = [vllm_engine.finished.pop(name).num_cached_tokens for name in names]
    assert cached == [0, 64, 64, 64], f"of {len(PROMPTS[3])} tokens"


@pytest.mark.engine
def test_our_loop_gives_what_vllms_own_gives(vllm_engine):
    from vllm import SamplingParams

    asked = requests(12)
    outputs = vllm_engine._llm.generate(
        [{"prompt_token_ids": r.prompt_ids} for r in asked],
        [SamplingParams(max_tokens=24, seed=r.seed, logprobs=0, detokenize=False) for r in asked],
        use_tqdm=False,
    )
    theirs = [(list(o.outputs[0].token_ids), o.outputs[0].finish_reason) for o in outputs]
    ours = vllm_engine.generate(asked, SAMPLING)
    assert [(r.token_ids, "length" if r.truncated else "stop") for r in ours] == theirs


@pytest.mark.engine
def test_vllm_ends_a_response_at_a_stop_token(vllm_engine):
    assert_ends_at_a_stop_token(vllm_engine)


@pytest.mark.engine
def test_vllm_pauses_and_goes_on(vllm_engine):
    assert_pauses_and_goes_on(vllm_engine, SAMPLING, num_steps=6)


def test_transformers_pauses_and_goes_on(make_recipe):
    recipe = make_recipe()
    policy = load_policy(recipe.model, recipe.adapter, recipe.model.path, 0, keep_reference=False)
    assert_pauses_and_goes_on(TransformersEngine(policy), SAMPLING, num_steps=6)


@pytest.mark.engine
def test_vllm_is_given_arguments_as_they_are_and_says_which_it_does_not_have(vllm_engine):
    config = vllm_engine._llm.llm_engine.vllm_config.scheduler_config
    assert config.max_num_batched_tokens == 4096
    with pytest.raises(ConfigError, match=r"blok_size: vLLM has no .* mean block_size\?"):
        known_args({"blok_size": 16})


@pytest.mark.engine
def test_closing_the_stream_aborts_what_is_left(make_recipe, vllm_engine):
    before = vllm_engine.generate(requests(12), SAMPLING)
    stream = vllm_engine.stream(requests(12), SAMPLING)
    for _ in range(3):
        next(stream)
    assert vllm_engine._llm.llm_engine.has_unfinished_requests()
    stream.close()
    assert not vllm_engine._llm.llm_engine.has_unfinished_requests()
    clear_adapter(vllm_engine, make_recipe())
    assert vllm_engine.generate(requests(12), SAMPLING) == before


def test_transformers_rollouts_do_not_depend_on_their_batch(make_recipe):
    policy = adapted_policy(make_recipe())
    engine = TransformersEngine(policy)
    together = engine.generate(requests(12), SAMPLING)
    alone = [engine.generate([request], SAMPLING)[0] for request in requests(12)]
    assert [r.token_ids for r in together] == [r.token_ids for r in alone]
    assert sampled_error(policy, engine) < 1e-4
    assert sampled_error(policy, engine, SamplingParams(24, 0.5)) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_base_is_bit_identical_after_50_syncs(make_recipe, dtype):
    recipe = make_recipe(model={"dtype": str(dtype).removeprefix("torch.")})
    policy = adapted_policy(recipe, steps=1)
    before = {n: p.clone() for n, p in policy.model.named_parameters() if not p.requires_grad}
    for _ in range(50):
        for _ in policy.engine_weights():
            pass
    after = dict(policy.model.named_parameters())
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_draws_follow_the_distribution_and_report_its_probabilities():
    logits = torch.tensor([[0.0, math.log(3.0), -math.inf, 1.0]]).repeat(4000, 1)
    generators = [torch.Generator().manual_seed(sample_seed(1, i)) for i in range(4000)]
    tokens, logp = draw(logits, SamplingParams(1, top_k=2), generators)
    assert set(tokens.tolist()) == {1, 3}
    expected = torch.tensor([3.0, math.e]) / (3 + math.e)
    share = float((tokens == 1).float().mean())
    assert abs(share - float(expected[0])) < 0.03
    assert logp[tokens == 1][0].exp() == pytest.approx(float(expected[0]), abs=1e-6)
    greedy, _ = draw(logits[:2], SamplingParams(1, temperature=0), generators[:2])
    assert greedy.tolist() == [1, 1]
