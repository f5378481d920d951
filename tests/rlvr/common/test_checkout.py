"""Where an installed package and a checkout keep their caches, and whose commit a run records."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
ASK = """
import json
from rlvr.common.checkout import cache_dir, git_commit
print(json.dumps([str(cache_dir()), git_commit()]))
"""


def ask(folder: Path, code: str = ASK, **env: str) -> list[str | None]:
    """(cache folder, commit) that the package in the folder reports, with these variables."""
    kept = {k: v for k, v in os.environ.items() if k not in ("RLVR_CACHE", "XDG_CACHE_HOME")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder.parent.parent,
        env=kept | {"PYTHONPATH": str(folder), "HOME": "/nowhere"} | env,
    )
    return json.loads(done.stdout.splitlines()[-1])


def git(folder: Path, *words: str) -> str:
    settings = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *settings, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def copy_packages(folder: Path, project: bool) -> Path:
    """The packages as a wheel has them, or with the project's file beside them."""
    for name in ("rlvr", "rewards", "eval"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    if project:
        shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """Somebody's repository with one commit and a file pyproject.toml of its own."""
    folder = tmp_path_factory.mktemp("theirs")
    git(folder, "init", "-q")
    (folder / "pyproject.toml").write_text('[project]\nname = "theirs"\n')
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "theirs")
    return folder


def test_an_installed_package_caches_for_its_user_and_records_no_commit_of_the_repository_around(
    repository,
):
    site = copy_packages(repository / "venv" / "site-packages", project=False)
    assert ask(site) == ["/nowhere/.cache/rlvr", None]
    assert ask(site, XDG_CACHE_HOME="/xdg")[0] == "/xdg/rlvr"
    assert ask(site, XDG_CACHE_HOME="relative")[0] == "/nowhere/.cache/rlvr"
    assert ask(site, XDG_CACHE_HOME="/xdg", RLVR_CACHE="/mine")[0] == "/mine"


def test_a_checkout_caches_in_itself_and_records_its_commit(repository, tmp_path):
    folder = copy_packages(tmp_path / "a" / "checkout", project=True)
    assert ask(folder, XDG_CACHE_HOME="/xdg") == [str(folder / ".cache" / "rlvr"), None]
    git(folder, "init", "-q")
    assert ask(folder)[1] is None, "no commit yet"
    git(folder, "add", "pyproject.toml")
    git(folder, "commit", "-qm", "ours")
    ours = git(folder, "rev-parse", "HEAD")
    assert ask(folder)[1] == ours
    assert ask(folder, GIT_DIR=str(repository / ".git"))[1] == ours, "as in a hook of theirs"
    assert ask(folder, PATH="/nowhere")[1] is None, "no git at all"


def test_a_copy_of_the_project_inside_another_repository_records_no_commit(repository):
    folder = copy_packages(repository / "vendor" / "rlvr", project=True)
    assert ask(folder) == [str(folder / ".cache" / "rlvr"), None]
