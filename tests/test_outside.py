"""What a stranger meets first: the index of the docs, the tree, named paths, the wheel."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import rlvr

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


@pytest.mark.slow
def test_a_wheel_has_the_version_the_types_the_licence_and_the_pages_of_reports(tmp_path):
    source = tmp_path / "source"
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    words = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run(
        [sys.executable, "-m", "pip", *words, "-w", tmp_path, source], check=True, cwd=tmp_path
    )
    (wheel,) = tmp_path.glob(f"rlvr-{rlvr.__version__}-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    wanted = [f"{name}/py.typed" for name in PACKAGES]
    wanted += [
        path.relative_to(ROOT).as_posix() for path in (ROOT / "rlvr/report/assets").iterdir()
    ]
    assert set(wanted) <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
