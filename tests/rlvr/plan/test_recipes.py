"""Every recipe fits the hardware that its header names, and its header says what the plan says."""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from rlvr.compare.resolve import open_comparison
from rlvr.config.sft import FinetuneRecipe
from rlvr.config.toml import load_recipe
from rlvr.config.train import TrainRecipe
from rlvr.plan.cli import make_plan
from rlvr.plan.hardware import parse_cluster, shape_of
from rlvr.plan.header import read_header
from rlvr.plan.memory import RUNTIME_GIB, TIGHT, device_memory, trainer_memory

ROOT = Path(__file__).parents[3] / "recipes"
TABLES = {path: tomllib.loads(path.read_text()) for path in sorted(ROOT.rglob("*.toml"))}
ON_CPU = [path for path in TABLES if read_header(path).hardware == "cpu"]
ON_GPUS = [path for path in TABLES if path not in ON_CPU]
LAPTOP_GIB = 4
"""What a recipe for a CPU may take with a tiny policy, vLLM's cache included."""
LARGE_LAPTOP_GIB = 10
"""The same of one that names a model: of 16 GB."""


def runs_of(path: Path) -> dict[str, TrainRecipe]:
    """The runs of a recipe by label: one, or a comparison's by method."""
    if "compare" not in TABLES[path]:
        return {path.stem: load_recipe(path, [], TrainRecipe)}
    comparison = open_comparison(path, [], warm_start=False)
    return {label: comparison.resolve(label, 0, None) for label in comparison.recipe.methods}


def plans_of(path: Path) -> dict[str, dict[str, Any]]:
    """The plan of every run of a recipe on the hardware of its header, by label."""
    header = read_header(path)
    assert header.hardware is not None
    count, gpu = parse_cluster(header.hardware)
    executor = TABLES[path].get("executor", {})
    if "compare" in TABLES[path]:
        assert executor["parallel"] == count, "a run on each GPU"
        count = 1
    given = argparse.Namespace(
        lengths=header.lengths, run=None, informative_frac=0.5, prompt_len=150, shards=1, price=None
    )
    return {
        label: make_plan(recipe, shape_of(recipe, str(recipe.model.path)), count, gpu, given)
        for label, recipe in runs_of(path).items()
    }


@pytest.fixture(autouse=True)
def no_measured_rates(monkeypatch, tmp_path):
    """A header holds on any machine: rates are those of the data sheets."""
    monkeypatch.setenv("RLVR_CACHE", str(tmp_path))


def test_every_recipe_names_its_hardware():
    assert [path.name for path in TABLES if read_header(path).hardware is None] == []
    assert len(ON_GPUS) >= 7
    assert len(ON_CPU) >= 6


@pytest.mark.parametrize("path", ON_GPUS, ids=lambda path: path.stem)
def test_a_recipe_fits_its_hardware_and_its_header_says_what_the_plan_says(path):
    numbers = read_header(path).numbers
    if "rollout" not in TABLES[path] and "compare" not in TABLES[path]:
        _holds_supervised(path, numbers["gib"])
        return
    plans = plans_of(path)
    too_large = {
        label: f"{plan['memory_gib']['total']:.1f} of {plan['device_memory_gib']} GiB"
        for label, plan in plans.items()
        if not plan["fits"]
    }
    assert too_large == {}
    found = {
        "gib": max(plan["memory_gib"]["total"] for plan in plans.values()),
        "sequences": min(plan["sequences_per_engine"] for plan in plans.values()),
        "low": min(plan["hours_range"][0] for plan in plans.values()),
        "high": max(plan["hours_range"][1] for plan in plans.values()),
    }
    assert numbers == pytest.approx(found, rel=0.08, abs=1), f"{path}: the plan says {found}"


def _holds_supervised(path: Path, gib: int) -> None:
    """A supervised recipe, of which only memory is planned."""
    recipe = load_recipe(path, [], FinetuneRecipe)
    _, gpu = parse_cluster(read_header(path).hardware or "")
    assert gpu is not None
    parts = trainer_memory(recipe, shape_of(recipe, str(recipe.model.path)))
    total = sum(parts.values()) + RUNTIME_GIB
    assert total <= TIGHT * gpu.memory_gib
    assert gib == pytest.approx(total, rel=0.08), f"{path}: the plan says {total}"


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    """The configuration of SmolLM2-135M, the model of recipes for a CPU that name one."""
    folder = tmp_path_factory.mktemp("smollm2")
    LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    ).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("path", ON_CPU, ids=lambda path: path.stem)
def test_a_recipe_for_a_cpu_fits_a_laptop(path, tiny_policy, smollm2):
    table = TABLES[path]
    if "rollout" not in table and "compare" not in table:
        if "path" in table.get("model", {}):  # else a warm start of a tiny model
            recipe = load_recipe(path, [], FinetuneRecipe)
            parts = trainer_memory(recipe, shape_of(recipe, str(smollm2)))
            assert sum(parts.values()) < LARGE_LAPTOP_GIB
        return
    for label, recipe in runs_of(path).items():
        named = recipe.model.path is not None
        shape = shape_of(recipe, str(smollm2 if named else tiny_policy))
        total = device_memory(recipe, shape, None)["total"]
        assert total < (LARGE_LAPTOP_GIB if named else LAPTOP_GIB), label


def test_a_recipe_that_does_not_fit_is_seen():
    """gsm8k_qwen_0.5b_lora kept all activations on the GPU that its header named."""
    path = ROOT / "gsm8k_qwen_0.5b_lora.toml"
    recipe = load_recipe(path, ["--train.activation_checkpointing", "0"], TrainRecipe)
    _, gpu = parse_cluster("1xL40S")
    memory = device_memory(recipe, shape_of(recipe, str(recipe.model.path)), gpu)
    assert gpu is not None
    assert memory["total"] > gpu.memory_gib


def test_a_run_with_stages_takes_what_its_stages_take_one_after_the_other():
    path = ROOT / "deepscaler_1.5b_full.toml"
    recipe, header = load_recipe(path, [], TrainRecipe), read_header(path)
    count, gpu = parse_cluster(header.hardware or "")
    given = argparse.Namespace(
        lengths=header.lengths, run=None, informative_frac=0.5, prompt_len=150, shards=1, price=2.0
    )
    shape = shape_of(recipe, str(recipe.model.path))
    whole = make_plan(recipe, shape, count, gpu, given)
    parts = []
    for number, steps in enumerate((1040, 480, 230)):
        then = recipe.in_stage(number)
        then = then.model_copy(update={"train": then.train.model_copy(update={"steps": steps})})
        parts.append(make_plan(then, shape, count, gpu, given))
    assert whole["steps"] == 1750
    assert whole["hours"] == pytest.approx(sum(part["hours"] for part in parts))
    assert whole["cost"] == pytest.approx(sum(part["cost"] for part in parts))
    assert whole["memory_gib"] == max((p["memory_gib"] for p in parts), key=lambda m: m["total"])
    assert [stage["steps"] for stage in whole["stages"]] == [1040, 480, 230]
