"""A head that is the embedding: vLLM on CPU multiplies by a packed copy of it, which has to be
renewed with the embedding, and is what the arrival check reads."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from rlvr.config.toml import dump_toml
from rlvr.engines.server.engine import ServerEngine
from rlvr.engines.vllm_local import VllmEngine
from rlvr.engines.weights import vllm_reload
from rlvr.engines.weights.sync import Syncer, SyncError
from rlvr.policy.packing import TokenRow
from rlvr.policy.policy import load_policy
from tests.rlvr import plain
from tests.rlvr.engines.engine_cases import PROMPTS
from tests.rlvr.engines.serving import KEY, ServerProcess

EMBEDDING = "model.embed_tokens"


def write_tied(source, folder, *, with_head: bool):
    """The tiny policy with one matrix for both ends. with_head: its file has the matrix under the
    head's name too, as files of DeepSpeed do."""
    config = AutoConfig.from_pretrained(source, tie_word_embeddings=True)
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(25)  # logits with a standard deviation of about 4
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    file = folder / "model.safetensors"
    weights = load_file(file)
    assert "lm_head.weight" not in weights
    if with_head:
        weights["lm_head.weight"] = weights[f"{EMBEDDING}.weight"].clone()
        save_file(weights, file, metadata={"format": "pt"})
    return folder


CASES = [
    ("float32", False),
    pytest.param(("bfloat16", False), marks=pytest.mark.slow),
    pytest.param(("float32", True), marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=CASES, ids=str)
def started(request, make_recipe, tiny_policy, tmp_path_factory):
    dtype, with_head = request.param
    folder = write_tied(tiny_policy, tmp_path_factory.mktemp("tied"), with_head=with_head)
    recipe = make_recipe(
        model={"path": str(folder), "dtype": dtype}, adapter={"method": "full", "rank": None}
    )
    engine = VllmEngine(recipe.model, recipe.rollout, str(folder), max_lora_rank=None)
    yield recipe, engine
    engine.close()


def updated_policy(recipe):
    """The policy after a full update, its embedding moved far enough for nats, not digits."""
    policy = load_policy(recipe.model, recipe.adapter, recipe.model.path, 0, keep_reference=False)
    embedding = policy.causal_lm.get_input_embeddings().weight
    rest = [value for value in policy.trainable if value is not embedding]
    optimizer = torch.optim.AdamW([{"params": rest, "lr": 1e-4}, {"params": embedding, "lr": 0.03}])
    policy.logprobs([TokenRow(p, p[::-1]) for p in PROMPTS], 1.0)[0].mean().backward()
    optimizer.step()
    return policy


def differences(policy, engine):
    """[T] of the engine's log-probabilities and those that its weights have without rounding."""
    rounded = copy.deepcopy(policy.causal_lm).to(policy.dtype).float()
    expected = plain.token_logprobs(rounded, [TokenRow(ids[:1], ids[1:]) for ids in PROMPTS])
    found = torch.tensor([p for part in engine.score(PROMPTS) for p in part])
    return (found - expected).abs()


@pytest.mark.engine
def test_a_full_update_moves_both_ends_of_a_tied_model_in_vllm(started):
    recipe, engine = started
    policy = updated_policy(recipe)
    stale = differences(policy, engine)
    assert stale.mean() > 1, "the case shows a head that stayed behind"
    stats = Syncer(recipe.rollout, policy, engine, "merged", PROMPTS).sync()
    limit = 1e-3 if policy.dtype == torch.float32 else 0.1
    assert stats.logprob_error_mean < limit
    assert differences(policy, engine).mean() < limit


@pytest.mark.engine
def test_a_head_that_stayed_behind_its_embedding_is_named(started, monkeypatch):
    recipe, engine = started
    policy = updated_policy(recipe)
    syncer = Syncer(recipe.rollout, policy, engine, "merged", PROMPTS)
    syncer.sync()
    with torch.no_grad():
        policy.causal_lm.get_input_embeddings().weight[-1, -1] += 0.5
    with monkeypatch.context() as planting:
        planting.setattr(vllm_reload, "tied_heads", lambda _model: [])
        with pytest.raises(SyncError, match=f"serves {EMBEDDING} without its update"):
            syncer.sync()
    syncer.sync()


@pytest.mark.slow
@pytest.mark.engine
def test_a_server_renews_a_tied_head_too(make_recipe, tiny_policy, tmp_path, monkeypatch):
    monkeypatch.setenv("RLVR_API_KEY", KEY)
    folder = write_tied(tiny_policy, tmp_path / "model", with_head=False)
    sections = {"model": {"path": str(folder)}, "adapter": {"method": "full", "rank": None}}
    (tmp_path / "recipe.toml").write_text(dump_toml(make_recipe(**sections)))
    words = ["--rollout.sync", "merged", "--rollout.engine", "auto"]
    server = ServerProcess(tmp_path / "recipe.toml", tmp_path / "log", *words)
    server.start()
    try:
        server.wait()
        rollout = {"engine": "vllm_server", "servers": [server.url]}
        recipe = make_recipe(**sections, rollout=rollout)
        engine = ServerEngine(recipe.model, recipe.rollout, tmp_path, str(folder), "merged")
        policy = updated_policy(recipe)
        assert Syncer(recipe.rollout, policy, engine, "merged", PROMPTS).sync().logprob_error < 1e-3
        assert differences(policy, engine).max() < 1e-3
        engine.close()
    finally:
        server.kill()
