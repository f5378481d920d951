"""Functions of the user's own: found, checked, and used where a built-in part stands."""

from __future__ import annotations

import sys

import pytest
import torch

from rlvr.algorithm.advantage import advantages
from rlvr.algorithm.surrogate import RowLayout, surrogate
from rlvr.common.errors import ConfigError, RunError
from rlvr.common.own_code import check_call, is_own, load_own, own_facts
from rlvr.config.algorithm import AlgorithmConfig
from rlvr.config.toml import dump_toml, load_recipe, validate
from rlvr.config.train import DataConfig, TrainRecipe, own_functions
from rlvr.data.absolute_paths import absolute
from rlvr.data.problems import load_problems
from rlvr.training.preflight import check
from tests.rlvr.cases import make_recipe

SOURCE = """
import torch
from beside import SCALE
from json import loads

def scaled(rewards, lengths):
    return [SCALE * (one - one.mean()) for one in rewards]

def lists(rewards, lengths):
    return [[2.0] * len(one) for one in rewards]

def too_short(rewards, lengths):
    return [one[:1] for one in rewards]

def infinite(rewards, lengths):
    return [one / 0 for one in rewards]

def token(log_ratio_T, layout):
    return log_ratio_T

def mean(log_ratio_T, layout):
    return log_ratio_T.mean()

def plain(inputs, config):
    ratio_T = inputs.log_ratio_T.exp()
    high = 1 + config.clip_high
    return ratio_T.clamp(max=high) * inputs.advantage_T, ratio_T > high

def rows():
    yield {"problem": "What is 1 + 1?", "answer": "2"}

def no_rows():
    yield ["What is 1 + 1?", "2"]
"""


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch) -> str:
    """The start of import paths into a file that imports another beside it; a module of its own."""
    name = f"own_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(SOURCE)
    (tmp_path / "beside.py").write_text("SCALE = 3.0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "beside", raising=False)
    return name


REWARDS, LENGTHS = [[1.0, 0.0, 2.0]], [[3, 4, 5]]


def test_a_file_and_a_module_of_the_current_folder_are_found(own):
    for name in (f"{own}.py:scaled", f"{own}:scaled"):
        assert advantages(REWARDS, LENGTHS, name) == [[0.0, -3.0, 3.0]]
    assert advantages(REWARDS, LENGTHS, f"{own}.py:lists") == [[2.0] * 3]


def test_the_unjudged_stay_outside_of_a_function_of_ones_own(own):
    found = advantages(REWARDS, LENGTHS, f"{own}.py:scaled", [[True, False, True]])
    assert found == [[-1.5, 0.0, 1.5]]


@pytest.mark.parametrize("part", ["too_short", "infinite"])
def test_what_is_no_advantage_ends_the_run(own, part):
    with pytest.raises(RunError, match=r"algorithm.advantage = .*: gave"):
        advantages(REWARDS, LENGTHS, f"{own}.py:{part}")


def of_tokens(**parts: str) -> tuple[torch.Tensor, torch.Tensor]:
    config = AlgorithmConfig(clip_high=0.2, clip_low=1.0, **parts)
    logp_T = torch.tensor([0.1, 0.3, -0.4], requires_grad=True)
    layout = RowLayout.of(torch.tensor([2, 1]))
    return surrogate(logp_T, torch.zeros(3), torch.tensor([1.0, 1.0, -1.0]), layout, config)


def test_a_ratio_and_a_clip_rule_stand_where_the_built_in_ones_do(own):
    for ours, theirs in zip(
        of_tokens(ratio=f"{own}.py:token", clip=f"{own}.py:plain"), of_tokens(), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_a_shape_that_would_be_broadcast_ends_the_run(own):
    with pytest.raises(RunError, match=r"algorithm.ratio = .*shape \[\], not \[3\]"):
        of_tokens(ratio=f"{own}.py:mean")


def test_a_function_gives_the_problems_and_what_is_no_row_is_refused(own):
    data = load_problems(DataConfig(path=f"{own}.py:rows"))
    assert [problem.answer for problem in data.problems] == ["2"]
    with pytest.raises(ConfigError, match="row 1 is a list, not a dict"):
        load_problems(DataConfig(path=f"{own}.py:no_rows"))
    with pytest.raises(ConfigError, match=r"data.split = 'x': a function of your own has none"):
        load_problems(DataConfig(path=f"{own}.py:rows", split="x"))


PARTS = {"advantage": "scaled", "ratio": "token", "clip": "plain"}


def test_a_recipe_takes_them_keeps_them_and_names_them(own, tmp_path):
    algorithm = {key: f"{own}.py:{name}" for key, name in PARTS.items()} | {"clip_high": 0.3}
    given = make_recipe(algorithm=algorithm, data={"path": f"{own}.py:rows"})
    check(given)
    kept = absolute(given)
    (tmp_path / "config.toml").write_text(dump_toml(kept))
    assert load_recipe(tmp_path / "config.toml", [], TrainRecipe) == validate(
        kept.model_dump(mode="json", exclude_unset=True), TrainRecipe
    )
    file = tmp_path / f"{own}.py"
    names = {f"algorithm.{key}": f"{file}:{name}" for key, name in PARTS.items()}
    assert own_functions(kept) == names | {"data.path": f"{file}:rows"}


REFUSED = {
    "called with (rewards, lengths)": {"algorithm": {"advantage": "{own}.py:rows"}},
    "called with (log_ratio_T, layout)": {"algorithm": {"ratio": "{own}.py:rows"}},
    "called with (inputs, config)": {"algorithm": {"clip": "{own}.py:rows"}},
    "called with ()": {"data": {"path": "{own}.py:token"}},
    "has no function none; it has": {"algorithm": {"clip": "{own}:none"}},
}


@pytest.mark.parametrize(("message", "sections"), REFUSED.items(), ids=REFUSED)
def test_what_cannot_be_called_is_refused_before_anything_loads(own, message, sections):
    filled = {
        section: {key: value.format(own=own) for key, value in values.items()}
        for section, values in sections.items()
    }
    with pytest.raises(ConfigError) as error:
        check(make_recipe(**filled))
    assert message in str(error.value)


def test_a_module_that_raises_is_refused_with_its_error(tmp_path):
    (tmp_path / "broken.py").write_text("1 / 0\n")
    with pytest.raises(ConfigError, match="importing it fails: ZeroDivisionError"):
        load_own("broken.py:f")
    (tmp_path / "needs.py").write_text("import no_such_package\n")
    with pytest.raises(ConfigError, match="importing it fails: No module named 'no_such_package'"):
        load_own("needs.py:f")


def test_a_name_that_is_neither_listed_nor_a_path_is_refused_as_before():
    with pytest.raises(ConfigError, match=r"algorithm.clip = 'pppo': input should be 'ppo', "):
        make_recipe(algorithm={"clip": "pppo"})
    assert not any(map(is_own, ("ppo", "s3://a:b/c", "a b:c", "a:b.c", "a:")))


def test_the_facts_have_the_files_that_define_the_function(own, tmp_path):
    facts = own_facts(f"{own}.py:loads")
    assert len(facts["files"]) == 2, "the file that names it, and the one that has it"
    before = own_facts(f"{own}.py:scaled")["sha256"]
    (tmp_path / f"{own}.py").write_text(SOURCE + "\n")
    assert own_facts(f"{own}.py:scaled")["sha256"] != before


def test_check_call_takes_what_can_be_called(own):
    check_call(f"{own}.py:scaled", "rewards", "lengths")
