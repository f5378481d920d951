"""Runs of a real pretrained model, whose logits, vocabulary and chat template are not our own.

RLVR_TEST_MODEL names its folder: any transformers model of about 100 M parameters. Everything goes
through the command line, as a user's run does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import HANG_S

MODEL = os.environ.get("RLVR_TEST_MODEL", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.engine,
    pytest.mark.timeout(2 * HANG_S),
    pytest.mark.skipif(not MODEL, reason="RLVR_TEST_MODEL names no folder of a pretrained model"),
]

SETTINGS = {
    "model.dtype": "float32",
    "model.max_len": 384,
    "rollout.engine": "vllm",
    "rollout.prompts_per_step": 4,
    "rollout.group_size": 4,
    "rollout.max_response_len": 48,
    "reward.answer_mode": "last_number",
    "reward.repetition_weight": 1.0,  # so that groups differ, whatever the model can solve
    "reward.repetition_ngram_len": 2,
    "sampling.dynamic": False,
    "adapter.method": "lora",
    "train.steps": 2,
    "track.wandb": "disabled",
    "run.name": "run",
}


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Trains with settings beside SETTINGS and gives the metrics of every step."""
    problems = tmp_path / "problems.jsonl"
    rows = [(a, b) for a in range(3, 9) for b in range(2, 8)]
    problems.write_text(
        "".join(
            json.dumps({"problem": f"Tom has {a} apples and buys {b}. How many?", "answer": a + b})
            + "\n"
            for a, b in rows
        )
    )
    recipe = tmp_path / "recipe.toml"

    def run(**more: Any) -> list[dict[str, Any]]:
        settings = SETTINGS | {name.replace("__", "."): value for name, value in more.items()}
        recipe.write_text(f"[model]\npath = {MODEL!r}\n[data]\npath = {str(problems)!r}\n")
        words = [w for k, v in settings.items() for w in (f"--{k}", json.dumps(v).strip('"'))]
        command = [sys.executable, "-m", "rlvr.cli", "train", str(recipe)]
        done = subprocess.run(
            [*command, "--run.dir", str(tmp_path), *words], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-3000:]
        lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
        return [row for row in map(json.loads, lines) if "policy/loss" in row]

    return run


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_at_equal_weights_no_ratio_is_cut_and_every_weight_arrives(train, tmp_path, dtype):
    # at this rate no parameter moves, so whatever a ratio differs from 1 by is rounding
    settings = {"optim__lr": 1e-12, "optim__updates_per_step": 2}
    # GSPO's range is the narrowest: 3e-4 below and 4e-4 above 1
    rows = train(model__dtype=dtype, algorithm__preset="gspo", **settings)
    assert len(rows) == 2
    for row in rows:
        assert row["policy/clip_frac"] <= 0.01
        assert row["policy/dropped_tokens"] == 0
        assert row["sync/logprob_error_mean"] < (1e-4 if dtype == "float32" else 0.1)
    facts = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert facts["trainable_parameters"] > 0


def test_the_penalty_against_the_reference_is_nothing_before_anything_was_learned(train):
    rows = train(algorithm__kl_beta=0.05, algorithm__kl_in="reward", optim__lr=1e-12)
    assert all(abs(row["policy/kl_ref"]) < 1e-3 for row in rows)


@pytest.mark.parametrize("method", ["lora", "dora", "full"])
def test_weights_that_moved_arrive_and_both_sides_still_agree(train, method):
    # far enough that an engine which was given nothing would differ by more than the bound
    rows = train(adapter__method=method, optim__lr=1e-4 if method == "full" else 1e-2)
    assert rows[-1]["sync/logprob_error"] < 1e-2
    assert rows[-1]["optim/grad_norm"] > 0
