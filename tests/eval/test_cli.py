"""The commands as a user runs them, in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from eval.benchmarks import PROJECT_ROOT
from tests.waiting import HANG_S


def run(command, *args):
    done = subprocess.run(
        [sys.executable, "-m", "rlvr.cli", command, *map(str, args)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(PROJECT_ROOT)},
        timeout=HANG_S,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_generations_are_scored_compared_and_exported(
    sums_file, write_generations, random_kinds, tmp_path
):
    for seed in (1, 2):
        path = write_generations(random_kinds(seed), name=f"g{seed}.jsonl")
        args = ("--generations", path, "--benchmarks", sums_file, "--out", tmp_path / f"run{seed}")
        code, out, err = run("eval", *args)
        assert (code, "sums" in out, f"file {sums_file}" in err) == (0, True, True)
        results = json.loads((tmp_path / f"run{seed}" / "results.json").read_text())
        assert set(results["benchmarks"]["sums"]["avg@k"]) >= {"value", "ci95"}
    folders = (tmp_path / "run1", tmp_path / "run2")
    code, out, _ = run("eval", "compare", *folders, "--format", "json")
    assert code == 0
    assert json.loads(out)["names"] == ["run1", "run2"]
    code, out, _ = run("eval", "export", folders[0], "--out", tmp_path / "harness")
    assert code == 0
    exported = tmp_path / "harness" / "samples_sums_0.jsonl"
    back = ("--generations", exported, "--from-harness", f"sums={sums_file}", "--format", "json")
    code, out, _ = run("eval", *back)
    assert code == 0
    ours = json.loads((folders[0] / "results.json").read_text())["benchmarks"]["sums"]
    assert json.loads(out)["benchmarks"]["sums"]["avg@k"] == ours["avg@k"]


def test_a_training_file_is_checked_and_filtered(sums_file, tmp_path):
    rows = [json.loads(line) for line in sums_file.open()]
    train = tmp_path / "train.jsonl"
    fresh = {"problem": "Find the number of primes below one hundred.", "answer": "25"}
    train.write_text(json.dumps(fresh) + "\n" + json.dumps(rows[3] | {"id": "leak"}) + "\n")
    clean, pairs = tmp_path / "clean.jsonl", tmp_path / "pairs.jsonl"
    args = ("--against", sums_file, "--filtered", clean, "--pairs", pairs, "--format", "csv")
    code, out, err = run("data", "check", train, *args)
    assert (code, "1 of 2 rows written" in err) == (0, True)
    assert out.splitlines()[1].startswith("sums,12,1,")
    assert json.loads(clean.read_text()) == fresh
    assert json.loads(pairs.read_text().split("\n")[0])["train_id"] == "leak"


@pytest.mark.parametrize(
    ("command", "args", "message"),
    [
        ("eval", ["--generations", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
        ("eval", [], "required: --generations"),
        ("eval", ["--generations", "x", "--format", "html"], "invalid choice: 'html'"),
        ("eval", ["--generations", "x", "--samples", "0"], "--samples 0: score at least 1"),
        ("eval", ["--generations", "x", "--benchmarks", "aime2"], "did you mean aime2"),
        ("eval", ["compare", "nowhere", "nowhere"], "score generations there first"),
        ("eval", ["export", "nowhere", "--out", "x"], "no such file"),
        ("data", ["check", "nowhere", "--against", "aime24"], "nowhere: no such file"),
        ("data", ["clean"], "invalid choice: 'clean'"),
    ],
)
def test_a_users_error_is_one_line_and_exit_code_2(command, args, message):
    code, out, err = run(command, *args)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not Path("x").exists(), "nothing is made for a command that failed"


@pytest.mark.parametrize("args", [["--help"], ["compare", "--help"], ["export", "--help"]])
def test_help_is_given(args):
    code, out, _ = run("eval", *args)
    assert code == 0
    assert "usage: rlvr eval" in out
