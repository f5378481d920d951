"""What a stranger meets first: the index of the docs, the tree, named paths, the wheel."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import rlvr
from rlvr.common.checkout import cache_dir

ROOT = Path(__file__).parents[1]
PACKAGES = ("rlvr", "rewards", "eval")


def test_the_index_of_the_documentation_names_every_page_once():
    named = re.findall(r"\[([\w.-]+\.md)\]", (ROOT / "docs/README.md").read_text())
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert sorted(named) == sorted(pages)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/README.md"])
def test_every_file_that_a_page_names_is_there(page):
    text = (ROOT / page).read_text()
    named = re.findall(r"`((?:rlvr|rewards|eval|tests|recipes|examples|docs)/[\w./]*)`", text)
    linked = re.findall(r"\]\(([\w./-]+)\)", text)
    paths = [ROOT / name for name in named if not name.endswith("_N.json")]  # of a run folder
    paths += [(ROOT / page).parent / name for name in linked]
    assert paths
    assert [path for path in paths if not path.exists()] == []


def test_the_licence_is_the_text_of_apache_2():
    digest = hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest()
    assert digest == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


def test_the_newest_section_of_the_changelog_is_of_this_version():
    newest = re.search(r"^## (\S+), \d{4}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert newest is not None
    assert newest[1] == rlvr.__version__


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel that pip builds of a copy of the checkout, which keeps its build out of here."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in (*PACKAGES, "recipes"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    words = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run(
        [sys.executable, "-m", "pip", *words, "-w", folder, source], check=True, cwd=folder
    )
    return next(folder.glob(f"rlvr-{rlvr.__version__}-*.whl"))


@pytest.mark.slow
def test_a_wheel_has_the_types_the_licence_the_recipes_and_the_pages_of_reports(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    wanted = [f"{name}/py.typed" for name in PACKAGES]
    wanted += [
        path.relative_to(ROOT).as_posix() for path in (ROOT / "rlvr/report/assets").iterdir()
    ]
    wanted += [f"rlvr/{path.relative_to(ROOT)}" for path in (ROOT / "recipes").rglob("*.*")]
    assert set(wanted) <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The programs of a fresh environment with the wheel in it. What rlvr depends on is not loaded
    again, which takes minutes: a .pth file leads to the packages of the environment at hand, but
    not to its own rlvr, whose .pth file counts only in its own folder."""
    folder = tmp_path_factory.mktemp("fresh")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    programs = folder / "bin"
    words = ["install", "--quiet", "--no-deps", "--no-index", wheel]
    pip = [sys.executable, "-m", "pip", "--python", programs / "python"]
    subprocess.run([*pip, *words], check=True, cwd=folder)
    site = sysconfig.get_path("purelib", vars={"base": str(folder)})
    (Path(site) / "packages.pth").write_text(sysconfig.get_path("purelib"))
    return programs


@pytest.fixture
def run(installed, tmp_path) -> Callable[..., str]:
    """Runs a program of the fresh environment in an empty folder, for a user with an empty home
    whose cache folder is tmp_path/cache; its standard output."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "RLVR_CACHE")}
    env = kept | {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    empty = tmp_path / "empty"
    empty.mkdir()

    def run(program: str, *words: str) -> str:
        command = [installed / program, *words]
        return subprocess.run(
            command, check=True, capture_output=True, text=True, cwd=empty, env=env
        ).stdout

    return run


@pytest.mark.slow
def test_an_installed_wheel_lists_plans_and_trains_by_the_documented_paths(run, tmp_path):
    where = run("python", "-c", "import rlvr, rewards, eval; print(rlvr.__file__)")
    assert "fresh" in where
    assert "train" in run("rlvr", "--help")
    assert "recipes/quickstart.toml" in run("rlvr", "recipes").splitlines()
    made = cache_dir() / "sft"
    if made.is_dir():  # else the warm start is made here, which takes minutes
        shutil.copytree(made, tmp_path / "cache/rlvr/sft")
    plan = run("rlvr", "plan", "recipes/quickstart.toml", "--gpus", "1xH100", "--json")
    assert json.loads(plan)["fits"]
    settings = "--rollout.engine transformers --train.steps 2 --eval.limit 8 --run.name two"
    run("rlvr", "train", "recipes/quickstart.toml", *settings.split())
    run("rlvr", "init", "mine", "--gpu", "cpu")
    run("rlvr", "train", "mine.toml", *settings.replace("two", "own").split())
    folder = tmp_path / "empty/runs/two"
    assert json.loads((folder / "summary.json").read_text())["steps"] == 2
    manifest = json.loads((folder / "manifest.json").read_text())
    assert str(tmp_path / "cache/rlvr/sft") in json.dumps(manifest)
    assert {path.name for path in (tmp_path / "empty").iterdir()} == {"runs", "mine.toml"}
