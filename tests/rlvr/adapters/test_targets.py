"""What an adapter may be put on: right on every kind of layer, or refused with the remedy."""

import copy

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from rlvr.adapters import METHODS, get_method
from rlvr.adapters.base import Setup
from rlvr.adapters.merge import merged_weights
from rlvr.common.errors import ConfigError
from rlvr.config.train import AdapterConfig, ModelConfig
from rlvr.policy.policy import TokenRow, load_policy
from tests.rlvr.families import FAMILIES, true_logprobs

PAIRS = [([7, 8, 9], [10, 11, 12]), ([30, 31], [32, 33, 34, 35])]
CALIBRATION = [[7 + i + j for i in range(9)] for j in range(8)]
NEEDS_LINEAR = {"miss", "loha", "lokr", "glora", "oft", "boft", "hra", "qlora", "loftq"}
"""Methods that GPT-2's transposed layers are refused for."""
NEEDS_NAMES = {"houlsby", "compacter"}
TARGETED = [
    name
    for name, method in METHODS.items()
    if "target_modules" in method.options and method.keeps_base
]


def settings(method, targets):
    options = METHODS[method].options
    given: dict = {"rank": 4} if "rank" in options else {}
    if "target_modules" in options:
        given["target_modules"] = targets
    return AdapterConfig(method=method, **given)


def load(folder, method, targets):
    return load_policy(
        ModelConfig(path=str(folder), dtype="float32", max_len=64),
        settings(method, targets),
        str(folder),
        0,
        keep_reference=False,
        num_updates=10,
        encode_rows=lambda _tokenizer: CALIBRATION,
    )


def untransposed(model):
    """The same function with torch's linear layers in place of GPT-2's transposed ones."""
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Conv1D):
                linear = nn.Linear(child.nx, child.nf)
                linear.weight.data, linear.bias.data = child.weight.data.T.clone(), child.bias.data
                setattr(module, name, linear)
    return model


def factors(model):
    """scaling B A of every LoRA layer's trained adapter by name, as [outputs, inputs]."""
    from peft.tuners.lora import LoraLayer

    return {
        name: layer.lora_B["default"].weight.detach()
        @ layer.lora_A["default"].weight.detach()
        * layer.scaling["default"]
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer) and isinstance(layer.lora_A, nn.ModuleDict)
    }


STARTS = ["pissa", "milora", "geora", "olora", "orthogonal", "init_ab", "corda", "lora_ga"]


@pytest.mark.parametrize("method", STARTS)
def test_starts_on_transposed_layers_are_those_on_the_same_layers_untransposed(folder_of, method):
    base = AutoModelForCausalLM.from_pretrained(folder_of("gpt2"))
    setup = Setup(settings(method, FAMILIES["gpt2"][2]), 0, rows=CALIBRATION)
    apply = get_method(setup.config).apply
    transposed = factors(apply(copy.deepcopy(base), setup))
    plain = factors(apply(untransposed(base), setup))
    assert transposed.keys() == plain.keys()
    for name, value in plain.items():
        torch.testing.assert_close(transposed[name], value, atol=1e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize("method", METHODS)
def test_on_transposed_layers_a_method_is_right_or_refused(folder_of, method):
    targets = FAMILIES["gpt2"][2]
    if method in NEEDS_LINEAR | NEEDS_NAMES:
        with pytest.raises(ConfigError, match=r"take|target_modules") as refused:
            load(folder_of("gpt2"), method, targets)
        assert "\n" not in str(refused.value)
        return
    policy = load(folder_of("gpt2"), method, targets)
    optimizer = torch.optim.AdamW(policy.trainable, lr=1e-2)
    base = AutoModelForCausalLM.from_pretrained(folder_of("gpt2"))
    rows = [TokenRow(*pair) for pair in PAIRS]
    before = policy.logprobs(rows, 1.0)[0].detach()
    if METHODS[method].merges:
        torch.testing.assert_close(before, true_logprobs(base, PAIRS), atol=1e-3, rtol=0)
    for _ in range(2):
        policy.logprobs(rows, 1.0)[0].sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        after = policy.logprobs(rows, 1.0)[0]
    assert (after - before).abs().max() > 1e-3
    if METHODS[method].merges:
        base.load_state_dict(dict(merged_weights(policy.model)), strict=False)
        torch.testing.assert_close(after, true_logprobs(base, PAIRS), atol=1e-3, rtol=0)


@pytest.mark.parametrize("end", ["lm_head", "embed_tokens"])
@pytest.mark.parametrize("method", TARGETED)
def test_an_adapter_on_a_tied_head_or_embedding_is_refused(folder_of, method, end):
    if method == "loftq" or method == "qlora":
        pytest.importorskip("bitsandbytes")
    with pytest.raises(ConfigError, match=r"tie_word_embeddings.*remove|target_modules") as refused:
        load(folder_of("qwen3_tied"), method, ["q_proj", end])
    assert "\n" not in str(refused.value)


def test_on_an_untied_head_and_embedding_what_is_merged_is_what_was_trained(folder_of):
    policy = load(folder_of("qwen3"), "lora", ["q_proj", "lm_head", "embed_tokens"])
    with torch.no_grad():
        for parameter in policy.trainable:
            parameter.add_(0.05)
        ours = policy.logprobs([TokenRow(*pair) for pair in PAIRS], 1.0)[0]
    base = AutoModelForCausalLM.from_pretrained(folder_of("qwen3"))
    base.load_state_dict(dict(merged_weights(policy.model)), strict=False)
    torch.testing.assert_close(ours, true_logprobs(base, PAIRS), atol=1e-4, rtol=0)


MLP = ["gate_proj", "up_proj", "down_proj"]


@pytest.mark.parametrize("method", ["lora", "dora", "pissa", "loftq", "eva"])
def test_expert_names_of_a_mixture_are_refused_where_peft_would_drop_the_dense_layers(
    folder_of, method
):
    with pytest.raises(ConfigError, match="leaves the dense layers of these names out; remove"):
        load(folder_of("deepseek_v3"), method, MLP)


def test_names_of_experts_that_are_no_modules_are_refused_with_what_trains_them(folder_of):
    with pytest.raises(ConfigError, match=r"no 'gate_proj'; .* experts are no modules: .*full"):
        load(folder_of("mixtral"), "lora", MLP)


def test_frozen_experts_are_said(folder_of, capsys):
    load(folder_of("mixtral"), "lora", ["q_proj"])
    line = capsys.readouterr().err
    assert "experts (" in line
    assert "stay as they are; what is adapted is q_proj" in line


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["layers.0.self_attn.q_proj"], "a target is the last part of a module's name"),
        (["nothing"], "the model has no 'nothing'; its linear modules are"),
        (["input_layernorm"], "adapter.target_modules"),
        (["mlp"], "adapter.target_modules"),
    ],
)
def test_targets_that_cannot_be_adapted_are_refused_in_one_line(folder_of, targets, message):
    with pytest.raises(ConfigError, match=message) as refused:
        load(folder_of("qwen3"), "lora", targets)
    assert "\n" not in str(refused.value)


def test_all_linear_is_refused_with_the_names(recipe_tree):
    from rlvr.config.toml import validate
    from rlvr.config.train import TrainRecipe

    tree = recipe_tree(adapter={"target_modules": "all-linear"})
    with pytest.raises(ConfigError, match=r'takes a list of modules\' names; .*"q_proj", "k_proj"'):
        validate(tree, TrainRecipe)


@pytest.mark.parametrize("method", ["full", "galore", "apollo"])
def test_trained_experts_are_refused_for_vllm(folder_of, make_recipe, method):
    from rlvr.training.build import new_engine

    policy = load(folder_of("mixtral"), method, ["q_proj"])
    recipe = make_recipe(rollout={"engine": "vllm"})
    with pytest.raises(ConfigError, match=r"experts .* set rollout\.engine = \"transformers\""):
        new_engine(recipe, policy, use_vllm=True, mode="merged")
