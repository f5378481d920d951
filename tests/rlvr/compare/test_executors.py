"""Runs elsewhere: worker processes, a job array, a Ray cluster, one warm vLLM."""

import json
import os
import signal
import stat
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from rlvr.compare.execution.execute import execute
from rlvr.compare.execution.executors import open_executor
from rlvr.compare.execution.slurm import write_job
from rlvr.compare.execution.task import settled
from rlvr.compare.execution.warm_engine import WarmEngine
from tests.rlvr.small import steady_metrics

pytestmark = pytest.mark.slow

TWO = "[methods.lora]\nlr = 1e-3\n[methods.full]\nlr = 1e-4\n"
QUIET = Console(quiet=True)


def tasks_of(comparison):
    return [comparison.task(label, 0, lr) for label, lr in (("lora", 1e-3), ("full", 1e-4))]


def test_workers_run_side_by_side_and_a_killed_one_costs_only_its_run(open_written):
    comparison = open_written(
        TWO, ["--executor.parallel", "2"], budget="steps = 3", train={"steps": 3}
    )
    tasks = tasks_of(comparison)
    with open_executor(comparison.recipe.executor, comparison.folder, QUIET) as run:
        threading.Thread(target=kill_writer, args=(tasks[0].folder,)).start()
        outcomes = run(tasks)
        assert [o.status for o in outcomes] == ["failed", "finished"]
        assert "ended with code -9" in outcomes[0].reason
        assert run(tasks)[0].status == "finished", "a lost run goes on when asked again"


def kill_writer(folder: Path) -> None:
    """Kills the process that has the run's metrics open, as soon as there is one."""
    path = folder / "metrics.jsonl"
    while True:  # ends with the run's process at the latest: the test has a time limit
        try:
            entries = list(Path("/proc").glob("[0-9]*/fd/*"))
        except OSError:  # a process ended while its folder was read
            continue
        for entry in entries:
            try:
                found = path.exists() and os.path.samefile(entry, path)
            except OSError:
                continue
            if found and int(entry.parts[2]) != os.getpid():
                os.kill(int(entry.parts[2]), signal.SIGKILL)
                return
        time.sleep(0.02)


SBATCH = """#!/bin/bash
# an outside program: runs the array here, one task after another, as `sbatch --wait` would
test "$1" = --wait || exit 9
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$2")
for i in $(seq 0 "$last"); do SLURM_ARRAY_TASK_ID=$i bash "$2" || exit 1; done
"""


def test_a_job_array_runs_every_task_and_leaves_its_outcome(open_written, tmp_path, monkeypatch):
    fake = tmp_path / "bin" / "sbatch"
    fake.parent.mkdir()
    fake.write_text(SBATCH)
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{fake.parent}{os.pathsep}{os.environ['PATH']}")
    comparison = open_written(
        TWO + '[executor]\nkind = "slurm"\ngpus_per_run = 0\nsbatch_options = ["--qos=low"]\n',
        budget="steps = 1",
    )
    tasks = tasks_of(comparison)
    with open_executor(comparison.recipe.executor, comparison.folder, QUIET) as run:
        assert [o.status for o in run(tasks)] == ["finished"] * 2
    script = (comparison.folder / "jobs" / "0.sh").read_text()
    assert "#SBATCH --array=0-1\n" in script
    assert "#SBATCH --qos=low\n" in script
    assert "gpus-per-task" not in script
    assert "#SBATCH --cpus-per-task=1\n" in script
    assert all(settled(task) is not None for task in tasks)


def test_the_script_of_a_gpu_array_asks_for_gpus_and_limits_the_tasks_at_a_time(open_written):
    comparison = open_written(
        TWO + '[executor]\nkind = "slurm"\nparallel = 4\n', budget="steps = 1"
    )
    script = write_job(tasks_of(comparison), comparison.recipe.executor, comparison.folder)
    text = script.read_text()
    assert "#SBATCH --gpus-per-task=1\n" in text
    assert "#SBATCH --nodes=1\n#SBATCH --ntasks=1\n" in text, "sbatch wants them beside it"
    assert "#SBATCH --cpus-per-task=8\n" in text
    assert "#SBATCH --array=0-1%4\n" in text
    lines = script.with_suffix(".jsonl").read_text().split("\n")
    assert json.loads(lines[1])["label"] == "full"


def test_a_ray_task_whose_worker_is_killed_is_started_again_and_finishes(open_written):
    pytest.importorskip("ray", reason="needs ray: pip install 'rlvr[ray]'")
    comparison = open_written(
        TWO + '[executor]\nkind = "ray"\ngpus_per_run = 0\n', budget="steps = 3"
    )
    tasks = tasks_of(comparison)
    with open_executor(comparison.recipe.executor, comparison.folder, QUIET) as run:
        threading.Thread(target=kill_writer, args=(tasks[0].folder,)).start()
        outcomes = run(tasks)
    assert [o.status for o in outcomes] == ["finished"] * 2, outcomes


@pytest.mark.engine
def test_a_run_on_a_warm_vllm_repeats_the_run_on_a_new_one_bit_for_bit(open_written):
    rollout = {"engine": "vllm", "prompts_per_step": 2, "group_size": 8, "max_response_len": 32}
    first = open_written(TWO, rollout=rollout)
    full, lora = first.task("full", 0, 1e-2), first.task("lora", 0, 1e-3)
    warm = WarmEngine()
    try:
        assert execute(full, warm, QUIET).status == "finished"
        assert execute(lora, warm, QUIET).status == "finished"
    finally:
        warm.close()
    again = first.task("lora", 0, 1e-3)
    run = again.recipe.run.model_copy(update={"name": "alone"})
    alone = type(again)("lora", again.recipe.model_copy(update={"run": run}), again.budget)
    fresh = WarmEngine()
    try:
        execute(alone, fresh, QUIET)
    finally:
        fresh.close()
    assert steady_metrics(alone.folder) == steady_metrics(lora.folder)
