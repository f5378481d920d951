"""vLLM in this process: logits in float32, few objects, a cache that tells, memory that comes back.

One engine in bfloat16 on logits as large as a pretrained model's; the last test closes it.
"""

import gc
import weakref

import pytest
import torch

from rlvr.engines.engine import CacheLoad, Request, SamplingParams
from rlvr.engines.vllm_local import VllmEngine
from rlvr.policy.policy import TokenRow, load_policy
from tests.rlvr import plain
from tests.rlvr.engines.engine_cases import PROMPTS, requests

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def recipe(make_recipe, real_logits_policy):
    return make_recipe(model={"path": str(real_logits_policy), "dtype": "bfloat16"})


@pytest.fixture(scope="module")
def engine(recipe):
    engine = VllmEngine(recipe.model, recipe.rollout, recipe.model.path, max_lora_rank=None)
    yield engine
    engine.close()


@torch.no_grad()
def test_logits_are_not_rounded_to_the_type_of_the_weights(recipe, engine):
    """Of two tokens that follow the same text, log-probabilities differ as logits do."""
    asked = [Request(PROMPTS[0], seed) for seed in range(120)]
    drawn = engine.generate(asked, SamplingParams(max_len=1, temperature=1.0))
    by_token = {r.token_ids[0]: r.logprobs[0] for r in drawn}
    first, *others = by_token.values()
    assert len(others) > 1
    # a multiple of the step of bfloat16 at the larger of two logits, 0.0625 from 8 on, 2^-9 below 1
    on_grid = [abs((p - first) / 2**-9 - round((p - first) / 2**-9)) < 1e-2 for p in others]
    assert not all(on_grid)


@torch.no_grad()
def test_engine_and_trainer_agree_better_than_16_bit_logits_can(recipe, engine):
    policy = load_policy(recipe.model, recipe.adapter, recipe.model.path, 0, keep_reference=False)
    drawn = engine.generate(requests(16), SamplingParams(max_len=64))
    rows = [TokenRow(q.prompt_ids, r.token_ids) for q, r in zip(requests(16), drawn, strict=True)]
    ours = policy.logprobs(rows, 1.0)[0]
    theirs = torch.tensor([p for r in drawn for p in r.logprobs])
    with policy.autocast():  # by the model's own head, which rounds
        rounded = plain.token_logprobs(policy.model, rows)

    def kl_engine(logp: torch.Tensor) -> float:
        drift = logp - theirs
        return float((drift.exp() - drift - 1).mean())

    print(f"kl_engine {kl_engine(ours):.3g}, with rounded logits {kl_engine(rounded):.3g}")
    assert 0 < kl_engine(ours) < 0.8 * kl_engine(rounded)


def tracked() -> int:
    """Objects that the garbage collector looks at."""
    gc.collect()
    return len(gc.get_objects())


def test_a_sampled_token_makes_no_object_for_the_garbage_collector(engine):
    stream = engine.stream(requests(8), SamplingParams(max_len=120))
    for _ in range(10):
        next(stream)
    before, num_tokens = tracked(), 0
    while num_tokens < 400 and next(stream) == []:
        num_tokens += 8
    grown = tracked() - before
    stream.close()
    assert num_tokens == 400, "a response ended: take more of them, or fewer steps"
    assert grown < 0.1 * num_tokens


def load_of_three(engine) -> CacheLoad:
    """How full the cache is while three long responses are sampled."""
    session = engine.open(SamplingParams(max_len=140))
    session.add(requests(3))
    while session.num_running:
        session.step()
    load = session.cache_load()
    session.close()
    return load


def test_the_cache_tells_how_full_it_was_and_what_had_to_wait(engine):
    roomy = load_of_three(engine)
    assert roomy.preemptions == 0
    assert 0 < roomy.peak_frac < 0.1
    scheduler = engine._llm.llm_engine.engine_core.engine_core.scheduler
    pool = scheduler.kv_cache_manager.block_pool
    room = 384 // scheduler.block_size  # in blocks: two of three would fill it
    taken = pool.get_new_blocks(pool.get_num_free_blocks() - room)
    crowded = load_of_three(engine)
    pool.free_blocks(taken)
    assert crowded.preemptions > 0
    assert crowded.peak_frac > 0.99
    assert load_of_three(engine) == roomy


def test_an_engine_that_is_closed_gives_its_memory_back(engine):
    core = engine._llm.llm_engine.engine_core.engine_core
    runner = core.model_executor.driver_worker.worker.model_runner
    held = [weakref.ref(runner.model), *(weakref.ref(cache) for cache in runner.kv_caches)]
    assert len(held) > 1
    del core, runner
    engine.close()
    assert [one() for one in held] == [None] * len(held)
