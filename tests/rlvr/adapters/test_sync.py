"""What goes to the engine after a step: the weights that changed, and nothing else."""

from __future__ import annotations

import pytest
from transformers import AutoModelForCausalLM

from rlvr.adapters import METHODS
from rlvr.adapters.export import lora_factors, low_rank_layers
from rlvr.adapters.merge import merged_weights, plain_name
from rlvr.policy.packing import TokenRow
from tests.rlvr import plain

PROMPTS = [[7 * i % 300 + 8 for i in range(n)] for n in (5, 9, 12, 7)]
QKV = ("q_proj", "k_proj", "v_proj")


def modules(weights):
    """Names of the modules that weights belong to, without layer and parent."""
    return {name.split(".")[-2] for name, _ in weights}


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (("q_proj",), set(QKV)),  # vLLM holds the three as one weight
        (("up_proj", "o_proj"), {"up_proj", "gate_proj", "o_proj"}),
        (("down_proj",), {"down_proj"}),
    ],
)
def test_a_lora_sends_its_target_modules_and_what_is_fused_with_them(
    make_trained, targets, expected
):
    policy = make_trained("lora", target_modules=targets).policy
    assert modules(policy.engine_weights()) == expected


def test_frozen_embeddings_stay_at_home(make_trained):
    sent = modules(make_trained("full_frozen_embeddings").policy.engine_weights())
    everything = modules(make_trained("full").policy.engine_weights())
    assert everything - sent == {"embed_tokens", "lm_head"}


def test_tuned_norms_are_all_that_norm_tuning_sends(make_trained):
    sent = modules(make_trained("ln_tuning").policy.engine_weights())
    assert sent == {"input_layernorm", "post_attention_layernorm", "norm"}


@pytest.mark.parametrize("method", [m.name for m in METHODS.values() if "merged" in m.syncs])
def test_what_is_sent_makes_a_plain_model_of_the_base_the_trained_policy(
    make_trained, tiny_base, method
):
    """Judged by logits alone: a weight that moved and was not sent, or not so, would show."""
    trained = make_trained(method)
    trained.train(2)
    sent = dict(trained.policy.engine_weights())
    served = AutoModelForCausalLM.from_pretrained(tiny_base, attn_implementation="eager")
    loaded = served.load_state_dict(sent, strict=False)
    assert loaded.unexpected_keys == []
    rows = [TokenRow(p[:1], p[1:]) for p in PROMPTS]
    before = plain.token_logprobs(AutoModelForCausalLM.from_pretrained(tiny_base), rows)
    expected = plain.token_logprobs(trained.policy.model, rows)
    assert float((expected - before).abs().max()) > 1e-3, "it learned"
    assert float((plain.token_logprobs(served, rows) - expected).abs().max()) < 1e-5


@pytest.mark.parametrize(("method", "rank"), [("vera", 4), ("miss", 4), ("miss", 5)])
def test_the_factors_of_a_method_that_is_no_lora_are_its_update(make_trained, method, rank):
    """Rank 5 divides no width. peft's own merge is the oracle."""
    trained = make_trained(method, rank=rank)
    trained.train(2)
    model = trained.policy.model
    base = dict(merged_weights(model, adapted=False))
    merged = dict(merged_weights(model))
    layers = low_rank_layers(model)
    assert len(layers) == 21
    for name, layer in layers.items():
        a, b = lora_factors(layer)
        weight = f"{plain_name(name)}.weight"
        moved = merged[weight] - base[weight]
        assert len(a) == rank
        assert float(moved.abs().max()) > 0
        assert float((b @ a - moved).abs().max()) < 1e-6
