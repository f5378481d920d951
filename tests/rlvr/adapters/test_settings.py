"""Settings reach the live objects, ignored ones are refused, the manifest shows what is live."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.cpp_extension import CUDA_HOME

from rlvr.adapters import METHODS, check_adapter
from rlvr.adapters.base import Setup
from rlvr.adapters.export import lora_layers
from rlvr.adapters.facts import module_facts, optimizer_facts, peft_facts, update_norms
from rlvr.adapters.merge import adapter_off, merged_weights
from rlvr.adapters.state import adapter_state
from rlvr.cli import main
from rlvr.common.errors import ConfigError
from rlvr.config.toml import dump_toml, load_recipe
from rlvr.config.train import AdapterConfig, TrainRecipe
from rlvr.policy.language_model import load_base
from rlvr.policy.policy import load_policy
from rlvr.runs.manifest import finish_manifest
from rlvr.training.preflight import check
from tests.rlvr.adapters.trained import Trained

DOWN = "model.layers.2.mlp.down_proj"
PROMPT = [11 * i % 300 + 8 for i in range(12)]


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
    ("lora", {"rank": 3}, {"down.rank": 3}),
    ("rslora", {"rank": 9}, {"down.rank": 9}),
    ("dora", {"rank": 5}, {"peft.use_dora": True, "down.rank": 5}),
    (
        "lora_plus",
        {"rank": 5, "lora_plus": {"lr_ratio": 7.0}},
        {
            "down.rank": 5,
            "optimizer.groups.1.lr_ratio": 7.0,
            "optimizer.groups.1.lr": 0.021,
        },
    ),
    ("lora_fa", {"rank": 6}, {"optimizer.class": "LoraFAOptimizer", "down.rank": 6}),
    (
        "pissa",
        {"rank": 3, "pissa": {"niter": 3}},
        {"down.rank": 3, "peft.init_lora_weights": "pissa_niter_3"},
    ),
    ("olora", {"rank": 5}, {"peft.init_lora_weights": "olora", "down.rank": 5}),
    ("orthogonal", {"rank": 6}, {"peft.init_lora_weights": "orthogonal", "down.rank": 6}),
    ("milora", {"rank": 3}, {"down.rank": 3}),
    ("geora", {"rank": 3}, {"down.rank": 3}),
    ("init_ab", {"rank": 3}, {"down.rank": 3}),
    (
        "eva",
        {"rank": 3, "eva": {"rho": 2.0, "whiten": True}},
        {"peft.r": 3, "peft.eva_config.rho": 2.0, "peft.eva_config.whiten": True},
    ),
    (
        "corda",
        {"rank": 3, "corda": {"mode": "kpm"}},
        {"down.rank": 3, "peft.corda_config.corda_method": "kpm"},
    ),
    ("lora_ga", {"rank": 3}, {"down.rank": 3}),
    (
        "adalora",
        {
            "rank": 3,
            "adalora": {
                "init_rank": 7,
                "warmup_updates": 2,
                "final_updates": 4,
                "every_updates": 3,
                "beta1": 0.7,
                "beta2": 0.6,
                "orthogonality": 0.1,
            },
        },
        {
            "down.rank": 7,
            "peft.target_r": 3,
            "peft.tinit": 2,
            "peft.tfinal": 4,
            "peft.deltaT": 3,
            "peft.beta1": 0.7,
            "peft.beta2": 0.6,
            "peft.orth_reg_weight": 0.1,
            "peft.total_step": 10,
        },
    ),
    ("miss", {"rank": 8}, {"down.rank": 8}),
    ("loha", {"rank": 3}, {"down.rank": 3}),
    (
        "lokr",
        {"rank": 3, "lokr": {"factor": 8, "decompose_both": True}},
        {"down.rank": 3, "peft.decompose_factor": 8, "peft.decompose_both": True},
    ),
    ("glora", {"rank": 5}, {"down.rank": 5}),
    ("vera", {"rank": 5, "vera": {"d_initial": 0.3}}, {"peft.r": 5, "peft.d_initial": 0.3}),
    ("randlora", {"rank": 6}, {"down.rank": 6}),
    (
        "tinylora",
        {"rank": 3, "tinylora": {"vector_len": 9, "tying": 0.5}},
        {"peft.r": 3, "peft.u": 9, "peft.weight_tying": 0.5},
    ),
    (
        "fourierft",
        {"fourierft": {"num_frequencies": 50, "scale": 20.0}},
        {"down.num_frequencies": 50, "down.scaling": 20.0},
    ),
    ("oft", {"oft": {"block_size": 16}}, {"down.block_size": 16}),
    ("boft", {"boft": {"block_size": 8}}, {"down.block_size": 8}),
    ("hra", {"rank": 6}, {"down.rank": 6}),
    ("orthogeolora", {"rank": 6}, {"down.rank": 6}),
    ("houlsby", {"rank": 11}, {"peft.width": 11}),
    ("compacter", {"rank": 8, "compacter": {"n": 2}}, {"peft.kronecker": 2, "peft.width": 8}),
    ("prompt_tuning", {"prompt": {"num_tokens": 3}}, {"peft.num_virtual_tokens": 3}),
    ("prefix_tuning", {"prompt": {"num_tokens": 5}}, {"peft.num_virtual_tokens": 5}),
    (
        "qlora",
        {"rank": 3, "qlora": {"quant_type": "fp4", "double_quant": False}},
        {"down.rank": 3, "down.quantized.type": "fp4", "down.quantized.double": False},
    ),
    (
        "loftq",
        {"rank": 3, "qlora": {"quant_type": "fp4", "double_quant": False}},
        {"down.rank": 3, "down.quantized.type": "fp4", "down.quantized.double": False},
    ),
    (
        "galore",
        {"rank": 5, "galore": {"every_updates": 7, "scale": 0.5}},
        {
            "optimizer.groups.0.rank": 5,
            "optimizer.groups.0.every": 7,
            "optimizer.groups.0.scale": 0.5,
        },
    ),
    (
        "apollo",
        {"rank": 5, "seed": 8, "apollo": {"every_updates": 7, "scale": 3.0}},
        {
            "optimizer.groups.0.rank": 5,
            "optimizer.groups.0.seed": 8,
            "optimizer.groups.0.every": 7,
            "optimizer.groups.0.scale": 3.0,
        },
    ),
]
ELSEWHERE = {
    "target_modules", "alpha", "scaling", "dropout", "seed", "match", "calibration_rows",
    "init_ab.magnitude", "geora.fraction", "loftq.iterations", "boft.num_factors",
    "lora_ga.direction", "lora_ga.scale", "lora_ga.stable_gamma",
}  # fmt: skip
"""Options with tests of their own below or in test_starts, for every method that has them."""


def having(option: str) -> list[str]:
    """The methods with this option."""
    return [method.name for method in METHODS.values() if option in method.options]


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


def test_every_option_of_every_method_has_an_unusual_case():
    missing = []
    for method in METHODS.values():
        given = [values for name, values, _ in UNUSUAL if name == method.name]
        for option in method.options:
            block = type(getattr(AdapterConfig(), option))
            fields = getattr(block, "model_fields", None)
            names = [option] if fields is None else [f"{option}.{field}" for field in fields]
            for name in names:
                found = any(
                    name in values or name.partition(".")[2] in values.get(option, {})
                    if fields
                    else name in values
                    for values in given
                )
                if not found and name not in ELSEWHERE:
                    missing.append((method.name, name))
    assert not missing


@pytest.mark.parametrize("method", having("target_modules"))
def test_exactly_the_named_modules_are_adapted(make_trained, method):
    """Full-rank methods train all weights: there the modules get the projected state."""
    trained = make_trained(method, target_modules=("k_proj", "down_proj"))
    facts = live(trained)
    if METHODS[method].keeps_base:
        layers = {n for n, f in facts["modules"].items() if "trained" in f}
        places = ("self_attn.k_proj", "mlp.down_proj")
        assert layers == {f"model.layers.{i}.{place}" for i in range(3) for place in places}
    else:
        wanted = 3 * (128 * 64 + 384 * 128)
        assert facts["optimizer"]["groups"][0]["num_parameters"] == wanted


@pytest.mark.parametrize("method", having("alpha"))
def test_alpha_scales_the_update_of_every_method_that_takes_it(make_trained, method):
    facts = live(make_trained(method, alpha=6.0))
    over_rank = 6.0 if method == "adalora" else 3.0 if method == "rslora" else 1.5  # rank 4
    assert facts["down"]["scaling"] == pytest.approx(over_rank)


@pytest.mark.parametrize("method", having("scaling"))
def test_scaling_by_the_root_of_the_rank_reaches_every_method_that_takes_it(make_trained, method):
    facts = live(make_trained(method, alpha=6.0, scaling="sqrt_rank"))
    assert facts["down"]["scaling"] == pytest.approx(3.0)


@pytest.mark.parametrize("method", having("dropout"))
def test_dropout_reaches_the_layers_of_every_method_that_takes_it(make_trained, method):
    model = make_trained(method, dropout=0.25).policy.model
    drops = {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)}
    assert 0.25 in drops


@pytest.mark.parametrize(
    "method", [n for n in having("seed") if METHODS[n].keeps_base and n != "fourierft"]
)
def test_the_seed_decides_the_start_of_every_method_that_takes_one(make_trained, method):
    more = {
        "pissa": {"pissa": {"niter": 2}},
        "lora_ga": {"lora_ga": {"direction": "random"}},
    }.get(method, {})
    first, again, other = (
        adapter_state(make_trained(method, seed=seed, **more).policy.model) for seed in (5, 5, 6)
    )
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not all(torch.equal(value, other[name]) for name, value in first.items())


def test_the_seed_places_the_frequencies_of_fourierft(make_trained):
    places = [
        make_trained("fourierft", seed=seed)
        .policy.model.get_submodule(f"base_model.model.{DOWN}")
        .indices["default"]
        for seed in (5, 5, 6)
    ]
    assert torch.equal(places[0], places[1])
    assert not torch.equal(places[0], places[2])


@pytest.mark.parametrize("method", sorted(METHODS.keys() - set(having("seed"))))
def test_nothing_is_drawn_where_a_seed_is_refused(make_trained, method):
    def start(seed: int) -> dict:
        trained = make_trained(method)
        base, _ = load_base(trained.recipe.model, trained.policy.path)
        setup = Setup(
            trained.policy.adapter, seed, rows=[PROMPT[i:] + PROMPT[:i] for i in range(8)]
        )
        return METHODS[method].apply(base, setup).state_dict()

    one, two = start(5), start(6)
    assert all(torch.equal(value, two[name]) for name, value in one.items())


@pytest.mark.parametrize("method", having("calibration_rows"))
def test_the_calibration_rows_decide_the_start(make_trained, method):
    trained = make_trained(method)
    states = []
    rotated = [PROMPT[i:] + PROMPT[:i] for i in range(8)]
    for rows in (rotated, [[token + 1 for token in row] for row in rotated]):
        base, _ = load_base(trained.recipe.model, trained.policy.path)
        adapted = METHODS[method].apply(base, Setup(trained.policy.adapter, 0, rows=rows))
        states.append(adapter_state(adapted))
    one, two = states
    assert not all(torch.equal(value, two[name]) for name, value in one.items())


def test_more_rounds_of_loftq_change_its_start(make_trained):
    starts = [live(make_trained("loftq", loftq={"iterations": n}))["down"] for n in (1, 3)]
    norms = [facts["trained"]["lora_A.default.weight"]["norm"] for facts in starts]
    assert norms[0] != pytest.approx(norms[1], rel=1e-6)


def test_the_facts_tell_how_the_factors_were_initialised(make_trained):
    trained = live(make_trained("lora"))["down"]["trained"]
    assert trained["lora_B.default.weight"]["norm"] == 0
    assert trained["lora_A.default.weight"]["norm"] > 0


@pytest.mark.skipif(CUDA_HOME is not None, reason="the CUDA toolkit is there")
def test_butterflies_that_peft_would_silently_leave_out_are_refused():
    config = AdapterConfig.model_validate({"method": "boft", "boft": {"num_factors": 2}})
    with pytest.raises(ConfigError, match=r"num_factors = 2: .* goes on with 1"):
        check_adapter(config)


@pytest.mark.parametrize("fraction", [0.2, 0.5])
def test_geora_starts_from_the_small_entries_of_the_weight(make_trained, fraction):
    """The paper's equations, mask by mask, in float64 and with quantiles."""
    trained = make_trained("geora", alpha=8.0, geora={"fraction": fraction})
    for layer in lora_layers(trained.policy.model).values():
        weight = layer.get_base_layer().weight.detach().double().numpy()
        u, s, vh = np.linalg.svd(weight, full_matrices=False)
        near = np.abs(u[:, :4] * s[:4] @ vh[:4])
        mask = (near <= np.quantile(near, fraction)) | (
            np.abs(weight) <= np.quantile(np.abs(weight), fraction)
        )
        assert fraction <= mask.mean() < 2 * fraction
        # the nearest of its rank; an entry at a quantile may be on either side of it in float32
        least = (np.linalg.svd(weight * mask, compute_uv=False)[4:] ** 2).sum() ** 0.5
        start = -(layer.lora_B["start"].weight @ layer.lora_A["start"].weight).numpy()
        assert np.linalg.norm(weight * mask - start) == pytest.approx(least, rel=1e-4)


def test_init_ab_draws_within_its_magnitude(make_trained):
    facts = live(make_trained("init_ab", init_ab={"magnitude": 0.25}))["down"]["start"]
    assert 0.9 < facts["A_max"] / (0.25 / 384**0.5) <= 1  # 384 inputs
    assert 0.9 < facts["B_max"] / (0.25 / 4**0.5) <= 1  # rank 4


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
        ({"method": "milora", "seed": 1}, "adapter.seed = 1: milora would ignore it"),
        ({"method": "pissa", "seed": 1}, "pissa draws nothing while adapter.pissa.niter = 0"),
        ({"method": "lora_ga", "seed": 1}, "lora_ga draws nothing"),
        ({"method": "oft", "dropout": 0.1}, "adapter.dropout = 0.1: oft would ignore it"),
        ({"method": "compacter", "compacter": {"n": 5}}, "rank = 32: compacter needs a multiple"),
        (
            {"method": "adalora", "rank": 8, "adalora": {"init_rank": 4}},
            "init_rank = 4: below adapter.rank = 8",
        ),
        (
            {"method": "boft", "boft": {"block_size": 3, "num_factors": 2}},
            "block_size = 3: butterflies",
        ),
    ],
)
def test_a_setting_that_the_method_would_ignore_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        check_adapter(AdapterConfig(**given))


def test_blocks_survive_the_recipe_file_and_the_command_line(recipe_tree, tmp_path):
    path = tmp_path / "recipe.toml"
    tree = recipe_tree(adapter={"method": "lora_plus", "lora_plus": {"lr_ratio": 4.0}})
    path.write_text(dump_toml(TrainRecipe.model_validate(tree)))
    recipe = load_recipe(path, ["--adapter.lora_plus.lr_ratio", "8"], TrainRecipe)
    assert recipe.adapter.lora_plus.lr_ratio == 8
    path.write_text(dump_toml(recipe))
    again = load_recipe(path, [], TrainRecipe)
    assert again == recipe
    check_adapter(again.adapter)
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
        (
            "dora",
            {"rollout": {"engine": "auto", "sync": "adapter"}},
            r'sync = "adapter": dora.*"auto" or "merged"',
        ),
        (
            "prefix_tuning",
            {"train": {"activation_checkpointing": 1}},
            r"activation_checkpointing = 1: .* prefix_tuning",
        ),
        *(
            (name, {"optim": {"name": "adamw_8bit"}}, rf'"adamw_8bit": {name} brings its own')
            for name, method in METHODS.items()
            if method.own_optimizer
        ),
    ],
)
def test_what_a_method_cannot_do_is_refused_before_anything_loads(
    make_recipe, method, sections, message
):
    recipe = make_recipe(**sections).model_copy(update={"adapter": AdapterConfig(method=method)})
    with pytest.raises(ConfigError, match=message):
        check(recipe)


def test_an_allocation_without_room_is_refused_before_anything_loads(make_recipe):
    for steps, block in ((3, {"warmup_updates": 2, "final_updates": 1}), (1, {})):
        adapter = AdapterConfig.model_validate({"method": "adalora", "adalora": block})
        recipe = make_recipe(train={"steps": steps}).model_copy(update={"adapter": adapter})
        with pytest.raises(ConfigError, match=f"leave none of the {steps} updates"):
            check(recipe)


@pytest.mark.parametrize(
    ("method", "rank"), [("pissa", 65), ("milora", 65), ("lora_ga", 33), ("orthogeolora", 65)]
)
def test_a_rank_above_the_smallest_module_is_refused(make_trained, method, rank):
    with pytest.raises(ConfigError, match=rf"adapter\.rank = {rank}: .* has 64; lower it"):
        make_trained(method, rank=rank)


@pytest.mark.parametrize(
    ("method", "block", "message"),
    [
        ("oft", {"block_size": 48}, r"oft\.block_size = 48: does not divide 128 of model"),
        ("boft", {"block_size": 48}, r"boft\.block_size = 48: does not divide 128"),
        ("lokr", {"factor": 5}, r"lokr\.factor = 5: does not divide 128 and 128"),
    ],
)
def test_a_size_that_peft_would_silently_change_is_refused(make_trained, method, block, message):
    with pytest.raises(ConfigError, match=message):
        make_trained(method, **{method: block})


def test_adalora_ends_at_its_budget_and_keeps_factors_near_orthonormal(make_trained):
    trained = make_trained("adalora", adalora={"warmup_updates": 1, "final_updates": 2})
    trained.train(10)
    model = trained.policy.model
    kept = [int((p != 0).sum()) for n, p in model.named_parameters() if ".lora_E." in n]
    assert sum(kept) == 4 * len(kept)
    assert len(set(kept)) > 1, "ranks moved between modules"


SHORT = {
    "one_group_where_ranks_stop_moving": (6, lambda step: 1 if step == 5 else 3),
    "one_group_all_along": (6, lambda step: 1),
    "one_group_in_the_last_step": (0, lambda step: 1 if step == 7 else 3),
}
"""adapter.adalora.final_updates, and groups by step, of 8 steps with 3 updates each."""


@pytest.mark.parametrize("case", SHORT)
def test_adalora_ends_at_its_budget_where_steps_have_fewer_groups_than_updates(make_recipe, case):
    final, num_groups = SHORT[case]
    block = {"init_rank": 6, "warmup_updates": 3, "final_updates": final, "every_updates": 10}
    adapter = AdapterConfig.model_validate(
        {"method": "adalora", "rank": 4, "adalora": block, "target_modules": ["q_proj", "v_proj"]}
    )
    recipe = make_recipe(
        optim={"lr": 3e-2, "updates_per_step": 3},
        train={"steps": 8},
        rollout={"prompts_per_step": 3},
    ).model_copy(update={"adapter": adapter})
    path = recipe.model.path
    policy = load_policy(recipe.model, adapter, path, 0, keep_reference=False, num_updates=24)
    trained = Trained(policy, policy.method.optimizer(policy.model, adapter, recipe.optim), recipe)
    model: Any = policy.model
    budgets = []
    for step in range(8):
        trained.train(1, num_groups(step))
        pattern = model.peft_config["default"].rank_pattern or {}
        budgets.append(sum(map(sum, pattern.values())) if pattern else 6 * 6)
    kept = [int((p != 0).sum()) for n, p in model.named_parameters() if ".lora_E." in n]
    assert sum(kept) == 4 * len(kept) == 4 * 6
    assert budgets == sorted(budgets, reverse=True), "the clock ran backwards"
    assert budgets[4] < 6 * 6, "ranks did not move before the end"


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


@pytest.mark.parametrize("method", METHODS)
def test_the_manifest_ends_with_the_norm_of_every_update(make_trained, tmp_path, method):
    trained = make_trained(method)
    trained.train(2)
    path = tmp_path / "manifest.json"
    path.write_text("{}")
    finish_manifest(path, trained.policy, trained.recipe.model, num_bytes=5)
    facts = json.loads(path.read_text())
    norms = facts["update_norms"]
    assert norms
    assert all(0 < value < 100 for value in norms.values())
    assert facts["sync_bytes"] == 5
    if "target_modules" in METHODS[method].options and METHODS[method].keeps_base:
        assert {name for name in norms if name.endswith("weight")} == {
            f"{name}.weight"
            for name, f in module_facts(trained.policy.model).items()
            if "trained" in f
        }


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


def test_the_table_fits_a_terminal_and_breaks_no_word(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["adapters"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    for method in METHODS.values():
        assert set(f"{method.name} {method.paper} {method.trains}".split()) <= set(shown.split())
