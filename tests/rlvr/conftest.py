"""A tiny random policy as an ordinary transformers folder, and recipes that use it."""

import functools
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rlvr.common.log import to_stderr
from rlvr.config.toml import validate
from rlvr.config.train import TrainRecipe
from tests.rlvr import small
from tests.waiting import HANG_S


@pytest.fixture(scope="session", autouse=True)
def messages_on_stderr() -> Iterator[None]:
    """Messages of code under test go where the command line sends them."""
    with to_stderr():
        yield


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory) -> Path:
    """Folder of a random Qwen2 of 0.6 M parameters with the quickstart's tokenizer."""
    return small.write_policy(tmp_path_factory.mktemp("tiny_policy"))


@pytest.fixture(scope="session")
def real_logits_policy(tmp_path_factory) -> Path:
    """The tiny policy with logits as large as a pretrained model's, where rounding shows."""
    return small.write_policy(tmp_path_factory.mktemp("real_logits_policy"), logit_std=6.0)


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory) -> Callable[[str], Path]:
    """The folder of a family's model (`tests.rlvr.families`), made once."""
    from tests.rlvr.families import write_family

    return functools.cache(lambda family: write_family(family, tmp_path_factory.mktemp(family)))


@pytest.fixture(scope="session")
def digit_problems(tmp_path_factory) -> Path:
    """Problems with one-digit answers: a random policy hits one now and then as its last number."""
    return small.write_problems(tmp_path_factory.mktemp("data") / "digits.jsonl")


@pytest.fixture(scope="session")
def recipe_tree(tiny_policy, digit_problems) -> Callable[..., dict[str, Any]]:
    """Nested dicts of a small recipe; keyword arguments replace or add keys of sections."""

    return functools.partial(small.recipe_tree, tiny_policy, digit_problems)


@pytest.fixture(scope="session")
def make_recipe(recipe_tree) -> Callable[..., TrainRecipe]:
    """A validated small recipe; keyword arguments as for `recipe_tree`."""
    return lambda **sections: validate(recipe_tree(**sections), TrainRecipe)


@pytest.fixture
def write_recipe(recipe_tree, make_recipe, tmp_path) -> Callable[..., Path]:
    """A recipe file in a temporary folder; runs go to its `runs` folder."""
    from rlvr.config.toml import toml_text

    def write(**sections: dict[str, Any]) -> Path:
        sections["run"] = {"dir": str(tmp_path / "runs"), "name": "run"} | sections.get("run", {})
        path = tmp_path / "recipe.toml"
        recipe = make_recipe(**sections)
        given = recipe.model_dump(mode="json", exclude_unset=True, exclude_none=True)
        path.write_text(toml_text(given))
        return path

    return write


@pytest.fixture(scope="session")
def rlvr_command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `rlvr ARGS` as a user would, in a process of its own."""

    def run(*args: object, timeout: float = HANG_S) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "rlvr.cli", *map(str, args)],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run
