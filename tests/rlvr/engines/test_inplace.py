"""The emulated in-place merge: the arithmetic of bfloat16, and nothing when it is off."""

import pytest
import torch

from rlvr.adapters.methods.nonzero_init import START, lora_layers
from rlvr.common.errors import ConfigError
from rlvr.config.sft import FinetuneRecipe
from rlvr.config.toml import validate
from rlvr.engines.transformers import TransformersEngine
from rlvr.engines.weights.inplace import InplaceMerge, base_weights
from rlvr.engines.weights.sync import Syncer
from rlvr.policy.policy import load_policy
from rlvr.sft.finetune import check as check_finetune
from rlvr.training.preflight import check

PROMPTS = [[7 * i % 300 + 8 for i in range(n)] for n in (5, 9)]


def a_policy(make_recipe, method: str, **adapter):
    recipe = make_recipe(adapter={"method": method, **adapter})
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


def test_only_with_the_setting_does_a_sync_touch_the_base(make_recipe):
    for emulate in (False, True):
        recipe, policy = a_policy(make_recipe, "lora", emulate_inplace_merge=emulate)
        before = base_weights(policy.model)
        syncer = Syncer(recipe, policy, TransformersEngine(policy), "none", PROMPTS)
        shake(policy)
        syncer.sync()
        after = base_weights(policy.model)
        assert all(torch.equal(before[name], after[name]) for name in before) != emulate


def test_it_is_refused_where_it_means_nothing(make_recipe):
    emulated = {"method": "lora", "emulate_inplace_merge": True}
    with pytest.raises(ConfigError, match=r"emulate_inplace_merge = true: model\.dtype"):
        make_recipe(model={"dtype": "bfloat16"}, adapter=emulated)
    with pytest.raises(ConfigError, match=r"emulate_inplace_merge = true: rollout\.sync"):
        make_recipe(rollout={"engine": "auto", "sync": "adapter"}, adapter=emulated)
    tree = {
        "model": {"path": "anything"},
        "data": {"path": "a.jsonl", "prompt_field": "p", "response_field": "r"},
        "adapter": {"method": "lora", "emulate_inplace_merge": True},
        "optim": {"lr": 1e-3},
    }
    with pytest.raises(ConfigError, match="supervised"):
        check_finetune(validate(tree, FinetuneRecipe))
    for method in ("dora", "full", "ia3"):
        adapter = {"method": method, "emulate_inplace_merge": True}
        recipe = make_recipe().model_copy(
            update={"adapter": type(make_recipe().adapter).model_validate(adapter)}
        )
        with pytest.raises(ConfigError, match="would ignore it"):
            check(recipe)
