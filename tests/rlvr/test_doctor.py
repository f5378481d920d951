"""`rlvr doctor` on the machine at hand."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rlvr.config.adapter import AdapterConfig
from rlvr.config.toml import load_recipe
from rlvr.config.train import TrainRecipe
from rlvr.doctor.cli import main
from rlvr.doctor.gpu import MAX_DIFFERENCE, judge_capability, judge_driver, varlen_difference
from rlvr.doctor.recipe import (
    check_hub,
    checkpoint_gib,
    examine_recipe,
    handover_gib,
    hub_names,
)
from rlvr.plan.hardware import Shape
from rlvr.policy.flops import ModelDims

RECIPES = Path(__file__).parents[2] / "recipes"
STUDY = ModelDims(28, 1536, 8960, 1536, 256, 151936)


def doctor(*words, **environment):
    done = subprocess.run(
        [sys.executable, "-m", "rlvr.cli", "doctor", "--json", *words],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    return {check["name"]: check for check in json.loads(done.stdout)}, done.returncode


def test_a_machine_that_runs_these_tests_has_no_failed_check(tmp_path):
    checks, code = doctor("--run-dir", str(tmp_path / "not" / "made" / "yet"))
    failed = {name: check for name, check in checks.items() if check["status"] == "fail"}
    assert not failed
    assert code == 0
    assert {"python", "packages", "vllm", "cpu", "disk", "port 8000", "wandb", "data"} <= set(
        checks
    )


def test_what_is_not_ok_comes_with_a_remedy():
    checks, _ = doctor()
    assert all(check["remedy"] for check in checks.values() if check["status"] != "ok")


def test_a_port_in_use_is_named():
    with socket.socket() as busy:
        busy.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        busy.bind(("127.0.0.1", 8000))
        busy.listen()
        checks, _ = doctor()
    assert checks["port 8000"]["status"] == "warn"
    assert "in use" in checks["port 8000"]["found"]


def test_tracking_says_whether_a_key_is_configured(tmp_path):
    without, _ = doctor(HOME=str(tmp_path), WANDB_API_KEY="", WANDB_MODE="")
    with_key, _ = doctor(HOME=str(tmp_path), WANDB_API_KEY="k" * 40, WANDB_MODE="")
    assert without["wandb"]["status"] == "warn"
    assert with_key["wandb"]["status"] == "ok"
    assert "k" * 40 not in json.dumps(with_key)


def of_study(name: str, *settings: str) -> TrainRecipe:
    return load_recipe(RECIPES / f"r1_distill_qwen_1.5b_{name}.toml", settings, TrainRecipe)


def of_recipe(capsys, *words):
    """As `doctor`, in this process."""
    code = main(["--json", *map(str, words)])
    return {check["name"]: check for check in json.loads(capsys.readouterr().out)}, code


def test_a_recipe_is_checked_and_what_needs_a_gpu_says_so(capsys, write_recipe):
    checks, code = of_recipe(capsys, write_recipe())
    failed = {name: check for name, check in checks.items() if check["status"] == "fail"}
    assert not failed
    assert code == 0
    assert {"recipe", "gpu memory", "checkpoints", "data.path"} <= set(checks)
    assert checks["checkpoints"]["status"] == checks["data.path"]["status"] == "ok"
    if not torch.cuda.is_available():
        assert checks["gpu memory"]["status"] == "skip"


def test_missing_data_and_an_unreached_hub_fail_with_a_remedy(capsys):
    recipe = RECIPES / "gsm8k_qwen_0.5b_lora.toml"
    settings = ["--data.path", "not_there.jsonl", "--model.path", "nobody/nothing"]
    checks, code = of_recipe(capsys, recipe, *settings)
    assert code == 1
    assert checks["data.path"]["status"] == "fail"
    assert "RLVR_DATA" in checks["data.path"]["found"]
    assert checks["hub nobody/nothing"]["status"] == "fail"
    assert "hf download nobody/nothing" in checks["hub nobody/nothing"]["remedy"]
    assert checks["model"]["status"] == "skip", "its sizes cannot be read"
    assert all(check["remedy"] for check in checks.values() if check["status"] != "ok")


def test_a_wrong_field_of_the_data_is_named(make_recipe, tmp_path):
    recipe = make_recipe(data={"answer_field": "solution", "id_field": None})
    found = {check.name: check for check in examine_recipe(recipe, tmp_path, tmp_path)}
    assert found["data.path"].status == "fail"
    assert "solution" in found["data.path"].found


def test_what_comes_from_the_hub_is_asked_for_there():
    named = hub_names(of_study("lora"))
    assert ("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", "model") in named
    assert ("open-r1/DAPO-Math-17k-Processed", "dataset") in named
    assert len(named) == 2, "math500.jsonl is a file"
    assert check_hub("nobody/nothing", "dataset").status == "fail"


@pytest.mark.parametrize(
    ("driver", "cuda", "status"),
    [(13000, "13.0", "ok"), (13020, "13.0", "ok"), (13000, "13.2", "ok"), (12080, "13.0", "fail")],
)
def test_a_driver_has_to_know_the_major_version_that_torch_is_built_for(driver, cuda, status):
    assert judge_driver(driver, cuda).status == status


@pytest.mark.parametrize(
    ("capability", "dtype", "status"),
    [
        ((7, 0), "bfloat16", "fail"),
        ((7, 5), "float16", "fail"),
        ((7, 5), "float32", "warn"),
        ((8, 0), "bfloat16", "ok"),
        ((10, 0), "bfloat16", "ok"),
    ],
)
def test_a_gpu_that_emulates_bfloat16_does_not_pass(capability, dtype, status):
    assert judge_capability(0, capability, dtype).status == status


def test_the_attention_kernel_agrees_with_plain_attention():
    if not torch.cuda.is_available():
        pytest.skip("torch's varlen kernel needs a GPU")
    assert varlen_difference(torch.bfloat16) < MAX_DIFFERENCE


def test_a_checkpoint_of_the_study_takes_21_gb_in_full_and_half_of_one_with_lora():
    full = Shape(1_777_088_000, 1_777_088_000, STUDY, None, AdapterConfig(method="full"))
    lora = Shape(1_777_088_000, 36_929_536, STUDY, None, AdapterConfig())
    assert checkpoint_gib(of_study("full"), full) * 2**30 == pytest.approx(21.3e9, rel=0.01)
    assert checkpoint_gib(of_study("lora"), lora) * 2**30 == pytest.approx(16 * 36_929_536)
    merged = handover_gib(of_study("lora", "--rollout.sync", "merged"), lora)
    assert merged > 10 * handover_gib(of_study("lora"), lora)
