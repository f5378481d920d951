"""A tiny random policy as an ordinary transformers folder, and recipes that use it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlvr.config import TrainRecipe
from rlvr.recipe import validate


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory) -> Path:
    """Folder of a random Qwen2 of 0.6 M parameters with the quickstart's tokenizer."""
    from rlvr import tiny, word_problems

    folder = tmp_path_factory.mktemp("tiny_policy")
    texts = [row["problem"] for row in word_problems.generate("sft", 300, seed=0)]
    tokenizer = tiny.build_tokenizer(texts)
    tiny.build_model(tokenizer, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def digit_problems(tmp_path_factory) -> Path:
    """Problems with one-digit answers: a random policy hits one now and then as its last number."""
    path = tmp_path_factory.mktemp("data") / "digits.jsonl"
    rows = [
        {"id": f"d{i}", "problem": f"Tom has {i} apples. What is 7?", "answer": str(i % 10)}
        for i in range(60)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def recipe_tree(tiny_policy, digit_problems) -> Callable[..., dict[str, Any]]:
    """Nested dicts of a small recipe; keyword arguments replace or add keys of sections."""

    def tree(**sections: dict[str, Any]) -> dict[str, Any]:
        base: dict[str, dict[str, Any]] = {
            "model": {"path": str(tiny_policy), "dtype": "float32", "max_len": 160},
            "data": {"path": str(digit_problems), "id_field": "id"},
            "rollout": {
                "engine": "transformers",
                "prompts_per_step": 2,
                "group_size": 8,
                "max_response_len": 32,
            },
            "sampling": {"max_refills": 40},
            "reward": {"answer_mode": "last_number", "num_workers": 1},
            "adapter": {"method": "lora", "rank": 4},
            "optim": {"lr": 1e-3},
            "train": {"steps": 3, "checkpoint_every": 1},
            "track": {"wandb": "disabled"},
        }
        for name, values in sections.items():
            base[name] = base.get(name, {}) | values
        return base

    return tree


@pytest.fixture(scope="session")
def make_recipe(recipe_tree) -> Callable[..., TrainRecipe]:
    """A validated small recipe; keyword arguments as for `recipe_tree`."""
    return lambda **sections: validate(recipe_tree(**sections), TrainRecipe)


@pytest.fixture
def write_recipe(recipe_tree, make_recipe, tmp_path) -> Callable[..., Path]:
    """A recipe file in a temporary folder; runs go to its `runs` folder."""
    from rlvr.recipe import dump_toml

    def write(**sections: dict[str, Any]) -> Path:
        sections["run"] = {"dir": str(tmp_path / "runs"), "name": "run"} | sections.get("run", {})
        path = tmp_path / "recipe.toml"
        path.write_text(dump_toml(make_recipe(**sections)))
        return path

    return write


@pytest.fixture(scope="session")
def rlvr_command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `rlvr ARGS` as a user would, in a process of its own."""

    def run(*args: object, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "rlvr.cli", *map(str, args)],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run
