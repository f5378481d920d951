"""Traces of torch's profiler: what lies in one, which steps have one; nothing else changes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from rlvr.common.errors import ConfigError
from rlvr.config.toml import validate
from rlvr.config.train import TrainRecipe
from rlvr.runs.profiling import profiled
from rlvr.training.loop import train
from rlvr.training.step import StepTimer
from tests.rlvr.small import steady_metrics


def names_in(path: Path) -> set[str]:
    """Names of the complete events of a trace in Chrome's format."""
    with gzip.open(path, "rt") as file:
        tree = json.load(file)
    events = [one for one in tree["traceEvents"] if one.get("ph") == "X"]
    assert all({"ts", "dur", "pid", "tid"} <= one.keys() for one in events)
    return {one["name"] for one in events}


def test_a_trace_has_operators_and_phases_under_the_step_s_and_the_rank_s_name(tmp_path):
    timer = StepTimer()
    with profiled(tmp_path, 5, 1), timer.phase("train"):
        torch.mm(torch.ones(8, 8), torch.ones(8, 8))
    (path,) = (tmp_path / "profile").iterdir()
    assert path.name == "step_5.rank_1.json.gz"
    assert {"aten::mm", "rlvr: train"} <= names_in(path)
    with pytest.raises(ZeroDivisionError), profiled(tmp_path, 6, 1):
        _ = 1 / 0
    assert list((tmp_path / "profile").iterdir()) == [path]


def test_a_trace_that_cannot_be_written_is_a_warning(tmp_path, capsys):
    (tmp_path / "profile").write_text("in the way")
    with profiled(tmp_path, 5, 0):
        pass
    assert "step_5.rank_0.json.gz is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("steps", "message"),
    [([2, 4], "the run has 3 steps, no 4; leave it out"), ([0], "profile_steps"), (5, "profile")],
)
def test_steps_that_the_run_does_not_have_are_refused(recipe_tree, steps, message):
    with pytest.raises(ConfigError) as caught:
        validate(recipe_tree(train={"profile_steps": steps}), TrainRecipe)
    assert message in str(caught.value)


@pytest.mark.slow
@pytest.mark.process
def test_a_run_keeps_traces_of_its_steps_and_trains_as_without(make_recipe, tmp_path):
    runs = []
    for name, steps in (("plain", []), ("profiled", [2, 3])):
        recipe = make_recipe(
            run={"dir": str(tmp_path / "runs"), "name": name}, train={"profile_steps": steps}
        )
        runs.append(train(recipe, tmp_path / f"{name}.toml", Console(quiet=True)))
    assert steady_metrics(runs[0]) == steady_metrics(runs[1])
    assert not (runs[0] / "profile").exists()
    traces = sorted((runs[1] / "profile").iterdir())
    assert [path.name for path in traces] == [f"step_{n}.rank_0.json.gz" for n in (2, 3)]
    for path in traces:
        names = names_in(path)
        assert {"rlvr: train", "rlvr: sync", "aten::mm"} <= names
        assert any("Backward" in name for name in names)
    rows = [json.loads(line) for line in (runs[1] / "metrics.jsonl").open()]
    assert all(row["perf/tflops_per_s"] > 0 and "perf/mfu" not in row for row in rows)
