"""The control of SVD initialisation: its merge in place has bfloat16's arithmetic, and the runs."""

from pathlib import Path

import pytest
import torch

from rlvr.adapters.methods.nonzero_init import START, lora_layers
from rlvr.engines.transformers import TransformersEngine
from rlvr.engines.weights.sync import Syncer
from rlvr.policy.policy import load_policy
from tests.benchmarks.inplace import InplaceMerge, InplaceSyncer, base_weights
from tests.benchmarks.svd_control import arms

ROOT = Path(__file__).parents[2]
PROMPTS = [[7 * i % 300 + 8 for i in range(n)] for n in (5, 9)]


def a_policy(make_recipe, method: str):
    recipe = make_recipe(adapter={"method": method})
    return recipe, load_policy(recipe.model, recipe.adapter, recipe.model.path, 0, False)


def shake(policy) -> None:
    """Moves what trains, as a step would."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.trainable:
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("method", ["lora", "pissa", "milora", "olora", "orthogonal", "init_ab"])
def test_a_cycle_equals_merging_and_unmerging_the_stored_weights(make_recipe, method):
    """The reference is written out: residual in bfloat16, plus and minus the rounded update."""
    _, policy = a_policy(make_recipe, method)
    before = base_weights(policy.model)
    merge = InplaceMerge(policy.model)
    shake(policy)
    merge.cycle()
    for name, layer in lora_layers(policy.model).items():
        weight = before[name.removeprefix("base_model.model.")]
        has_start = START in layer.lora_A
        start = -layer.get_delta_weight(START) if has_start else torch.zeros_like(weight)
        delta = layer.get_delta_weight("default").bfloat16()
        stored = ((weight - start).bfloat16() + delta) - delta
        assert torch.equal(layer.get_base_layer().weight, stored.float() + start)


def test_many_cycles_move_the_base_and_most_under_a_start(make_recipe):
    drift = {}
    for method in ("lora", "pissa"):
        _, policy = a_policy(make_recipe, method)
        before = base_weights(policy.model)
        merge = InplaceMerge(policy.model)
        for _ in range(5):
            shake(policy)
            merge.cycle()
        after = base_weights(policy.model)
        drift[method] = sum(float((after[n] - before[n]).norm() ** 2) for n in before) ** 0.5
    assert drift["lora"] > 0
    assert drift["pissa"] > drift["lora"]


@pytest.mark.parametrize("make", [Syncer, InplaceSyncer])
def test_only_the_controls_sync_touches_the_base(make_recipe, make):
    recipe, policy = a_policy(make_recipe, "lora")
    before = base_weights(policy.model)
    syncer = make(recipe.rollout, policy, TransformersEngine(policy), "none", PROMPTS)
    shake(policy)
    syncer.sync()
    after = base_weights(policy.model)
    is_same = all(torch.equal(before[name], after[name]) for name in before)
    assert is_same == (make is Syncer)


def test_every_method_runs_on_both_bases_and_one_seed_before_the_next():
    made = list(arms(ROOT / "recipes/compare/svd_init_control.toml", None, None))
    assert len(made) == 30
    assert [(a.label, a.inplace) for a in made[:2]] == [("lora", False), ("lora_inplace", True)]
    assert [a.recipe.train.seed for a in made] == sorted(a.recipe.train.seed for a in made)
