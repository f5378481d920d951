"""Settings reach the live objects, ignored ones are refused, the manifest shows what is live."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from rlvr.adapters import METHODS, get_method
from rlvr.adapters.facts import module_facts, optimizer_facts, peft_facts, update_norms
from rlvr.adapters.merge import adapter_off, merged_weights
from rlvr.config import AdapterConfig, TrainRecipe
from rlvr.recipe import ConfigError, dump_toml, load_recipe
from rlvr.session import check

DOWN = "model.layers.2.mlp.down_proj"


def live(trained) -> dict:
    """Everything that the manifest says about the adapter, and the down projection's part."""
    facts = {
        "modules": module_facts(trained.policy.model),
        "peft": peft_facts(trained.policy.model),
        "optimizer": optimizer_facts(trained.optimizer),
    }
    json.dumps(facts)  # JSON-ready
    return facts | {"down": facts["modules"].get(DOWN)}


# method, unusual settings, paths into the live facts with what has to be there
UNUSUAL = [
    ("lora", {"rank": 3, "alpha": 7.5}, {"down.rank": 3, "down.scaling": 2.5}),
    ("lora", {"rank": 4, "scaling": "sqrt_rank"}, {"down.scaling": 4.0, "peft.use_rslora": True}),
    ("rslora", {"rank": 9, "alpha": 6.0}, {"down.scaling": 2.0, "down.rank": 9}),
    ("dora", {"rank": 5}, {"peft.use_dora": True, "down.rank": 5}),
    (
        "lora_plus",
        {"lora_plus": {"lr_ratio": 7.0}},
        {"optimizer.groups.1.lr_ratio": 7.0, "optimizer.groups.1.lr": 0.021},
    ),
    ("lora_fa", {"rank": 6}, {"optimizer.class": "LoraFAOptimizer", "down.rank": 6}),
    ("pissa", {"pissa": {"niter": 3}}, {"peft.init_lora_weights": "pissa_niter_3"}),
    ("olora", {"rank": 5}, {"peft.init_lora_weights": "olora", "down.rank": 5}),
    ("orthogonal", {"rank": 6}, {"peft.init_lora_weights": "orthogonal", "down.rank": 6}),
    ("milora", {"rank": 3}, {"down.rank": 3}),
    ("eva", {"eva": {"rho": 2.0, "whiten": True}}, {"peft.eva_config.rho": 2.0}),
    ("corda", {"corda": {"mode": "kpm"}}, {"peft.corda_config.corda_method": "kpm"}),
    (
        "lora_ga",
        {"lora_ga": {"direction": "ArBr", "stable_gamma": 9}},
        {"peft.lora_ga_config.direction": "ArBr", "peft.lora_ga_config.stable_gamma": 9},
    ),
    (
        "adalora",
        {"adalora": {"init_rank": 7, "every_updates": 3, "orthogonality": 0.1, "beta1": 0.7}},
        {"down.rank": 7, "peft.deltaT": 3, "peft.orth_reg_weight": 0.1, "peft.beta1": 0.7},
    ),
    ("miss", {"rank": 8}, {"down.rank": 8}),
    ("loha", {"rank": 3, "alpha": 9.0}, {"down.rank": 3, "down.scaling": 3.0}),
    ("lokr", {"alpha": 10.0, "lokr": {"factor": 8}}, {"peft.decompose_factor": 8}),
    ("glora", {"rank": 5}, {"down.rank": 5}),
    ("vera", {"vera": {"d_initial": 0.3}}, {"peft.d_initial": 0.3}),
    ("randlora", {"rank": 6, "alpha": 30.0}, {"down.rank": 6, "down.scaling": 5.0}),
    ("tinylora", {"rank": 3, "tinylora": {"vector_len": 9}}, {"peft.r": 3, "peft.u": 9}),
    (
        "fourierft",
        {"fourierft": {"num_frequencies": 50, "scale": 20.0}},
        {"down.num_frequencies": 50, "down.scaling": 20.0},
    ),
    ("oft", {"oft": {"block_size": 16}}, {"down.block_size": 16}),
    ("boft", {"boft": {"block_size": 8}}, {"down.block_size": 8}),
    ("hra", {"rank": 6}, {"down.rank": 6}),
    ("orthogeolora", {"rank": 6, "alpha": 3.0}, {"down.rank": 6, "down.scaling": 0.5}),
    (
        "ia3",
        {"target_modules": ("up_proj", "down_proj")},
        {"peft.feedforward_modules": ["down_proj"]},
    ),
    ("houlsby", {"rank": 11}, {"peft.width": 11}),
    ("compacter", {"rank": 8, "compacter": {"n": 2}}, {"peft.kronecker": 2, "peft.width": 8}),
    ("prompt_tuning", {"prompt": {"num_tokens": 3}}, {"peft.num_virtual_tokens": 3}),
    ("prefix_tuning", {"prompt": {"num_tokens": 5}}, {"peft.num_virtual_tokens": 5}),
    (
        "qlora",
        {"qlora": {"quant_type": "fp4", "double_quant": False}},
        {"down.quantized.type": "fp4", "down.quantized.double": False},
    ),
    ("loftq", {"rank": 3, "loftq": {"iterations": 2}}, {"down.rank": 3}),
    (
        "galore",
        {"rank": 5, "galore": {"every_updates": 7, "scale": 0.5}},
        {"optimizer.groups.0.rank": 5, "optimizer.groups.0.every": 7},
    ),
    ("apollo", {"apollo": {"scale": 3.0}}, {"optimizer.groups.0.scale": 3.0}),
]


def at(facts: object, path: str) -> object:
    for key in path.split("."):
        facts = facts[int(key)] if isinstance(facts, list) else facts[key]  # pyright: ignore
    return facts


@pytest.mark.parametrize(("method", "given", "expected"), UNUSUAL)
def test_unusual_settings_are_found_again_in_the_live_objects(
    make_trained, method, given, expected
):
    facts = live(make_trained(method, **given))
    for path, value in expected.items():
        assert at(facts, path) == (pytest.approx(value) if isinstance(value, float) else value)


def test_every_method_with_settings_has_an_unusual_case():
    covered = {method for method, _, _ in UNUSUAL}
    without = {name for name, m in METHODS.items() if m.options - {"seed", "match"}} - covered
    assert not without - {"init_ab"}, "init_ab: below"


def test_init_ab_draws_within_its_magnitude(make_trained):
    facts = live(make_trained("init_ab", init_ab={"magnitude": 0.25}))["down"]["start"]
    assert 0.9 < facts["A_max"] / (0.25 / 384**0.5) <= 1  # 384 inputs
    assert 0.9 < facts["B_max"] / (0.25 / 4**0.5) <= 1  # rank 4


def test_the_seed_of_the_adapter_decides_its_start(make_trained):
    first, again, other = (make_trained("lora", seed=seed).policy for seed in (5, 5, 6))
    for a, b, c in zip(first.trainable, again.trainable, other.trainable, strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c) or not a.any()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "ia3", "rank": 4}, "adapter.rank = 4: ia3 would ignore it"),
        ({"method": "full", "target_modules": ("q_proj",)}, "full would ignore it"),
        ({"method": "lora", "lora_plus": {"lr_ratio": 4}}, r"\[adapter.lora_plus\]: lora would"),
        ({"method": "rslora", "scaling": "rank"}, "rslora would ignore it"),
        ({"method": "vera", "alpha": 4}, "vera would ignore it"),
        ({"method": "hra", "rank": 3}, "adapter.rank = 3: hra needs a multiple of 2; take 4"),
        ({"method": "compacter", "rank": 6}, "compacter needs a multiple of 4; take 8"),
        ({"method": "lorra"}, "did you mean lora"),
    ],
)
def test_a_setting_that_the_method_would_ignore_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        get_method(AdapterConfig(**given))


def test_blocks_survive_the_recipe_file_and_the_command_line(recipe_tree, tmp_path):
    path = tmp_path / "recipe.toml"
    tree = recipe_tree(adapter={"method": "lora_plus", "lora_plus": {"lr_ratio": 4.0}})
    path.write_text(dump_toml(TrainRecipe.model_validate(tree)))
    recipe = load_recipe(path, ["--adapter.lora_plus.lr_ratio", "8"], TrainRecipe)
    assert recipe.adapter.lora_plus.lr_ratio == 8
    path.write_text(dump_toml(recipe))
    again = load_recipe(path, [], TrainRecipe)
    assert again == recipe
    get_method(again.adapter)
    with pytest.raises(ConfigError, match=r"did you mean adapter\.lora_plus\.lr_ratio"):
        load_recipe(path, ["--adapter.lora_plus.lr_ration", "8"], TrainRecipe)


def test_methods_that_vllm_cannot_serve_are_refused_before_anything_loads(make_recipe):
    for method in (m for m in METHODS.values() if not m.merges):
        recipe = make_recipe(rollout={"engine": "vllm"}).model_copy(
            update={"adapter": AdapterConfig(method=method.name)}
        )
        with pytest.raises(ConfigError, match=r"rollout\.engine = 'vllm'.*transformers"):
            check(recipe)


@pytest.mark.parametrize(
    ("method", "sections", "message"),
    [
        ("dora", {"rollout": {"sync": "adapter"}}, r'sync = "adapter": dora.*"auto" or "merged"'),
        (
            "prefix_tuning",
            {"train": {"activation_checkpointing": True}},
            r"activation_checkpointing = 1: .* prefix_tuning",
        ),
    ],
)
def test_what_a_method_cannot_do_is_refused_before_anything_loads(
    make_recipe, method, sections, message
):
    recipe = make_recipe(**sections).model_copy(update={"adapter": AdapterConfig(method=method)})
    with pytest.raises(ConfigError, match=message):
        check(recipe)


@pytest.mark.parametrize(("method", "rank"), [("pissa", 65), ("milora", 65), ("lora_ga", 33)])
def test_a_rank_above_the_smallest_module_is_refused(make_trained, method, rank):
    with pytest.raises(ConfigError, match=rf"adapter\.rank = {rank}: .* has 64; lower it"):
        make_trained(method, rank=rank)


def test_adalora_ends_at_its_budget_and_keeps_factors_near_orthonormal(make_trained):
    trained = make_trained("adalora", adalora={"warmup_updates": 1, "final_updates": 2})
    trained.train(10)
    model = trained.policy.model
    kept = [int((p != 0).sum()) for n, p in model.named_parameters() if ".lora_E." in n]
    assert sum(kept) == 4 * len(kept)
    assert len(set(kept)) > 1, "ranks moved between modules"


def test_lora_plus_keeps_its_ratio_under_the_schedule(make_trained):
    groups = make_trained("lora_plus").optimizer.param_groups
    lr = 1e-4
    for group in groups:
        group["lr"] = lr * group.get("lr_ratio", 1.0)
    assert [group["lr"] for group in groups] == pytest.approx([1e-4, 16e-4])


def test_update_norms_are_those_of_the_merged_weights(make_trained):
    trained = make_trained("lora", target_modules=("q_proj",))
    assert update_norms(trained.policy.model) == {}
    trained.train(2)
    norms = update_norms(trained.policy.model)
    assert sorted(norms) == [f"model.layers.{i}.self_attn.q_proj.weight" for i in range(3)]
    merged = dict(merged_weights(trained.policy.model))
    name = "model.layers.1.self_attn.q_proj"
    layer = trained.policy.model.get_submodule(f"base_model.model.{name}")
    delta = 2 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    assert norms[f"{name}.weight"] == pytest.approx(float(delta.norm()), rel=1e-4)
    assert merged[f"{name}.weight"].dtype == torch.float32


def test_switching_an_adapter_off_and_on_leaves_frozen_factors_frozen(make_trained):
    for method in ("pissa", "lora_fa"):
        model = make_trained(method).policy.model
        before = [p.requires_grad for p in model.parameters()]
        with adapter_off(model):
            pass
        assert [p.requires_grad for p in model.parameters()] == before


def test_the_table_is_printed_and_loads_no_torch():
    code = (
        "import sys; from rlvr.cli import main; code = main(['adapters', '--json']);"
        " assert 'torch' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout)
    assert [row["name"] for row in rows] == list(METHODS)
    assert all(row["paper"] and row["trains"] for row in rows)
