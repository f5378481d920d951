"""Trainable parameters on the shape of DeepSeek-R1-Distill-Qwen-1.5B, and ranks for a budget."""

from __future__ import annotations

import pytest
from transformers import Qwen2Config

from rlvr.adapters import METHODS, get_method
from rlvr.adapters.budget import count_parameters, match_rank
from rlvr.config import AdapterConfig
from rlvr.recipe import ConfigError

SHAPE = Qwen2Config(
    vocab_size=151936,
    hidden_size=1536,
    intermediate_size=8960,
    num_hidden_layers=28,
    num_attention_heads=12,
    num_key_value_heads=2,
    tie_word_embeddings=False,
)
NO_GATE = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj")
# in, out of the seven linear modules
LINEAR = {
    "q_proj": (1536, 1536),
    "k_proj": (1536, 256),
    "v_proj": (1536, 256),
    "o_proj": (1536, 1536),
    "gate_proj": (1536, 8960),
    "up_proj": (1536, 8960),
    "down_proj": (8960, 1536),
}


def count(method: str, **settings) -> int:
    config = AdapterConfig(method=method, **settings)
    return count_parameters(get_method(config), config, SHAPE)


@pytest.mark.parametrize(
    ("method", "settings", "expected"),
    [
        ("full", {}, 1_777_088_000),
        ("lora", {"rank": 32}, 36_929_536),
        ("lora", {"rank": 1}, 1_154_048),
        ("lora", {"rank": 32, "target_modules": NO_GATE}, 27_525_120),
        ("dora", {"rank": 32, "target_modules": NO_GATE}, 27_919_360),
        ("lora_fa", {"rank": 32, "target_modules": NO_GATE}, 12_615_680),
        ("miss", {"rank": 32, "target_modules": ("q_proj", "v_proj")}, 1_605_632),
        ("vera", {"rank": 32, "target_modules": ("q_proj", "v_proj")}, 51_968),
        ("ia3", {"target_modules": ("q_proj", "v_proj", "down_proj")}, 301_056),
        ("ln_tuning", {}, 87_552),
    ],
)
def test_counts_equal_the_published_ones(method, settings, expected):
    assert count(method, **settings) == expected


BOTH = sum(i + o for i, o in LINEAR.values())
BY_HAND = {
    "pissa": 32 * BOTH,
    "milora": 32 * BOTH,
    "init_ab": 32 * BOTH,
    "orthogeolora": 32 * (BOTH + 7),
    "adalora": 48 * (BOTH + 7),
    "hra": 32 * sum(i for i, _ in LINEAR.values()),
    "loha": 64 * BOTH,
    "miss": 32 * sum(o for _, o in LINEAR.values()),
    "bitfit": 1536 + 256 + 256,
    "houlsby": 2 * (2 * 32 * 1536 + 32 + 1536),
    "prefix_tuning": 20 * 2 * 256,
}
"""Parameters per layer at rank 32, from the formulas of the papers."""


@pytest.mark.parametrize("method", BY_HAND)
def test_counts_at_equal_rank_follow_the_formulas(method):
    rank = {"rank": 32} if "rank" in METHODS[method].options else {}
    assert count(method, **rank) == 28 * BY_HAND[method]


def test_a_budget_picks_the_nearest_rank_and_says_so(capsys):
    for method, wanted, rank in (("dora", "1.5M", 1), ("hra", "1.6M", 4)):
        config = AdapterConfig(method=method, match=f"params:{wanted}")
        picked = match_rank(get_method(config), config, SHAPE)
        assert (picked.rank, picked.match) == (rank, None)
        assert f"{method} at rank {rank} trains" in capsys.readouterr().err
        near = count(method, rank=rank)
        for other in (rank - 2, rank + 2):
            if other > 0:
                target = float(wanted[:-1]) * 1e6
                assert abs(count(method, rank=other) - target) >= abs(near - target)


def test_a_budget_and_a_rank_together_or_without_a_rank_are_refused():
    with pytest.raises(ConfigError, match="picks the rank"):
        get_method(AdapterConfig(method="lora", rank=4, match="params:1M"))
    with pytest.raises(ConfigError, match="ia3 would ignore it"):
        get_method(AdapterConfig(method="ia3", match="params:1M"))
    config = AdapterConfig(method="compacter", match="params:9B")
    with pytest.raises(ConfigError, match="ask for fewer"):
        match_rank(METHODS["compacter"], config, SHAPE)
