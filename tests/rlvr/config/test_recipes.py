"""The recipes of the package are found by the paths of the documentation, in any folder."""

from pathlib import Path

import pytest

from rlvr.cli import main
from rlvr.config.recipes import find_recipe

ROOT = Path(__file__).parents[3]


def test_a_documented_path_names_the_packages_recipe_in_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = find_recipe("recipes/compare/quickstart_lr.toml")
    assert found.samefile(ROOT / "recipes/compare/quickstart_lr.toml")
    for other in ("quickstart.toml", "recipes/none.toml", "recipes", "runs/quickstart.toml"):
        assert find_recipe(other) == Path(other)


def test_a_file_that_is_there_comes_before_the_packages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = Path("recipes/quickstart.toml")
    own.parent.mkdir()
    own.touch()
    assert find_recipe(own) == own


def test_the_list_has_every_recipe_with_its_first_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    named = [line for line in lines if not line.startswith(" ")]
    wanted = sorted((ROOT / "recipes").rglob("*.toml"))
    assert named == [str(path.relative_to(ROOT)) for path in wanted]
    assert all(lines[lines.index(name) + 1].startswith("  ") for name in named)
    assert max(map(len, lines)) <= 80
    for name in named:
        assert find_recipe(name).is_file()


def test_a_copy_is_whole_its_scripts_run_and_nothing_is_overwritten(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["recipes", "--copy"]) == 0
    copied = {path.relative_to(tmp_path): path for path in Path.cwd().rglob("*.*")}
    assert copied.keys() == {path.relative_to(ROOT) for path in (ROOT / "recipes").rglob("*.*")}
    for name, path in copied.items():
        assert path.read_bytes() == (ROOT / name).read_bytes()
        assert path.stat().st_mode == (ROOT / name).stat().st_mode
    assert main(["recipes", "--copy"]) == 2
    assert "recipes: is there already" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "sft", "serve", "doctor", "compare"])
def test_every_command_says_where_recipes_are_listed(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([command, "recipes/none.toml"]) == 2
    error = capsys.readouterr().err
    assert "recipes/none.toml: no such recipe; `rlvr recipes` lists those" in error
