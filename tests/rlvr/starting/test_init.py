"""`rlvr init` writes a recipe that a plan takes, and nothing where it cannot."""

from __future__ import annotations

import io
import json
import sys
import tomllib
from pathlib import Path

import pytest

from rlvr.cli import main
from rlvr.config.toml import load_recipe
from rlvr.config.train import TrainRecipe

QWEN = ("--model", "Qwen/Qwen2.5-0.5B-Instruct", "--data", "problems.csv")
WAYS = {
    "the quickstart": ("--gpu", "cpu"),
    "a file": (*QWEN, "--gpu", "1xH100"),
    "a method": (*QWEN, "--gpu", "1xL4", "--method", "dora"),
    "all weights": (*QWEN, "--gpu", "8xH100", "--method", "full"),
    "a hub dataset": (*QWEN[:3], "some/problems", "--gpu", "H200"),
    "a quoted path": ("--model", 'a "model"', "--data", "problems.csv", "--gpu", "cpu"),
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    Path("problems.csv").write_text("question,answer\nWhat is 1 + 1?,2\n")
    return tmp_path


@pytest.mark.parametrize("words", WAYS.values(), ids=WAYS)
def test_the_recipe_is_valid_and_no_setting_repeats_a_default(words):
    assert main(["init", "mine", *words]) == 0
    recipe = load_recipe("mine.toml", [], TrainRecipe)
    for section, settings in tomllib.loads(Path("mine.toml").read_text()).items():
        fields = type(getattr(recipe, section)).model_fields
        for name, value in settings.items():
            assert fields[name].is_required() or fields[name].default != value, name


@pytest.mark.parametrize("way", ["a file", "a method", "all weights"])
def test_the_plan_takes_the_recipe_and_its_hardware(way, capsys):
    assert main(["init", "mine", *WAYS[way]]) == 0
    capsys.readouterr()
    assert main(["plan", "mine.toml", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["fits"]
    assert f"{plan['devices']}x{plan['device']}" in WAYS[way]


def test_the_fields_of_a_file_are_found(capsys):
    main(["init", "mine", *WAYS["a file"]])
    recipe = load_recipe("mine.toml", [], TrainRecipe)
    assert (recipe.data.problem_field, recipe.data.answer_field) == ("question", "answer")


def test_on_a_terminal_it_asks_for_what_is_not_given(monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal("\nproblems.csv\nfull\n"))
    assert main(["init", "mine", "--gpu", "cpu"]) == 0
    recipe = load_recipe("mine.toml", [], TrainRecipe)
    assert recipe.model.sft_recipe == "recipes/quickstart_sft.toml"
    assert (recipe.data.path, recipe.adapter.method) == ("problems.csv", "full")
    asked = [line.split(":")[0] for line in capsys.readouterr().err.splitlines()]
    assert asked == ["model", "data", "method"]


REFUSED = {
    "mine.toml: is there already": ("--gpu", "cpu"),
    "'8xNone': give COUNTxNAME": ("--gpu", "8xNone"),
    "'lorra': unknown; did you mean lora": ("--gpu", "cpu", "--method", "lorra"),
    "has no field problem or question": ("--gpu", "cpu", "--data", "odd.csv"),
}


@pytest.mark.parametrize(("message", "words"), REFUSED.items(), ids=REFUSED)
def test_what_cannot_work_is_refused_and_nothing_is_written(message, words, folder, capsys):
    Path("odd.csv").write_text("a,b\n1,2\n")
    if "already" in message:
        Path("mine.toml").write_text("# precious\n")
    before = {path: path.read_text() for path in folder.iterdir()}
    assert main(["init", "mine", *words]) == 2
    assert message in capsys.readouterr().err
    assert {path: path.read_text() for path in folder.iterdir()} == before
