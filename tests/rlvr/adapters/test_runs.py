"""Whole runs by the command line with methods that need more than LoRA does."""

from __future__ import annotations

import json

import pytest

from rlvr.adapters import METHODS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "settings", "engine"),
    [
        ("pissa", {"rank": 4}, "vllm"),
        ("adalora", {"rank": 4}, "vllm"),
        ("eva", {"rank": 4, "calibration_rows": 16}, "vllm"),
        ("galore", {"rank": 8}, "vllm"),
        ("houlsby", {"rank": 8}, "auto"),
        ("prefix_tuning", {}, "auto"),
    ],
)
def test_a_run_trains_resumes_and_says_what_it_did(
    write_recipe, rlvr_command, tmp_path, method, settings, engine
):
    steps = {"steps": 4, "checkpoint_every": 2, "keep_checkpoints": 9}
    path = write_recipe(
        adapter={"method": method} | settings, rollout={"engine": engine}, train=steps
    )
    if "rank" not in settings:  # the fixture's recipe has one
        path.write_text(path.read_text().replace("rank = 4\n", ""))
    done = rlvr_command("train", path)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "run"
    facts = json.loads((run / "manifest.json").read_text())
    assert facts["method"] == method
    if METHODS[method].merges:
        assert facts["sync_bytes"] > 0
        assert facts["update_norms"]
    else:
        assert f"vLLM cannot serve {method}" in done.stderr
    if engine != "vllm":
        return
    again = tmp_path / "again"
    (run / "checkpoints" / "step_4").rename(again)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    done = rlvr_command("train", "--resume", run)
    assert done.returncode == 0, done.stderr
    name = "adapter_model.safetensors" if METHODS[method].keeps_base else None
    name = name or "model.safetensors"
    resumed = (run / "checkpoints" / "step_4" / name).read_bytes()
    assert resumed == (again / name).read_bytes()
    assert len(lines) == 4
