import subprocess
import sys

import pytest

from rlvr.algorithm.advantage import ESTIMATORS
from rlvr.cli import main
from rlvr.common.errors import ConfigError
from rlvr.config.presets import PRESETS
from rlvr.config.rules import cautions
from rlvr.config.toml import dump_toml, load_recipe, validate
from rlvr.config.train import TrainRecipe

BAD = [
    (
        ["--rollout.group_siz", "4"],
        "rollout.group_siz: unknown setting; did you mean rollout.group_s",
    ),
    (["--rolout.group_size", "4"], "rolout: unknown setting; did you mean rollout"),
    (["--lr", "4"], "--lr: settings are named --section.key; did you mean optim.lr?"),
    (["--rollout.group_size", "1"], "rollout.group_size = 1: advantages need at least 2 responses"),
    (["--optim.lr", "-1"], "optim.lr = -1: must lie in (0, 1]"),
    (["--optim.lr", "fast"], "optim.lr = 'fast'"),
    (["--optim.lr"], "--optim.lr: a value is missing"),
    (["--algorithm.preset", "gpro"], "algorithm.preset = 'gpro'"),
    (["--rollout.top_p", "0.9"], "biased when sampling is truncated"),
    (
        ["--rollout.top_p", "0.9", "--algorithm.mismatch", "none"],
        "rollout.max_staleness = 4: responses of older weights",
    ),
    (
        [
            "--algorithm.ratio",
            "sequence",
            "--algorithm.mismatch",
            "none",
            "--model.dtype",
            "bfloat16",
        ],
        'algorithm.mismatch = "none": algorithm.ratio = "sequence"',
    ),
    (["--algorithm.advantage", "batch", "--sampling.dynamic", "true"], "sampling.dynamic = true"),
    (["--rollout.mode", "async", "--rollout.max_staleness", "0"], "set it to 1 or more"),
    (["--rollout.partial", "true", "--rollout.max_staleness", "0"], "set it to 1 or more"),
    (
        [
            *("--rollout.partial", "true", "--rollout.max_staleness", "1"),
            *("--rollout.mode", "async", "--rollout.engine", "vllm"),
        ],
        "set it to 2 or more",
    ),
    (
        ["--rollout.partial", "true", "--rollout.abort_stragglers", "true"],
        "rollout.partial keeps the responses that it would abort",
    ),
    (
        [
            *("--rollout.engine", "auto", "--rollout.mode", "async"),
            *("--rollout.tensor_parallel_size", "2"),
        ],
        '"async": not with rollout.tensor_parallel_size = 2',
    ),
    (
        ["--rollout.abort_stragglers", "true", "--sampling.dynamic", "false"],
        "rollout.abort_stragglers = true",
    ),
    (["--rollout.sleep", "true"], "rollout.sleep = true: "),
    (
        ["--rollout.sleep", "true", "--rollout.mode", "async", "--rollout.engine", "vllm"],
        "while the policy is trained",
    ),
    (["--adapter.dropout", "0.05"], "adapter.dropout = 0.05"),
    (["--rollout.max_response_len", "160"], "leaves no room for a prompt"),
    (["--model.sft_recipe", "x.toml"], "give exactly one of model.path and model.sft_recipe"),
    (["--optim.updates_per_step", "5"], "more than rollout.prompts_per_step = 2"),
    (["--reward.overlong", "penalty"], "reward.overlong_cache_len = 0"),
    (["--reward.correct", "0"], "must be above reward.incorrect"),
    (
        ["--eval.every", "5"],
        "eval.every = 5: would be ignored without eval.path and eval.benchmarks",
    ),
    (["--data.prompt_template", "Solve it."], "lacks {problem}"),
    (["optim.lr", "1"], "optim.lr: expected --section.key value"),
]


@pytest.mark.parametrize(("overrides", "message"), BAD, ids=[" ".join(o) for o, _ in BAD])
def test_a_wrong_setting_gives_one_line_that_names_it(write_recipe, overrides, message):
    with pytest.raises(ConfigError) as caught:
        load_recipe(write_recipe(), overrides, TrainRecipe)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_setting_and_a_missing_recipe_say_what_to_add(recipe_tree, tmp_path):
    tree = recipe_tree()
    del tree["optim"]["lr"]
    with pytest.raises(ConfigError, match=r"optim.lr: missing"):
        validate(tree, TrainRecipe)
    with pytest.raises(ConfigError, match="no such recipe"):
        load_recipe(tmp_path / "none.toml", [], TrainRecipe)
    (tmp_path / "broken.toml").write_text("[optim\n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_recipe(tmp_path / "broken.toml", [], TrainRecipe)


def test_a_resolved_recipe_reads_back_equal(make_recipe, tmp_path):
    recipe = make_recipe(data={"prompt_template": 'Say "{problem}"\n\tin \\boxed{{}} \x7f é'})
    (tmp_path / "config.toml").write_text(dump_toml(recipe))
    assert load_recipe(tmp_path / "config.toml", [], TrainRecipe) == recipe


def test_a_preset_fills_only_what_is_not_given(make_recipe):
    grpo = make_recipe(algorithm={"preset": "grpo", "clip_high": 0.3}).algorithm
    assert (grpo.aggregation, grpo.kl_beta, grpo.clip_high) == ("response_mean", 0.04, 0.3)
    assert make_recipe().algorithm.aggregation == "token_mean"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("ratio", ["sequence", "sequence_token", "trajectory"])
def test_ratios_of_whole_responses_against_a_rounding_engine_are_refused(make_recipe, ratio, dtype):
    rough = {"model": {"dtype": dtype}, "algorithm": {"ratio": ratio, "mismatch": "none"}}
    for keeps in ({"sampling": {"dynamic": True}}, {"rollout": {"mode": "async"}}):
        with pytest.raises(ConfigError, match=r"set it to \"tis\", or rollout\.max_staleness to 0"):
            make_recipe(**rough, **keeps)
    fresh = {"rollout": {"max_staleness": 0}, "optim": {"updates_per_step": 2}}
    make_recipe(**rough, **fresh)
    make_recipe(**rough | {"algorithm": {"ratio": ratio}})
    make_recipe(**rough | {"algorithm": {"mismatch": "none"}})
    make_recipe(**rough | {"model": {"dtype": "float32"}})


@pytest.mark.parametrize("preset", PRESETS)
def test_only_an_advantage_over_the_whole_step_turns_dynamic_sampling_off(make_recipe, preset):
    section = {"preset": preset}
    batch = PRESETS[preset]["advantage"] == "batch"
    assert make_recipe(algorithm=section).sampling.dynamic == (not batch)
    assert not make_recipe(algorithm=section | {"advantage": "batch"}).sampling.dynamic
    assert make_recipe(algorithm=section | {"advantage": "batch_std"}).sampling.dynamic


@pytest.mark.process
def test_small_shaping_weights_that_train_loudly_are_said_once_when_a_run_starts(
    write_recipe, capsys
):
    reward = {"length_weight": 0.001, "format_weight": 0.2}
    missing = {"path": "/nowhere/at/all"}
    assert main(["train", str(write_recipe(reward=reward, model=missing))]) == 2
    said = capsys.readouterr().err
    assert said.count("caution: ") == 1
    assert "reward.format_weight = 0.2, reward.length_weight = 0.001: algorithm.advan" in said


LOUD, REFUSED = {"group_std", "pass_at_k"}, {"over_mean", "none"}


@pytest.mark.parametrize("advantage", sorted(set(ESTIMATORS) - LOUD - REFUSED))
def test_shaping_under_an_advantage_that_keeps_its_proportion_needs_no_caution(
    make_recipe, advantage
):
    shaped = {"repetition_weight": 0.1}
    recipe = make_recipe(reward=shaped, algorithm={"advantage": advantage})
    assert not list(cautions(recipe))
    assert not list(cautions(make_recipe()))
    assert len(list(cautions(make_recipe(reward=shaped)))) == 1


def test_overrides_win_over_the_recipe_and_keep_their_types(write_recipe):
    words = ["--optim.lr", "1e-5", "--run.name=b", "--adapter.target_modules", '["q_proj"]']
    recipe = load_recipe(write_recipe(), words, TrainRecipe)
    assert (recipe.optim.lr, recipe.run.name) == (1e-5, "b")
    assert recipe.adapter.target_modules == ("q_proj",)


@pytest.mark.parametrize("module", ["rewards", "rlvr.config.train", "rlvr.config.toml"])
@pytest.mark.process
def test_light_modules_load_no_torch(module):
    code = f"import sys, {module}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.process
def test_help_answers_before_anything_large_is_imported():
    program = (
        "import atexit, sys; from rlvr.cli import main\n"
        "atexit.register(lambda: print(len(sys.modules), file=sys.stderr))\n"
        "main(['--help'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "rlvr" in done.stdout
    assert int(done.stderr) < 200  # pydantic alone brings 150, torch 2,000


def test_a_removed_setting_is_ignored_at_the_value_that_changed_nothing(make_recipe):
    tree = make_recipe(adapter={"method": "lora", "rank": 4}).model_dump(exclude_unset=True)
    tree["adapter"]["emulate_inplace_merge"] = False
    assert validate(tree, TrainRecipe).adapter.rank == 4
    tree["adapter"]["emulate_inplace_merge"] = True
    message = r"adapter\.emulate_inplace_merge = True: .*remove it; .*svd_control"
    with pytest.raises(ConfigError, match=message):
        validate(tree, TrainRecipe)


def test_every_shipped_recipe_is_valid(pytestconfig):
    recipes = [
        path
        for path in (pytestconfig.rootpath / "recipes").glob("*.toml")
        if not path.name.endswith("_sft.toml")
    ]
    assert recipes
    for path in recipes:
        load_recipe(path, [], TrainRecipe)
