"""Folders as they are found: whole, half-written, damaged."""

import json

import pytest

from rlvr.common.errors import ConfigError
from rlvr.report.folder import read_source
from rlvr.report.rollouts import (
    MAX_TEXT_LEN,
    embed,
    groups_of,
    shorten,
)
from rlvr.report.series import running_mean, thin, trend
from rlvr.runs.reader import read_metrics, read_rollouts, read_run, rollout_files
from tests.rlvr.report.folders import write_comparison, write_rollouts, write_run


def test_half_written_and_damaged_lines_are_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = ['{"step": 1, "reward/mean": 0.5}', "not json", '{"step": 2, "reward/mean": NaN}']
    path.write_bytes("\n".join(lines).encode() + b'\n\xff\xfe\n[1]\n{"step": 3, "reward/me')
    rows = read_metrics(tmp_path)
    assert [row["step"] for row in rows] == [1, 2]
    path.write_text('{"step": 1, "a": 1}\n{"step": 2}\n{"step": 1, "a": 2}\n')
    assert read_metrics(tmp_path) == [{"step": 1, "a": 2}, {"step": 2}]


def test_a_run_whose_files_are_not_whole_is_read_as_far_as_it_goes(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "summary.json").write_text('{"seconds": 1')
    (folder / "config.toml").write_text("[train\n")
    step = max(rollout_files(folder))
    path = rollout_files(folder)[step]
    whole = len(read_rollouts(path))
    path.write_bytes(path.read_bytes()[:-200])
    run = read_run(folder)
    assert (run.summary, run.config, len(run.rows)) == (None, {}, 100)
    assert 0 < len(read_rollouts(path)) < whole


def test_the_runs_of_a_comparison_are_found_inside_it_alone(tmp_path):
    folder = write_comparison(tmp_path / "c", num_seeds=1, num_steps=8)
    write_run(tmp_path / "outside")
    tree = json.loads((folder / "comparison.json").read_text())
    tree["methods"][0]["runs"].append({"seed": 7, "run": "../outside", "status": "finished"})
    (folder / "comparison.json").write_text(json.dumps(tree))
    source = read_source(folder)
    assert list(source.runs) == [f"{m}, seed 0" for m in ("lora", "dora", "pissa", "full")]
    assert set(source.analyses) == {"lora, seed 0", "full, seed 0"}
    assert len(source.lr_finds) == 4


def test_a_folder_without_anything_known_is_refused_with_what_is_looked_for(tmp_path):
    with pytest.raises(ConfigError, match=r"comparison\.json"):
        read_source(tmp_path)
    with pytest.raises(ConfigError, match="no such folder"):
        read_source(tmp_path / "absent")


def test_rollouts_of_one_prompt_stand_together_and_long_ones_are_shortened():
    rows = [
        {"problem_id": "a", "prompt": "p", "response": "x" * 100_000, "reason": "wrong"},
        {"problem_id": "a", "prompt": "p", "response": "short", "reason": "correct"},
        {"problem_id": "b", "prompt": "q", "response": "", "reason": "no_answer"},
    ]
    groups = groups_of(rows)
    assert [len(g["responses"]) for g in groups] == [2, 1]
    text = groups[0]["responses"][0]["text"]
    assert "80,000 of 100,000 characters left out" in text
    assert len(text) < MAX_TEXT_LEN + 200
    assert shorten("abc") == "abc"
    odd = groups_of([{"reward": float("nan"), "advantage": "<b>", "response_len": None}])
    assert odd[0]["responses"][0] | {"text": ""} == {
        "text": "",
        "reward": None,
        "advantage": None,
        "reason": "None",
        "len": None,
        "truncated": False,
    }


def test_steps_beyond_the_budget_are_left_out_evenly_and_counted(tmp_path):
    folder = write_run(tmp_path / "run", steps_with_rollouts=30)
    files = [rollout_files(folder)]
    packed, index, left_out = embed(files)
    assert (len(packed[0]), left_out) == (30, 0)
    budget = sum(map(len, packed[0].values())) // 3
    packed, index, left_out = embed(files, budget)
    assert len(packed[0]) + left_out == 30
    assert sum(map(len, packed[0].values())) <= budget
    assert max(packed[0]) == 100
    assert [entry.step for entry in index[0]] == list(packed[0])


def test_an_empty_step_file_is_no_error(tmp_path):
    write_rollouts(tmp_path, 1, [])
    (tmp_path / "rollouts" / "step_2.jsonl.gz").write_bytes(b"")
    (tmp_path / "rollouts" / "step_x.jsonl.gz").write_bytes(b"")
    assert list(rollout_files(tmp_path)) == [1, 2]
    assert [read_rollouts(path) for path in rollout_files(tmp_path).values()] == [[], []]


def test_series_statistics_by_hand():
    points = [(1, 1.0), (2, 3.0), (3, 2.0)]
    assert [mean for _, mean, _ in running_mean(points, 2)] == [1.0, 2.0, 2.5]
    assert running_mean(points, 2)[1][2] == pytest.approx(2.0)  # 2 sd / sqrt(2), sd = sqrt(2)
    long = [(i, 100.0 if i == 777 else i % 7) for i in range(5000)]
    short = thin(long, 200)
    assert len(short) <= 200
    assert {(0, 0), (777, 100.0), long[-1]} <= set(short)
    assert trend([1.0, 1.1, 1.0, 2.0, 2.1, 2.0]).z > 3
    assert trend([1.0] * 8).z == 0
