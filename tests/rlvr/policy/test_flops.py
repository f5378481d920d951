"""The operations that an update needs, against those that torch counts while it runs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, Qwen3Config

from rlvr.adapters import METHODS
from rlvr.adapters.base import Setup
from rlvr.common.gpus import GPUS, gpu_named
from rlvr.config.adapter import AdapterConfig
from rlvr.policy.flops import ModelDims, Work, forward_cost, peak_flops, update_cost
from rlvr.policy.packing import TokenRow

# head size and width of all heads differ from what hidden size / heads would give
CONFIG = Qwen3Config(
    vocab_size=48,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=3,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
    tie_word_embeddings=False,
    attn_implementation="eager",  # its products are plain ones, and are counted
)
DIMS = ModelDims.of(CONFIG)
LENGTH = 13


def counted(method: str) -> int:
    """What torch counts of forward and backward over one row of LENGTH tokens, each predicting."""
    model = AutoModelForCausalLM.from_config(CONFIG)
    model = METHODS[method].apply(model, Setup(AdapterConfig(method=method), seed=0))
    # an adapter's first layer need not know its input's gradient; here it has one
    embedded = torch.randn(1, LENGTH, CONFIG.hidden_size, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        model(inputs_embeds=embedded, use_cache=False).logits.logsumexp(-1).sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("method", ["full", "full_frozen_embeddings", "lora"])
def test_an_update_needs_what_torch_counts(method):
    added = 0
    if method == "lora":
        model = AutoModelForCausalLM.from_config(CONFIG)
        adapted = METHODS[method].apply(model, Setup(AdapterConfig(method=method), seed=0))
        added = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    cost = update_cost(DIMS, added, method != "lora", method == "full")
    # eager attention computes all pairs, also those that causality leaves out; transformers forms
    # the angles of positions by a product too
    angles = LENGTH * CONFIG.head_dim
    assert cost(Work(LENGTH, LENGTH, LENGTH**2)) + angles == counted(method)


def test_a_forward_pass_needs_a_third_of_full_training():
    work = Work(LENGTH, LENGTH, LENGTH**2)
    assert 3 * forward_cost(DIMS)(work) == update_cost(DIMS, 0, True, True)(work)


def test_the_study_needs_what_its_sizes_say():
    """R1-Distill-Qwen-1.5B by hand: 28 layers of 1536, 12 heads of 128 over 2, MLP of 8960."""
    dims = ModelDims(28, 1536, 8960, 1536, 256, 151936)
    assert dims.layer_weights == 28 * (2 * 1536 * 1536 + 2 * 1536 * 256 + 3 * 1536 * 8960)
    assert dims.layer_weights + dims.head_weights == pytest.approx(
        1_777_088_000 - 151936 * 1536, rel=1e-3
    )
    assert forward_cost(dims).pair == 28 * 2 * 2 * 12 * 128


def slow_work(rows: list[TokenRow]) -> Work:
    """Token by token: which tokens are computed, and what each looks back at."""
    tokens, responses, pairs = set(), 0, 0
    for number, row in enumerate(rows):
        ids = row.prompt_ids + row.response_ids
        responses += len(row.response_ids)
        for i in range(len(ids) - 1):
            in_prompt = i < len(row.prompt_ids)
            place = (tuple(row.prompt_ids) if in_prompt else number, i)
            if place not in tokens:
                tokens.add(place)
                pairs += i + 1
    return Work(len(tokens), responses, pairs)


@pytest.mark.parametrize(
    "shapes",
    [[(3, 5)], [(3, 1)], [(1, 4), (2, 2)], [(4, 6), (4, 9), (4, 1)]],
    ids=["one row", "one token", "two prompts", "one prompt of three"],
)
def test_work_is_that_of_the_tokens_one_by_one(shapes):
    rows = [TokenRow([7] * prompt, [8] * response) for prompt, response in shapes]
    assert Work.of(rows) == slow_work(rows)


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100-PCIE"),
        ("NVIDIA H100 NVL", "H100-NVL"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A100-PCIE-40GB", "A100-40G"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA GeForce RTX 4090", "RTX-4090"),
        ("NVIDIA H20", None),
        ("NVIDIA L40", None),
        ("Tesla V100-SXM2-32GB", None),
    ],
)
def test_a_driver_s_name_gives_the_peaks_of_that_card_or_none(device, name):
    assert gpu_named(device) == (GPUS[name] if name else None)


def test_there_is_no_peak_where_none_is_published():
    assert peak_flops(torch.device("cpu"), torch.bfloat16) is None
    assert peak_flops(torch.device("cuda"), torch.float32) is None


def test_head_sizes_are_the_true_ones():
    assert DIMS.query_width == 32, "2 heads of 16, not the hidden size of 24"
    assert replace(DIMS, query_width=24).layer_weights < DIMS.layer_weights
