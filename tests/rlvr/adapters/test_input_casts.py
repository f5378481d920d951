"""Inputs of low-rank factors stay in the compute type: the same numbers, fewer bytes kept."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rlvr.adapters import METHODS
from rlvr.adapters.base import Setup
from rlvr.adapters.rounding import skip_input_casts
from rlvr.config.train import AdapterConfig
from rlvr.policy.attention import packed_hidden, use_packing
from rlvr.policy.packing import TokenRow, pack
from tests.rlvr.adapters.conftest import PROMPTS

ROWS = [TokenRow(p[:1], p[1:]) for p in PROMPTS]


def layers_with_the_switch(model):
    return [m for m in model.modules() if getattr(m, "cast_input_dtype_enabled", True) is False]


def values(trained):
    """[(log-probabilities, every gradient)] of one pass in bfloat16."""
    trained.optimizer.zero_grad()
    found = trained.policy.logprobs(ROWS, 1.0)[0]
    found.sum().backward()
    return [
        found.detach(),
        *(p.grad.clone() for p in trained.policy.trainable if p.grad is not None),
    ]


@pytest.mark.parametrize("method", ["lora", "lora_fa", "adalora", "pissa", "orthogonal"])
def test_values_and_gradients_keep_every_bit(make_trained, method):
    trained = make_trained(method, "bfloat16")
    trained.train(1)
    switched = layers_with_the_switch(trained.policy.model)
    without = values(trained)
    for layer in switched:
        layer.cast_input_dtype_enabled = True
    cast = values(trained)
    assert switched
    assert len(without) == len(cast) > 1
    assert all(torch.equal(a, b) for a, b in zip(without, cast, strict=True))


@pytest.mark.parametrize(
    ("method", "dtype"),
    [("lora", "float32"), ("dora", "bfloat16"), ("miss", "bfloat16"), ("hra", "bfloat16")],
)
def test_what_reads_its_inputs_in_float32_keeps_them_so(make_trained, method, dtype):
    assert layers_with_the_switch(make_trained(method, dtype).policy.model) == []


def kept_bytes(num_layers: int, switch: bool, num_tokens: int = 32) -> int:
    """Bytes that a forward pass keeps for the backward pass, besides parameters, in layers as large
    as a 1.5B model's with LoRA of rank 32."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "qwen2",
        vocab_size=64,
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=num_layers,
        num_attention_heads=12,
        num_key_value_heads=2,
    )
    base = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    use_packing(base)
    model = METHODS["lora"].apply(base, Setup(AdapterConfig(method="lora"), 0))
    if switch:
        skip_input_casts(model)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}  # the tensors too: the memory of one that is freed would be counted for another

    def keep(value):
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), value)
        return value

    rows = [TokenRow([1], list(range(2, num_tokens + 2)))]
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value),
        torch.autocast("cpu", torch.bfloat16),
    ):
        packed_hidden(model.get_base_model(), pack(rows, torch.device("cpu"), True))
    return sum(size for size, _ in kept.values())


def test_a_layer_keeps_9_kilobytes_less_for_each_token():
    num_tokens = 32
    cast, kept = (
        (kept_bytes(2, switch) - kept_bytes(1, switch)) / num_tokens for switch in (False, True)
    )
    print(cast, kept)
    assert kept < 102e3
    assert cast - kept > 8e3
