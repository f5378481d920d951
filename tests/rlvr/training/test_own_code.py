"""A run with the functions of examples/own_code: recorded, resumed, refused where they changed."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from rlvr.common.errors import ConfigError
from rlvr.config.toml import load_recipe
from rlvr.config.train import TrainRecipe, own_functions
from rlvr.training.loop import resume, train
from rlvr.training.preflight import check

EXAMPLES = Path(__file__).parents[3] / "examples" / "own_code"
REWARDS = ("shows_work", "brief_when_right", "one_box")

PARTS = {
    "advantage": "median_baseline",
    "ratio": "half_length_ratio",
    "clip": "one_sided_clip",
}

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def run(make_recipe, tmp_path_factory) -> tuple[Path, Path]:
    """(the folder of the run after two of three steps, the folder of its functions)."""
    folder = tmp_path_factory.mktemp("own")
    own = shutil.copytree(EXAMPLES, folder / "own")
    recipe = make_recipe(
        run={"dir": str(folder / "runs"), "name": "run"},
        train={"steps": 3, "checkpoint_every": 1},
        sampling={"dynamic": False},
        data={"path": f"{own}/reader.py:sums", "id_field": None},
        eval={"path": f"{own}/reader.py:held_out_sums", "limit": 4},
        algorithm={key: f"{own}/loss.py:{name}" for key, name in PARTS.items()},
        optim={"updates_per_step": 2},  # where the ratio is not 1 throughout
        reward={
            "extra": [
                {"function": f"{own}/my_rewards.py:{name}", "weight": 0.5} for name in REWARDS
            ]
        },
    )
    path = train(recipe, folder / "own.toml", Console(quiet=True), end=lambda step, _: step == 2)
    return path, own


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_every_reward_is_a_metric_and_adds_to_the_reward(run):
    path, _ = run
    first = rows_of(path)[0]
    means = {name: first[f"reward/extra_{name}"] for name in REWARDS}
    assert all(0 <= value <= 1 for value in means.values())
    assert first["reward/extra_failures"] == 0
    correct = first["reward/correct_frac"]
    assert first["reward/mean"] == pytest.approx(correct + 0.5 * sum(means.values()))


def test_rollouts_keep_what_each_function_gave(run):
    path, _ = run
    with gzip.open(path / "rollouts" / "step_1.jsonl.gz", "rt") as file:
        row = json.loads(file.readline())
    assert row["extra"].keys() == set(REWARDS)
    right = row["reason"] == "correct"
    assert row["reward"] == pytest.approx(right + 0.5 * sum(row["extra"].values()))


def test_the_manifest_has_the_hash_of_every_file(run):
    import hashlib

    path, own = run
    facts = json.loads((path / "manifest.json").read_text())["own_code"]
    files = {f"reward.extra.{name}": "my_rewards.py" for name in REWARDS}
    files |= {f"algorithm.{key}": "loss.py" for key in PARTS}
    files |= {"data.path": "reader.py", "eval.path": "reader.py"}
    assert facts.keys() == files.keys()
    for key, one in facts.items():
        assert one["files"] == [str(own / files[key])]
        digest = hashlib.sha256((own / files[key]).read_bytes()).hexdigest()
        assert one["sha256"] == digest


def test_the_problems_are_the_readers(run):
    path, own = run
    data = json.loads((path / "manifest.json").read_text())["data"]
    assert (data["source"], data["num_problems"]) == (f"{own}/reader.py:sums", 2000)
    with gzip.open(path / "rollouts" / "step_1.jsonl.gz", "rt") as file:
        assert "Tom has" in json.loads(file.readline())["prompt"]


def test_a_run_goes_on_with_the_same_source_and_refuses_another(run, monkeypatch, tmp_path):
    path, own = run
    for name, key in (("my_rewards", r"reward.extra.\w+"), ("loss", r"algorithm.\w+"),
                      ("reader", "data.path")):  # fmt: skip
        file = own / f"{name}.py"
        text = file.read_text()
        file.write_text(f"{text}\n")
        with pytest.raises(ConfigError, match=rf"{key} = .*{name}.py has changed since"):
            resume(path, Console(quiet=True))
        file.write_text(text)
    monkeypatch.chdir(tmp_path)
    resume(path, Console(quiet=True))
    assert [row["step"] for row in rows_of(path) if "reward/mean" in row] == [1, 2, 3]


def test_the_recipe_of_the_page_is_that_of_the_examples(monkeypatch):
    monkeypatch.chdir(EXAMPLES)
    recipe = load_recipe("recipe.toml", [], TrainRecipe)
    check(recipe)
    page = (EXAMPLES.parents[1] / "docs" / "extending.md").read_text()
    for name in own_functions(recipe).values():
        assert name in page or name in {f"my_rewards.py:{one}" for one in REWARDS}


@pytest.mark.slow
def test_the_commands_of_the_page_run(tmp_path):
    folder = shutil.copytree(EXAMPLES, tmp_path / "own_code")
    page = (EXAMPLES.parents[1] / "docs" / "extending.md").read_text()
    (command,) = re.findall(r"^rlvr (train .*)$", page, re.M)
    words = [*command.split(), "--rollout.engine", "transformers", "--eval.limit", "20"]
    env = os.environ | {"PYTHONPATH": str(EXAMPLES.parents[1])}
    done = subprocess.run(
        [sys.executable, "-m", "rlvr.cli", *words, "--run.name", "own"],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = rows_of(folder / "runs" / "own")
    assert [row["step"] for row in rows][-1] == 3
    assert all(row.get("reward/extra_failures", 0) == 0 for row in rows)
