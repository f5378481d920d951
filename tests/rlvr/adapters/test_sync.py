"""What goes to the engine after a step: the weights that changed, and nothing else."""

from __future__ import annotations

import pytest

from rlvr.adapters import METHODS
from rlvr.adapters.merge import merged_weights

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
def test_every_weight_that_training_moved_is_sent(make_trained, method):
    trained = make_trained(method)
    before = {k: v.clone() for k, v in merged_weights(trained.policy.model, everything=True)}
    trained.train(2)
    sent = dict(trained.policy.engine_weights())
    moved = {
        name
        for name, value in merged_weights(trained.policy.model, everything=True)
        if not value.equal(before[name])
    }
    assert moved
    assert moved <= sent.keys()
