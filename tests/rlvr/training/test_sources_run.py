"""A run on two sources: their shares, the manifest, and an exact resume."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from rlvr.training.loop import resume, train
from tests.rlvr.small import steady_metrics, write_problems

pytestmark = [pytest.mark.process, pytest.mark.slow]


def ids_of(run: Path) -> list[str]:
    found = []
    for step in (1, 2, 3, 4):
        with gzip.open(run / "rollouts" / f"step_{step}.jsonl.gz", "rt") as file:
            found += [json.loads(line)["problem_id"] for line in file]
    return found


@pytest.mark.parametrize("strategy", ["uniform", "curriculum"])
def test_a_run_that_is_resumed_draws_from_both_sources_as_an_undisturbed_one(
    make_recipe, tmp_path, strategy
):
    write_problems(tmp_path / "many.jsonl")
    write_problems(tmp_path / "few.jsonl")
    sources = [
        {"path": str(tmp_path / "many.jsonl"), "weight": 0.75},
        {"path": str(tmp_path / "few.jsonl"), "weight": 0.25, "limit": 10},
    ]
    runs = []
    for name, stop in (("whole", 4), ("cut", 2)):
        recipe = make_recipe(
            run={"dir": str(tmp_path / "runs"), "name": name},
            train={"steps": 4, "checkpoint_every": 1},
            rollout={"prompts_per_step": 4, "group_size": 4},
            sampling={"dynamic": False, "strategy": strategy},
            data={"path": None, "id_field": None, "source": sources},
            track={"rollouts_per_step": 1000},
        )
        end = lambda step, _, stop=stop: step == stop  # noqa: E731
        runs.append(train(recipe, tmp_path / f"{name}.toml", Console(quiet=True), end=end))
    resume(runs[1], Console(quiet=True))
    whole, cut = runs
    assert steady_metrics(whole) == steady_metrics(cut)
    assert ids_of(whole) == ids_of(cut)
    shares = Counter(one.partition("/")[0] for one in ids_of(whole))
    assert shares == {"many": 48, "few": 16}
    data = json.loads((whole / "manifest.json").read_text())["data"]
    assert [one["source"] for one in data["sources"]] == [one["path"] for one in sources]
    assert [one["num_problems"] for one in data["sources"]] == [60, 10]
    assert len({data["sha256"], *(one["sha256"] for one in data["sources"])}) == 3
    assert data["num_repeated"] == 10
