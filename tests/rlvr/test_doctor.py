"""`rlvr doctor` on the machine at hand."""

import json
import os
import socket
import subprocess
import sys


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
