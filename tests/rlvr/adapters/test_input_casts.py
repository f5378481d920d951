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


@pytest.fixture(scope="module")
def large_layer():
    """A model of one layer as large as a 1.5B model's, with LoRA of rank 32."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "qwen2",
        vocab_size=64,
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=1,
        num_attention_heads=12,
        num_key_value_heads=2,
    )
    base = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    use_packing(base)
    return METHODS["lora"].apply(base, Setup(AdapterConfig(method="lora"), 0))


def kept_bytes(model, num_tokens: int) -> int:
    """Bytes that the layer's forward pass keeps for the backward pass, besides parameters."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}  # the tensors too: the memory of one that is freed would be counted for another

    def keep(value):
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), value)
        return value

    layer = model.get_base_model().model.layers[0]

    def counted(*args, **kwargs):
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            return type(layer).forward(layer, *args, **kwargs)

    layer.forward = counted
    rows = [TokenRow([1], list(range(2, num_tokens + 2)))]
    with torch.autocast("cpu", torch.bfloat16):
        packed_hidden(model.get_base_model(), pack(rows, torch.device("cpu"), True))
    return sum(size for size, _ in kept.values())


def test_a_layer_keeps_9_kilobytes_less_for_each_token(large_layer):
    few, many = 16, 48

    def per_token() -> float:  # without the factors' copies in 16 bits, which do not grow
        return (kept_bytes(large_layer, many) - kept_bytes(large_layer, few)) / (many - few)

    cast = per_token()
    skip_input_casts(large_layer)
    kept = per_token()
    print(f"{cast / 1e3:.1f} kB, then {kept / 1e3:.1f} kB")
    assert kept < 102e3
    assert cast - kept > 8e3
