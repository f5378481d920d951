"""What makes a comparison unfair, and what only has to be said."""

from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import BaseModel

from rlvr.adapters.saved import SavedPolicy, write_saved
from rlvr.cli import main
from rlvr.common.errors import ConfigError
from rlvr.compare.fairness import (
    MATCHED,
    MAY_DIFFER,
    _settings,
    examine,
    may_differ,
    refuse_unfair,
)
from rlvr.compare.resolve import open_comparison
from rlvr.config.adapter import AdapterConfig
from rlvr.config.train import TrainRecipe

ROOT = Path(__file__).parents[3]

FAIR = "[methods.lora]\nlr = 1e-3\n[methods.full]\nlr = 1e-4\n"


def test_a_fair_comparison_says_what_is_equal_and_what_is_not(open_written):
    fairness = examine(open_written(FAIR))
    assert fairness.unfair == ()
    for name in ("data order", "prompts", "generation seeds", "modules", "reward", "steps"):
        assert name in fairness.matched
    assert any(text.startswith("parameters: lora ") for text in fairness.unmatched)
    assert fairness.num_params["lora"] < fairness.num_params["full"]


@pytest.mark.parametrize(
    ("rollout", "unlike"),
    [
        ({}, "lora as low-rank factors; dora as merged weights, rounded to nearest"),
        ({"sync_rounding": "stochastic"}, "dora as merged weights, rounded stochastically"),
        ({"sync": "merged"}, None),
    ],
)
def test_methods_whose_updates_reach_the_engine_in_unlike_ways_are_named(
    open_written, monkeypatch, rollout, unlike
):
    """In float32 and on a CPU, where all go merged, nothing is to be said."""
    text = "[methods.lora]\nlr = 1e-3\n[methods.dora]\nlr = 1e-4\n"
    engine, bfloat16 = {"engine": "vllm"}, {"dtype": "bfloat16"}
    assert "sync fidelity" in examine(open_written(text, rollout=engine, model=bfloat16)).matched
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert "sync fidelity" in examine(open_written(text, rollout=engine)).matched
    fairness = examine(open_written(text, rollout=engine | rollout, model=bfloat16))
    assert fairness.unfair == ()
    said = [line for line in fairness.unmatched if line.startswith("sync fidelity")]
    if unlike is None:
        assert said == []
        assert "sync fidelity" in fairness.matched
    else:
        (line,) = said
        assert unlike in line
        assert 'rollout.sync = "merged"' in line


def test_a_preset_for_all_runs_replaces_that_of_the_base(open_written):
    comparison = open_written(
        FAIR, ["--settings.algorithm.preset", "gspo"], algorithm={"preset": "grpo"}
    )
    found = comparison.resolve("lora", 0, 1e-3).algorithm
    assert (found.ratio, found.clip_high, found.kl_beta) == ("sequence", 4e-4, 0.0)


def test_the_policy_of_all_runs_may_be_another_than_the_base_recipes(open_written, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    comparison = open_written(f'[settings.model]\npath = "{other}"\n[methods.lora]\n')
    assert comparison.resolve("lora", 0, 1e-3).model.path == str(other)
    assert comparison.model_path == str(other)


def test_a_warm_start_of_all_runs_replaces_the_base_recipes_path(write_comparison, tmp_path):
    warm = tmp_path / "warm.toml"  # beside the comparison, which names it
    warm.write_text("[data]\nnum_problems = 32\n[train]\nlr = 1e-3\n")
    path = write_comparison('[settings.model]\nsft_recipe = "warm.toml"\n[methods.lora]\n')
    comparison = open_comparison(path, [], warm_start=False)
    assert comparison.model_path is None
    model = comparison.resolve("lora", 0, 1e-3).model
    assert (model.path, model.sft_recipe) == (None, "warm.toml")


def test_a_policy_of_one_method_alone_is_refused(open_written, tmp_path):
    text = f'[methods.lora]\n[methods.lora.settings.model]\npath = "{tmp_path}"\n'
    with pytest.raises(ConfigError, match=r"all methods start from one policy; set settings\."):
        open_written(text).resolve("lora", 0, 1e-3)


def test_an_unknown_benchmark_is_refused_before_anything_runs(open_written):
    comparison = open_written(FAIR, ["--settings.eval.benchmarks", '["aime2024"]'])
    with pytest.raises(ConfigError, match="did you mean aime2"):
        comparison.resolve("lora", 0, 1e-3)


def test_runs_beside_each_other_cannot_share_servers(open_written):
    servers = {"engine": "vllm_server", "servers": ["http://127.0.0.1:9"]}
    comparison = open_written(FAIR, rollout=servers)
    assert comparison.resolve("lora", 0, 1e-3).rollout.servers
    comparison = open_written(FAIR + "[executor]\nparallel = 2\n", rollout=servers)
    with pytest.raises(ConfigError, match=r"holds the weights of one run; set executor\.parallel"):
        comparison.resolve("lora", 0, 1e-3)


UNFAIR = [
    (FAIR + "[methods.full.settings.rollout]\ngroup_size = 4\n", "rollout.group_size is 8"),
    ('[methods.lora]\nlr=1e-3\n[methods.dora]\nlr=2e-3\nsettings={adapter={target_modules=["q_proj"]}}',
     "modules: dora q_proj"),
    (FAIR + "seeds = [3, 4]\n", "seeds: full has [3, 4], not [0, 1]"),
    ("[methods.lora]\nlr=1e-3\n[methods.dora]\nlr=1e-3\n", "dora is given lora's 0.001"),
    (FAIR + "[methods.full.settings.train]\nsteps = 4\n", "train.steps is 2 for lora and 4"),
    (FAIR + "[methods.full.settings.optim]\nweight_decay = 0.1\n", "optim.weight_decay"),
    (FAIR + "[methods.full.settings.reward]\ncorrect = 2.0\n", "reward.correct"),
    (FAIR + "[methods.full.settings.rollout]\nmax_staleness = 0\n", "rollout.max_staleness is 4"),
    (FAIR + "[methods.full.settings.rollout]\nabort_stragglers = true\n",
     "rollout.abort_stragglers is False for lora and True for full"),
    (FAIR + '[settings.rollout]\nengine = "auto"\n'
     '[methods.full.settings.rollout]\nsync = "merged"\n', "rollout.sync is 'auto'"),
    (FAIR + '[methods.full.settings.rollout]\nengine = "vllm"\n', "rollout.engine is"),
    (FAIR + '[methods.full.settings.rollout]\nengine = "vllm"\nmode = "async"\n',
     "rollout.mode is 'sync' for lora and 'async' for full"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "reason"), UNFAIR, ids=[reason for _, reason in UNFAIR])
def test_an_unfair_one_is_refused_with_the_reason_unless_told_otherwise(open_written, text, reason):
    comparison = open_written(text)
    with pytest.raises(ConfigError, match="allow_unmatched") as error:
        refuse_unfair(examine(comparison), comparison)
    assert reason in str(error.value)
    told = open_written(text, ["--compare.allow_unmatched", "true"])
    fairness = examine(told)
    refuse_unfair(fairness, told)
    assert any(reason in line for line in fairness.unmatched)


def test_methods_that_go_on_from_a_saved_adapter_are_named_beside_those_that_do_not(
    open_written, tmp_path
):
    saved = AdapterConfig(method="lora", rank=4, seed=0)
    write_saved(object(), tmp_path, SavedPolicy(saved, "base", None, "float32"))
    start = f'[methods.lora.settings.adapter]\nstart_from = "{tmp_path}"\n'
    unfair = examine(open_written(FAIR + start)).unfair
    assert unfair == (f"start: lora goes on from {tmp_path}, full from the base",)
    assert "start" in examine(open_written(FAIR)).matched
    with pytest.raises(ConfigError, match=r"methods\.lora\.settings\.adapter\.start_from"):
        examine(open_written(FAIR, adapter={"start_from": str(tmp_path)}))


def test_stages_are_the_same_for_all_methods_and_those_that_a_short_run_comes_to(open_written):
    stages = [
        {"at_step": 1, "optim": {"lr": 1e-4}},
        {"at_step": 2, "rollout": {"temperature": 0.9}},
    ]
    comparison = open_written(FAIR, budget="steps = 3", stage=stages)
    assert "stages" in examine(comparison).matched
    numbers = [len(comparison.resolve("lora", 0, 1e-3, steps).stage) for steps in (1, 2, 3)]
    assert numbers == [0, 1, 2]


def keys_of(kind, prefix=""):
    """Every setting of a recipe, section by section, as the classes declare it."""
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys_of(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


KEYS = list(keys_of(TrainRecipe))


@pytest.mark.parametrize("key", KEYS)
def test_every_setting_of_a_recipe_is_either_compared_or_excused_with_a_reason(key):
    """Two labels that differ in this key alone."""
    first, second = dict.fromkeys(KEYS, 1), dict.fromkeys(KEYS, 1) | {key: 2}
    matched, unfair = _settings({"a": first, "b": second})
    section = key.partition(".")[0]
    excused = [name for name in MAY_DIFFER if name in (key, section)]
    if excused:
        assert unfair == []
        assert len(excused) == 1, "once"
        assert len(MAY_DIFFER[excused[0]]) > 10
    else:
        assert len(unfair) == 1
        assert unfair[0].endswith(f": {key} is 1 for a and 2 for b")
        assert MATCHED[section] not in matched


def test_nothing_is_excused_that_is_no_setting():
    assert set(MAY_DIFFER) <= set(KEYS) | set(TrainRecipe.model_fields)
    assert set(MATCHED) | {"adapter", "track", "run"} == set(TrainRecipe.model_fields)


@pytest.mark.parametrize(
    "key",
    ["mode", "max_staleness", "abort_stragglers", "engine", "sync", "top_p", "max_response_len"],
)
def test_how_responses_come_about_is_never_excused(key):
    assert may_differ(f"rollout.{key}") is None


def test_a_difference_in_memory_and_speed_is_fair_and_said(open_written):
    text = FAIR + "[methods.full.settings.train]\nactivation_checkpointing = 1\n"
    fairness = examine(open_written(text))
    assert fairness.unfair == ()
    assert "memory and speed: train.activation_checkpointing is 0 for lora and 1 for full" in (
        fairness.unmatched
    )


@pytest.mark.parametrize("path", sorted((ROOT / "recipes" / "compare").glob("*.toml")), ids=str)
def test_shipped_comparisons_are_fair_or_say_why_not(path):
    """In the settings that runs share; rates and parameters are the recipes' own subject."""
    comparison = open_comparison(path, [], warm_start=False)
    unfair = examine(replace(comparison, model_path=None)).unfair
    assert [reason for reason in unfair if not reason.startswith("lr: ")] == []


@pytest.mark.parametrize("size", ["1.5b", "7b"])
def test_the_comparisons_that_redo_the_study_are_scored_as_it_was(size):
    path = ROOT / "recipes" / "compare" / f"r1_distill_qwen_{size}_adapters.toml"
    recipe = open_comparison(path, [], warm_start=False).resolve("lora", 0, 1e-5)
    samples = {name: recipe.eval.samples_of(name) for name in recipe.eval.sets}
    small = dict.fromkeys(("aime24", "aime25", "amc23", "hmmt25"), 32)
    assert samples == small | {"heldout": 4, "minerva": 4}
    assert recipe.eval.path == "math500.jsonl"
    assert (recipe.eval_len, recipe.rollout.max_response_len) == (32_768, 16_384)


def test_a_rate_that_the_base_recipe_has_for_another_method_is_borrowed(
    write_comparison, open_written, tmp_path
):
    comparison = open_written("[methods.dora]\nlr = 1e-3\n[methods.lora]\n")
    base = tmp_path / "base.toml"
    base.write_text(base.read_text().replace("lr = 0.001", "lr = { lora = 1e-3, full = 1e-4 }"))
    again = open_comparison(comparison.path, [])
    assert "which the base recipe has for lora" in examine(again).unfair[0]


def test_matched_parameters_are_refused_where_they_are_not(open_written):
    comparison = open_written(FAIR, ["--compare.match", "parameters"])
    assert any(text.startswith("parameters:") for text in examine(comparison).unfair)
    same = open_written("[methods.lora]\nlr=1e-3\n[methods.pissa]\nlr=1e-4\n")
    assert "parameters" in examine(same).matched


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (FAIR, {"budget": "steps = 2\ntokens = 5"}, "exactly one of"),
        ("[methods.lora]\nlr = 'best'\n", {}, "methods.lora.lr"),
        ("[methods.lora]\n[prune]\nrungs = [4, 2]\n", {}, "ascending"),
        ("[methods.lora]\n[prune]\nrungs = [2]\n", {}, "must end below budget.steps"),
        ("[methods.lora]\n", {"budget": "tokens = 1e4"}, "find.steps"),
        ("[methods.loora]\nlr = 1e-3\n", {}, "did you mean lora"),
        ("[methods.full]\nrank = 8\nlr = 1e-3\n", {}, "full would ignore it"),
    ],
)
def test_a_recipe_that_cannot_work_exits_2_with_one_line(
    write_comparison, capsys, text, options, message
):
    assert main(["compare", str(write_comparison(text, **options)), "--plan"]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "rlvr: error" in line]
    assert len(errors) == 1
    assert message in errors[0]


def test_the_plan_prints_runs_and_what_is_matched_and_makes_nothing(
    write_comparison, capsys, tmp_path
):
    assert main(["compare", str(write_comparison(FAIR)), "--plan"]) == 0
    said = capsys.readouterr().out
    assert "cmp: 4 runs, 2 steps each" in said
    assert "hours: not known" in said
    assert "matched: base model, prompts, data order" in said
    assert "not matched: parameters: lora" in said
    assert not (tmp_path / "runs").exists()
