"""The speed comparison with trl: its arithmetic, and a small run of both sides."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.benchmarks.step_worker import Step
from tests.benchmarks.vs_trl import summary
from tests.waiting import HANG_S


def step(seconds, lens, trained):
    return Step(seconds, 0.5, 0.3, 0.1, 0.05, lens, 100 + sum(lens), trained, 0.75, 0.25)


def test_a_side_is_summed_up_by_medians_over_its_steps():
    steps = [step(1.0, [10, 90], 150), step(2.0, [20, 80], 100), step(9.0, [30], 65)]
    result = summary(steps)
    assert result["step_s"] == 2.0
    assert result["tokens_per_s"] == 100.0  # of 200, 100 and 14.44
    assert result["trained_frac"] == 0.5  # of 0.75, 0.5 and 0.5
    assert result["padding_frac"] == 0.75
    assert (result["response_len_median"], result["response_len_p95"]) == (30, 90)
    assert result["num_steps"] == 3


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.parametrize("arguments", [[], ["--reward", "--seeds", "0"]], ids=["speed", "reward"])
def test_both_sides_take_real_steps_on_the_same_number_of_rollouts(
    tiny_policy, tmp_path, arguments
):
    path = tmp_path / "result.json"
    command = ["--quick", "--cases", "short", "--model", str(tiny_policy), "--json", str(path)]
    program = [sys.executable, "-m", "tests.benchmarks.vs_trl", *command, *arguments]
    done = subprocess.run(program, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    written = json.loads(path.read_text())
    assert written["versions"]["trl"]
    assert [row["method"] for row in written["results"]] == ["lora", "full"]
    for row in written["results"]:
        assert row["case"] == "short"
        if not arguments:
            assert row["num_rollouts"] == 32
            assert row["step_speedup"] > 0
            assert row["trl"]["trained_frac"] == 1
            assert 0 < row["trl"]["padding_frac"] < 1
