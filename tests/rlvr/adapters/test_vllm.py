"""After real updates the real vLLM gives the trainer's probabilities, by every way to get there."""

from __future__ import annotations

import pytest

from rlvr.adapters import METHODS
from rlvr.engines.vllm_local import VllmEngine
from rlvr.engines.weights.sync import Syncer

pytestmark = pytest.mark.engine
WAYS = [(m.name, mode) for m in METHODS.values() for mode in m.syncs]
PROMPTS = [[11 * i % 300 + 8 for i in range(n)] for n in (6, 10, 13, 21)]


@pytest.fixture(scope="module")
def engine(make_recipe):
    """One real engine for all methods: merged weights and adapters go to it in turn."""
    recipe = make_recipe()
    engine = VllmEngine(recipe.model, recipe.rollout, recipe.model.path, max_lora_rank=8)
    yield engine
    engine.close()


@pytest.fixture
def restored(engine, make_trained):
    """The engine; afterwards it serves the base again."""
    yield engine
    engine._adapter = None
    engine.load_weights(make_trained("full").policy.engine_weights())


@pytest.mark.parametrize(("method", "mode"), WAYS)
def test_vllm_serves_the_trained_policy_exactly(make_trained, restored, method, mode):
    trained = make_trained(method)
    trained.train(3)
    syncer = Syncer(trained.recipe.rollout, trained.policy, restored, mode, PROMPTS)
    before = syncer.check()
    stats = syncer.sync()
    assert before > 1e-3, "the engine has to hold something else before the sync"
    assert stats.num_bytes > 0
    assert stats.logprob_error < 1e-4


@pytest.mark.parametrize("modules", [("q_proj", "v_proj"), ("up_proj",), ("k_proj", "down_proj")])
def test_parts_of_fused_weights_arrive_with_their_untouched_siblings(
    make_trained, restored, modules
):
    trained = make_trained("dora", target_modules=modules)
    trained.train(2)
    syncer = Syncer(trained.recipe.rollout, trained.policy, restored, "merged", PROMPTS)
    assert syncer.sync().logprob_error < 1e-4
