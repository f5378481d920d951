"""The scripts that people copy, with Slurm's own programs stood in for: they run things here."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rlvr.engines.serving import free_port
from tests.rlvr.small import read_lines, steady_metrics
from tests.rlvr.training.test_train import wait_for_step
from tests.waiting import HANG_S, wait_until

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
PROGRAMS = {
    "srun": """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
tasks=()
for node in $(seq 0 $((SLURM_NNODES - 1))); do SLURM_NODEID=$node "$@" & tasks+=($!); done
for task in "${tasks[@]}"; do wait "$task" || exit; done
""",
    "scontrol": """#!/bin/bash
if [[ $1 == requeue ]]; then echo "$2" >> "$REQUEUED"; else printf 'localhost\\nelsewhere\\n'; fi
""",
}


@pytest.fixture
def launch(tmp_path):
    """Starts recipes/launch/SCRIPT with words, in a folder of its own; ends it with the test."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in PROGRAMS.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    here = {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "SLURM_JOB_ID": "77"}
    here |= {"REQUEUED": str(tmp_path / "requeued"), "SLURM_JOB_NODELIST": "", "SLURM_NNODES": "2"}
    started = []

    def start(script: str, *words: object, **variables: str) -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                ["bash", str(ROOT / "recipes" / "launch" / script), *map(str, words)],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=tmp_path,
                env=os.environ | here | variables,
                start_new_session=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("script", ["single_gpu.sh", "node.sh", "slurm_multinode.sh"])
def test_a_script_trains_with_all_its_processes(launch, write_recipe, tmp_path, script):
    config = str(ROOT / "recipes" / "accelerate" / "ddp.yaml")
    process = launch(script, write_recipe(), GPUS="2", GPUS_PER_NODE="1", CONFIG=config)
    output, _ = process.communicate(timeout=HANG_S)
    assert process.returncode == 0, output[-4000:]
    assert "packages: " in output, "rlvr doctor comes first"
    assert output.count("run folder:") == 1
    assert [row["step"] for row in steady_metrics(tmp_path / "runs" / "run")] == [1, 2, 3]
    num_ranks = 1 if script == "single_gpu.sh" else 2
    assert f'"num_ranks": {num_ranks}' in (tmp_path / "runs" / "run" / "manifest.json").read_text()


def test_a_preempted_job_asks_for_another_turn_and_goes_on_in_it(launch, write_recipe, tmp_path):
    recipe, run = write_recipe(train={"steps": 40}), tmp_path / "runs" / "turns"
    first = launch("requeue.sh", recipe, "turns")
    wait_for_step(run, 2)
    first.send_signal(signal.SIGTERM)
    output, _ = first.communicate(timeout=HANG_S)
    assert first.returncode == 143, output[-4000:]
    assert (tmp_path / "requeued").read_text() == "77\n"
    done = len(read_lines(run))
    second = launch("requeue.sh", recipe, "turns")
    output, _ = second.communicate(timeout=HANG_S)
    assert second.returncode == 0, output[-4000:]
    assert (tmp_path / "requeued").read_text() == "77\n", "finished: no other turn"
    assert done < 40
    assert [row["step"] for row in read_lines(run)] == list(range(1, 41))


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.engine
def test_servers_and_processes_that_train_start_and_end_together(launch, write_recipe, tmp_path):
    recipe = write_recipe(rollout={"engine": "vllm", "mode": "async"})
    words = (recipe, "1,2", "0,1", "--rollout.temperature")
    wrong = launch("servers.sh", *words, "-1")
    output, _ = wrong.communicate(timeout=HANG_S)
    assert wrong.returncode == 2, "a mistake does not start servers over and over"
    assert "rollout.temperature = -1" in output
    port = free_port()
    process = launch("servers.sh", *words, "0.9", PORT=str(port), RLVR_API_KEY="of-this-test")
    output, _ = process.communicate(timeout=HANG_S)
    assert process.returncode == 0, output[-4000:]
    run = tmp_path / "runs" / "run"
    assert [row["step"] for row in steady_metrics(run)] == [1, 2, 3]
    assert json.loads((run / "manifest.json").read_text())["num_ranks"] == 2
    assert wait_until(lambda: not listens(port))
