"""A run with the functions of examples/own_code: recorded, resumed, refused where they changed."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from rlvr.common.errors import ConfigError
from rlvr.training.loop import resume, train

EXAMPLES = Path(__file__).parents[3] / "examples" / "own_code"
REWARDS = ("shows_work", "brief_when_right", "one_box")

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
        reward={
            "extra": [{"function": f"{own}/rewards.py:{name}", "weight": 0.5} for name in REWARDS]
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
    assert facts.keys() == {f"reward.extra.{name}" for name in REWARDS}
    file = own / "rewards.py"
    for one in facts.values():
        assert one["files"] == [str(file)]
        assert one["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_run_goes_on_with_the_same_source_and_refuses_another(run, monkeypatch, tmp_path):
    path, own = run
    file = own / "rewards.py"
    text = file.read_text()
    file.write_text(text.replace("40 *", "41 *"))
    with pytest.raises(ConfigError, match=r"reward.extra.\w+ = .*rewards.py has changed since"):
        resume(path, Console(quiet=True))
    file.write_text(text)
    monkeypatch.chdir(tmp_path)
    resume(path, Console(quiet=True))
    assert [row["step"] for row in rows_of(path) if "reward/mean" in row] == [1, 2, 3]
