"""Models of many families: the trainer's log-probabilities are their own, or they are refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from rlvr.adapters import METHODS
from rlvr.common.errors import ConfigError
from rlvr.config.train import AdapterConfig, ModelConfig
from rlvr.engines.engine import Request, SamplingParams
from rlvr.engines.transformers import TransformersEngine, check_cache
from rlvr.engines.weights.arrival import sent_names
from rlvr.policy import logits
from rlvr.policy.language_model import LanguageModel, load_tokenizer
from rlvr.policy.loading import check_weights, context_len
from rlvr.policy.policy import TokenRow, load_policy
from rlvr.training.loop import resume, train
from tests.rlvr import small
from tests.rlvr.families import ALWAYS_TIED, FAMILIES, true_logprobs, write_family, write_model

PAIRS = [([7, 8, 9], [10, 11, 12, 13]), ([20] * 9, [21]), ([30, 31], [32, 33, 34, 35, 36])]
NO_STATE = {"recurrent_gemma", "mamba2"}
"""Families that the transformers engine cannot generate with."""


def load(folder, max_len=64, method="lora", dtype="float32", **adapter):
    if "rank" in METHODS[method].options:
        adapter = {"rank": 4} | adapter
    return load_policy(
        ModelConfig(path=str(folder), dtype=dtype, max_len=max_len),
        AdapterConfig(method=method, **adapter),
        str(folder),
        0,
        keep_reference=False,
        encode_rows=lambda _tokenizer: [[7 + i + j for i in range(9)] for j in range(8)],
    )


def shake(policy):
    """Moves what is trained away from its start."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in policy.trainable:
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probabilities_are_those_of_the_models_own_forward_pass(folder_of, family):
    policy = load(folder_of(family), target_modules=FAMILIES[family][2])
    shake(policy)
    with torch.no_grad():
        ours = policy.logprobs([TokenRow(*pair) for pair in PAIRS], 0.7)[0]
    policy.causal_lm.set_attn_implementation("eager")  # each operation as the model writes it
    theirs = true_logprobs(policy.causal_lm, PAIRS, 0.7)
    assert theirs.std() > 1, "logits of a size that shows a cap"
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    assert 0 <= policy.logits_check["max_difference"] < 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_handed_over_by_the_names_of_the_models_files(folder_of, family):
    """By these vLLM knows them: transformers calls GPT-NeoX's head otherwise when it is loaded."""
    folder = folder_of(family)
    model = AutoModelForCausalLM.from_pretrained(folder)
    policy = LanguageModel(model, None, torch.float32, torch.device("cpu"), str(folder))
    names = sent_names(policy, "merged", everything=True)
    handed = {name for own in names.values() for name in own}
    in_files = load_file(folder / "model.safetensors").keys() - dict(model.named_buffers()).keys()
    # vLLM takes no experts while it runs
    assert {n for n in handed if ".experts." not in n} == {
        n for n in in_files if ".experts." not in n
    }


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in NO_STATE])
def test_the_transformers_engine_draws_from_the_models_own_probabilities(folder_of, family):
    policy = load(folder_of(family), target_modules=FAMILIES[family][2])
    check_cache(policy)
    engine = TransformersEngine(policy)
    requests = [Request([8 + i for i in range(length)], length) for length in (3, 9)]
    responses = engine.generate(requests, SamplingParams(8))
    pairs = [
        (request.prompt_ids, response.token_ids)
        for request, response in zip(requests, responses, strict=True)
    ]
    drawn = torch.tensor([logp for response in responses for logp in response.logprobs])
    torch.testing.assert_close(drawn, true_logprobs(policy.causal_lm, pairs), atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", sorted(NO_STATE))
def test_a_model_with_a_cache_of_its_own_kind_generates_nothing(folder_of, family):
    policy = load(folder_of(family), target_modules=FAMILIES[family][2])
    with pytest.raises(ConfigError, match="cache of its own kind"):
        check_cache(policy)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["gemma2", "cohere", "granite", "minicpm3", "hyperclovax"])
def test_a_model_whose_transform_is_not_known_is_refused_by_name(
    folder_of, monkeypatch, family, dtype
):
    name = type(AutoModelForCausalLM.from_pretrained(folder_of(family))).__name__
    monkeypatch.setattr(logits, "CAPS", ())
    monkeypatch.setattr(logits, "FACTORS", ())
    monkeypatch.setattr(logits, "DIVISORS", ())
    with pytest.raises(ConfigError, match=rf"{name} does more to its logits than is known"):
        load(folder_of(family), target_modules=FAMILIES[family][2], dtype=dtype)


def test_a_cap_shows_in_a_model_whose_own_logits_are_next_to_zero(tmp_path, monkeypatch):
    write_family("gemma2", tmp_path, initializer_range=0.02)
    weights = load_file(tmp_path / "model.safetensors")
    small = {name: value * 1e-2 if value.ndim > 1 else value for name, value in weights.items()}
    save_file(small, tmp_path / "model.safetensors", metadata={"format": "pt"})
    monkeypatch.setattr(logits, "CAPS", ())
    with pytest.raises(ConfigError, match="Gemma2ForCausalLM does more to its logits"):
        load(tmp_path)


@pytest.mark.parametrize(
    "adapter",
    [
        {"method": "full"},
        {"method": "prefix_tuning"},
        {"method": "ln_tuning"},
        {"method": "lora", "target_modules": ["lm_head"]},
        {"method": "dora", "target_modules": ["q_proj", "lm_head"]},
    ],
    ids=str,
)
def test_the_check_is_made_with_the_adapter_in_place(folder_of, adapter):
    """Every method's own policy is made in tests/rlvr/adapters, and loading one includes it."""
    policy = load(folder_of("qwen3"), **adapter)
    assert policy.logits_check["max_difference"] < 1e-3
    shake(policy)
    policy.check_logits()
    assert policy.logits_check["max_difference"] < 1e-3


def test_a_multimodal_folder_trains_its_text(tmp_path):
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    from rlvr.data import word_problems
    from rlvr.warm_start import tiny_model as tiny

    texts = [row["problem"] for row in word_problems.generate("sft", 50, seed=0)]
    tokenizer = tiny.build_tokenizer(texts)
    text = FAMILIES["gemma3"][1] | {"vocab_size": len(tokenizer)}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    write_model(Gemma3ForConditionalGeneration(config), tokenizer, tmp_path)
    policy = load(tmp_path, target_modules=["q_proj"])
    assert not hasattr(policy.causal_lm.config, "vocab_size")
    with torch.no_grad():
        ours = policy.logprobs([TokenRow(*pair) for pair in PAIRS], 1.0)[0]
    torch.testing.assert_close(ours, true_logprobs(policy.causal_lm, PAIRS), atol=1e-4, rtol=0)


# weights that are not there


def copied(folder, path, change):
    """A copy of a model folder with other tensors."""
    shutil.copytree(folder, path)
    weights = load_file(folder / "model.safetensors")
    save_file(change(weights), path / "model.safetensors", metadata={"format": "pt"})
    return path


LOST = "model.layers.1.mlp.up_proj.weight"
CHANGES = {
    "one is missing": (lambda w: {k: v for k, v in w.items() if k != LOST}, f"has no {LOST}"),
    "all have a prefix": (
        lambda w: {f"base_model.model.{k}": v for k, v in w.items()},
        r"has no lm_head\.weight, .* and \d+ more, which would stay random and has base_model",
    ),
    "one is too many": (
        lambda w: w | {"v_head.weight": torch.zeros(1, 32)},
        r"has v_head\.weight, which the model has no place for",
    ),
    "one is too small": (
        lambda w: w | {LOST: w[LOST][:5].clone()},
        "have other sizes than its config.json says",
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_folder_whose_weights_are_not_the_models_is_refused(folder_of, tmp_path, case):
    change, message = CHANGES[case]
    folder = copied(folder_of("qwen3"), tmp_path / "model", change)
    for read in (load, lambda folder: check_weights(str(folder))):
        with pytest.raises(ConfigError, match=message):
            read(folder)


@pytest.mark.parametrize("family", ["qwen3_tied", "mixtral", "gpt2", "qwen3"])
def test_a_whole_folder_is_taken_whatever_its_files_call_the_weights(folder_of, tmp_path, family):
    tables = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    folder = copied(folder_of(family), tmp_path / "model", lambda weights: weights | tables)
    check_weights(str(folder))


@pytest.mark.parametrize("path", ["model-Q4_K_M.gguf", ""])
def test_a_gguf_file_is_refused_with_the_way_to_convert_it(tmp_path, path):
    (tmp_path / "model-Q4_K_M.gguf").write_bytes(b"GGUF")
    with pytest.raises(ConfigError, match=r"convert it once .*gguf_file='model-Q4_K_M\.gguf'"):
        load(tmp_path / path)
    with pytest.raises(ConfigError, match=r"dequantised, what quantisation rounded away"):
        load_tokenizer(ModelConfig(path="x.gguf"), str(tmp_path / path))


def test_a_folder_with_a_gguf_file_beside_its_weights_is_read(folder_of, tmp_path):
    folder = copied(folder_of("qwen3"), tmp_path / "model", lambda weights: weights)
    (folder / "model.gguf").write_bytes(b"GGUF")
    load(folder, target_modules=["q_proj"])


def test_an_adapter_folder_that_lacks_weights_is_refused(folder_of, tmp_path):
    from rlvr.adapters.load import load_adapted

    policy = load(folder_of("qwen3"), target_modules=["q_proj"])
    policy.save(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    weights = load_file(file)
    save_file(dict(list(weights.items())[1:]), file, metadata={"format": "pt"})
    base = AutoModelForCausalLM.from_pretrained(folder_of("qwen3"))
    with pytest.raises(ConfigError, match="would stay at its start"):
        load_adapted(base, tmp_path)


# positions that depend on the longest row

LONG = {
    "longrope": {"short_factor": [1.0] * 8, "long_factor": [4.0] * 8},
    "dynamic": {"factor": 4.0},
}


@pytest.mark.parametrize("kind", LONG)
def test_rows_beyond_the_original_context_are_refused_where_they_would_change_others(
    tmp_path, kind
):
    rope = {"rope_type": kind, "rope_theta": 10000.0, "original_max_position_embeddings": 32}
    write_family("qwen3", tmp_path, rope_parameters=rope | LONG[kind])
    with pytest.raises(ConfigError, match=r"model\.max_len = 33: beyond 32 tokens .* set it to 32"):
        load(tmp_path, max_len=33, target_modules=["q_proj"])
    policy = load(tmp_path, max_len=32, target_modules=["q_proj"])
    pairs = [([7, 8, 9], [10, 11]), ([12] * 16, [13] * 16)]
    with torch.no_grad():
        ours = policy.logprobs([TokenRow(*pair) for pair in pairs], 1.0)[0]
    torch.testing.assert_close(ours, true_logprobs(policy.causal_lm, pairs), atol=1e-4, rtol=0)


def test_the_context_of_other_positions_is_what_the_model_says():
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    for rope in ({"rope_type": "default"}, yarn):
        config = AutoConfig.for_model(
            "qwen3", max_position_embeddings=128, rope_parameters=rope | {"rope_theta": 1e4}
        )
        assert context_len(config) == 128
    assert context_len(PretrainedConfig()) is None


def test_the_manifest_has_the_check_and_finds_the_model_from_elsewhere(
    make_recipe, tiny_policy, tmp_path, monkeypatch
):
    monkeypatch.chdir(tiny_policy.parent)
    recipe = make_recipe(
        model={"path": tiny_policy.name},
        run={"dir": str(tmp_path), "name": "run"},
        sampling={"dynamic": False},
    )
    run = train(recipe, Path("tiny.toml"), Console(quiet=True), end=lambda *_: True)
    facts = json.loads((run / "manifest.json").read_text())
    assert facts["logits_check"]["max_difference"] < 1e-3
    assert (facts["logits_check"]["scale"], facts["logits_check"]["soft_cap"]) == (1.0, None)
    assert facts["model"] == str(tiny_policy)
    adapter = json.loads((run / "checkpoints/step_1/adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == str(tiny_policy)
    monkeypatch.chdir(tmp_path)
    resume(run, Console(quiet=True), end=lambda *_: True)


def one_step(make_recipe, folder, tmp_path, method, targets, **rollout):
    """The metrics of a run of one step, every group used."""
    recipe = make_recipe(
        model={"path": str(folder)},
        run={"dir": str(tmp_path), "name": "run"},
        sampling={"dynamic": False},
        algorithm={"kl_beta": 1e-3},  # so that groups without an advantage are looked at too
        rollout={"max_response_len": 12} | rollout,
        train={"steps": 1},
    )
    adapter = {"method": method}
    if method == "lora":
        adapter |= {"rank": 4, "target_modules": targets}
    recipe = recipe.model_copy(update={"adapter": AdapterConfig.model_validate(adapter)})
    run = train(recipe, Path("tiny.toml"), Console(quiet=True))
    (line,) = small.read_lines(run)
    return line


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in NO_STATE])
def test_a_step_of_every_family_starts_on_policy(folder_of, make_recipe, tmp_path, family, method):
    line = one_step(make_recipe, folder_of(family), tmp_path, method, FAMILIES[family][2])
    assert line["policy/ratio_max"] == pytest.approx(1, abs=1e-3)
    assert abs(line["policy/kl_engine"]) < 1e-6


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.parametrize("family", ["qwen3", "gemma2", "gemma3", "granite", "cohere"])
def test_vllm_has_the_probabilities_of_families_that_bend_their_logits(
    make_recipe, tmp_path, family
):
    sizes = {"hidden_size": 64, "head_dim": 32, "tie_word_embeddings": family in ALWAYS_TIED}
    folder = write_family(family, tmp_path / "model", **sizes)
    targets = FAMILIES[family][2]
    line = one_step(make_recipe, folder, tmp_path, "lora", targets, engine="vllm")
    assert line["sync/logprob_error"] < 1e-3
    assert line["policy/ratio_max"] == pytest.approx(1, abs=1e-2)
