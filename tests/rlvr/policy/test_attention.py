"""Packed rows give every model that takes them the values and gradients of padded rows."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rlvr.policy.attention import NAME, PLAIN_CAUSAL, packed_hidden, packs, use_packing
from rlvr.policy.packing import TokenRow, pack

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "sliding_window": None,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
ROWS = [
    TokenRow([5, 6, 7], [8, 9, 10, 11, 12]),
    TokenRow([5, 6, 7], [12, 13]),
    TokenRow([5, 6, 7], [13]),
    TokenRow([20] * 9, [21, 22, 23, 24]),
    TokenRow([10, 11], [12, 13, 14, 15, 16]),
]


def tiny_model(model_type, packing=True, **settings):
    """packing: with our attention; else transformers' own, written out."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **(SIZES | settings))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    if packing:
        use_packing(model)
    else:
        model.set_attn_implementation("eager")
    return model.eval()


def one_at_a_time(model, rows):
    """[T, H] hidden states that predict the response tokens, each row alone."""
    parts = []
    for row in rows:
        ids = torch.tensor([row.prompt_ids + row.response_ids[:-1]])
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
        parts.append(hidden[len(row.prompt_ids) - 1 :])
    return torch.cat(parts)


def gradients(model, hidden):
    mix = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1))
    model.zero_grad()
    (hidden * mix).sum().backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("bucketed", [True, False], ids=["buckets", "rows"])
@pytest.mark.parametrize("model_type", sorted(PLAIN_CAUSAL))
def test_packed_rows_equal_each_row_alone(model_type, bucketed):
    model = tiny_model(model_type)
    assert packs(model)
    packing = pack(ROWS, torch.device("cpu"), bucketed)
    object.__setattr__(packing, "ends_R", None)  # the kernel for rows needs a GPU
    plain = tiny_model(model_type, packing=False)
    packed, alone = packed_hidden(model, packing), one_at_a_time(plain, ROWS)
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-5)
    theirs = gradients(plain, alone)
    ours = gradients(model, packed_hidden(model, packing))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=1e-4, rtol=1e-4, msg=name)


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        ("mistral", {"sliding_window": 8}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
        ("gemma2", {}),
        ("gpt2", {}),
    ],
)
def test_models_with_other_attention_keep_padded_rows(model_type, settings):
    assert not packs(tiny_model(model_type, **settings))


def test_padded_rows_still_get_their_mask():
    model = tiny_model("qwen2")
    assert model.config._attn_implementation == NAME
    ids, mask = torch.zeros(2, 6, dtype=torch.long), torch.ones(2, 6, dtype=torch.long)
    ids[0], ids[1, 3:], mask[1, :3] = torch.arange(6) + 3, torch.arange(3) + 20, 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    hidden = model.base_model(input_ids=ids, attention_mask=mask, position_ids=positions)
    alone = tiny_model("qwen2", packing=False).base_model(input_ids=ids[1:, 3:])
    torch.testing.assert_close(
        hidden.last_hidden_state[1, 3:], alone.last_hidden_state[0], atol=1e-5, rtol=1e-5
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_variable_length_kernel_gives_the_values_and_gradients_of_buckets():
    model = tiny_model("qwen2", hidden_size=64, head_dim=16).to("cuda", torch.bfloat16)
    results = []
    for bucketed in (True, False):
        hidden = packed_hidden(model, pack(ROWS, torch.device("cuda"), bucketed))
        mix = torch.ones_like(hidden).cumsum(0) / len(hidden)
        model.zero_grad()
        (hidden * mix).sum().backward()
        results.append([hidden.float(), *(p.grad.float() for p in model.base_model.parameters())])
    for ours, theirs in zip(*results, strict=True):
        assert (ours - theirs).norm() <= 0.05 * theirs.norm()
