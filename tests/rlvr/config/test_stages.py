"""Stages of a recipe: what each makes of it, what cannot change, and the way to a file and back."""

import tomllib

import pytest

from rlvr.common.errors import ConfigError
from rlvr.config.stages import MAY_CHANGE, WHY_NOT
from rlvr.config.toml import dump_toml, validate
from rlvr.config.train import TrainRecipe
from rlvr.data.absolute_paths import absolute
from rlvr.runs.reader import RunData
from tests.rlvr.config.test_needs import keys_of

RECIPE = """
[model]
path = "policy"
max_len = 200
[data]
path = "rows.jsonl"
[optim]
lr = 1e-3
[train]
steps = 10
[rollout]
max_response_len = 32
"""


def recipe_of(stages: str, more: str = "") -> TrainRecipe:
    return validate(tomllib.loads(RECIPE + more + stages), TrainRecipe)


TWO = """
[[stage]]
at_step = 3
rollout.max_response_len = 64
data.path = "b.jsonl"
[[stage]]
at_step = 5
optim.lr = 1e-4
reset_optimizer = true
"""


def test_a_stage_changes_what_it_names_and_later_ones_keep_it():
    recipe = recipe_of(TWO)
    stages = [recipe.in_stage(number) for number in range(3)]
    assert [one.rollout.max_response_len for one in stages] == [32, 64, 64]
    assert [one.data.path for one in stages] == ["rows.jsonl", "b.jsonl", "b.jsonl"]
    assert [one.optim.lr for one in stages] == [1e-3, 1e-3, 1e-4]
    assert all(one.stage == () and one.train == recipe.train for one in stages)
    assert [(one.reset_reference, one.reset_optimizer) for one in recipe.stage] == [
        (False, False),
        (False, True),
    ]


def test_a_recipe_with_stages_is_written_and_read_back(tmp_path, monkeypatch):
    recipe = recipe_of(TWO)
    assert validate(tomllib.loads(dump_toml(recipe)), TrainRecipe) == recipe
    (tmp_path / "b.jsonl").touch()
    monkeypatch.chdir(tmp_path)
    found = absolute(recipe)
    assert found.in_stage(1).data.path == str(tmp_path / "b.jsonl")
    assert found.in_stage(2).optim == recipe.in_stage(2).optim


BAD = [
    ("rollout.temperature = 0.5", "at_step: missing"),
    ("at_step = 0\nrollout.temperature = 0.5", "at_step = 0"),
    ("at_step = 10\nrollout.temperature = 0.5", "ascending steps below train.steps = 10"),
    ("at_step = 3", "changes nothing; remove it"),
    ("at_step = 3\ntemperature = 0.5", "stage.temperature: unknown setting"),
    ("at_step = 3\nrollout.tempature = 0.5", "rollout.tempature = 0.5: unknown setting"),
    ('at_step = 3\nrollout.temperature = "hot"', "at step 3: rollout.temperature = 'hot'"),
    ("at_step = 3\nmodel.max_len = 300", "policy and engine are loaded once"),
    ("at_step = 3\nadapter.rank = 8", "start a new run with adapter.start_from"),
    ('at_step = 3\nrollout.engine = "vllm"', "the engine is started once"),
    ('at_step = 3\ndata.chat_template = "x.jinja"', "in different formats"),
    ("at_step = 3\nrollout.max_response_len = 300", "no room for a prompt in model.max_len = 200"),
    ("at_step = 3\nreward.overlong_cache_len = 9", "would be ignored"),
    ("at_step = 3\nreset_reference = true", "has no reference policy"),
]


@pytest.mark.parametrize(("stage", "message"), BAD)
def test_a_stage_that_cannot_be_is_refused_in_one_line(stage, message):
    with pytest.raises(ConfigError) as error:
        recipe_of(f"[[stage]]\n{stage}\n")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_evaluations_keep_their_length_through_the_stages():
    longer = "[[stage]]\nat_step = 3\nrollout.max_response_len = 64\n"
    evaluated = '[eval]\nbenchmarks = ["aime24"]\n'
    with pytest.raises(ConfigError, match=r"set eval\.max_len"):
        recipe_of(longer, evaluated)
    recipe = recipe_of(longer, f"{evaluated}max_len = 64\n")
    assert recipe.in_stage(1).eval_len == recipe.eval_len == 64


def test_the_tables_name_settings_that_there_are():
    assert set(WHY_NOT) | {"stage"} == set(TrainRecipe.model_fields)
    assert set(keys_of(TrainRecipe)) >= MAY_CHANGE


@pytest.mark.parametrize(("last", "longest", "lr"), [(3, 32, 1e-3), (4, 64, 1e-3), (6, 64, 1e-4)])
def test_a_report_shows_the_settings_in_force_at_the_last_step(last, longest, lr):
    config = tomllib.loads(dump_toml(recipe_of(TWO)))
    run = RunData("run", [{"step": step} for step in range(1, last + 1)], config)
    assert run.setting("rollout.max_response_len") == longest
    assert run.setting("optim.lr") == lr
    assert run.setting("model.max_len") == 200
