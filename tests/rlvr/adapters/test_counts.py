"""Trainable parameters on the shape of DeepSeek-R1-Distill-Qwen-1.5B, and ranks for a budget."""

from __future__ import annotations

import pytest
from transformers import AutoConfig

from rlvr.adapters import METHODS, check_adapter, get_method
from rlvr.adapters.budget import count_parameters, match_rank
from rlvr.adapters.table import reference_shape
from rlvr.common.errors import ConfigError
from rlvr.config.train import AdapterConfig
from rlvr.data.sft_examples import Examples
from rlvr.runs.manifest import manifest

SHAPE = reference_shape()
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
    "geora": 32 * BOTH,
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


def test_boft_is_counted_by_its_formula_as_it_is_made(make_trained, tiny_policy):
    """On the meta device its layers cannot be made."""
    block = {"block_size": 8}
    made = sum(p.numel() for p in make_trained("boft", boft=block).policy.trainable)
    config = AdapterConfig.model_validate({"method": "boft", "boft": block})
    shape = AutoConfig.from_pretrained(tiny_policy)
    assert count_parameters(METHODS["boft"], config, shape) == made
    small = [(128, 128), (128, 64), (128, 64), (128, 128), (128, 384), (128, 384), (384, 128)]
    assert made == 3 * sum(8 * inputs + outputs for inputs, outputs in small)


FAST = ("lora", "orthogonal", "hra", "lokr", "randlora", "compacter", "orthogeolora")
MATCHED = [
    pytest.param(m.name, marks=[] if m.name in FAST else [pytest.mark.slow])
    for m in METHODS.values()
    if "match" in m.options
]


@pytest.mark.parametrize("method", MATCHED)
def test_a_budget_picks_the_nearest_rank_of_every_method_and_says_so(tiny_policy, capsys, method):
    shape = AutoConfig.from_pretrained(tiny_policy)
    step = METHODS[method].rank_multiple(AdapterConfig())

    def at(rank: int) -> int:
        return count_parameters(METHODS[method], AdapterConfig(method=method, rank=rank), shape)

    count = at(4)
    wanted = count + (at(4 + step) - count) // 3
    config = AdapterConfig(method=method, match=f"params:{wanted}")
    picked = match_rank(get_method(config), config, shape)
    assert picked.rank == 4
    said = f"{method} at rank 4 trains {count:,} parameters (wanted {wanted:,})"
    assert said in capsys.readouterr().err


def test_what_a_budget_picked_is_in_the_manifest(make_trained):
    trained = make_trained("lora", rank=None, match="params:50K")
    data = Examples([], [], "none", "", 0)
    facts = manifest(trained.recipe, trained.policy, trained.optimizer, data, "none", "none")
    assert facts["matched"] == {"match": "params:50K", "rank": trained.policy.adapter.rank}
    ranks = {layer["rank"] for layer in facts["modules"].values()}
    assert ranks == {facts["matched"]["rank"]}
    assert abs(facts["trainable_parameters"] - 50_000) < 7296 / 2 + 1  # one rank is 7,296


def test_a_budget_that_cannot_be_met_is_refused(tiny_policy):
    with pytest.raises(ConfigError, match="picks the rank"):
        check_adapter(AdapterConfig(method="lora", rank=4, match="params:1M"))
    with pytest.raises(ConfigError, match="ia3 would ignore it"):
        check_adapter(AdapterConfig(method="ia3", match="params:1M"))
    for method in ("compacter", "pissa", "lokr"):  # by size, by smallest module, saturated
        config = AdapterConfig(method=method, match="params:9B")
        with pytest.raises(ConfigError, match=f"{method} has at most .* ask for fewer"):
            match_rank(METHODS[method], config, AutoConfig.from_pretrained(tiny_policy))
