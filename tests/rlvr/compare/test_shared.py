"""Several runs on one base and one vLLM: each is the run that it would be alone."""

import ast
import signal
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text
from safetensors.torch import load_file

from rlvr.cli import main
from rlvr.compare.execution.executors import open_executor
from rlvr.compare.execution.shared import add_line, live_lines, show_step
from rlvr.config.rollout import STARTED_WITH
from rlvr.engines import vllm_start
from rlvr.runs.reader import read_metrics
from tests.rlvr.small import steady_metrics
from tests.waiting import HANG_S, wait_until

QUIET = Console(quiet=True)
METHODS = """
[methods.lora]
lr = 1e-3
[methods.pissa]
lr = 1e-4
[methods.rslora]
lr = 3e-3
rank = 8
"""
BY_TURNS = """
[methods.dora]
lr = 2e-3
[methods.dora.settings.rollout]
sync = "merged"
[methods.ln_tuning]
lr = 1e-2
[methods.ln_tuning.settings.rollout]
sync = "merged"
"""
ROLLOUT = {
    "engine": "vllm",
    "sync": "adapter",
    "prompts_per_step": 2,
    "group_size": 8,
    "max_response_len": 32,
}
SHARED = '[executor]\nkind = "shared"\nruns_per_engine = 3\n'


def run_all(comparison, executor: str, cases):
    """(tasks, their outcomes) of runs in a folder of this executor's own."""
    config = comparison.recipe.executor.model_copy(update={"kind": executor})
    tasks = []
    for case in cases:
        task = comparison.task(*case)
        where = {"dir": str(comparison.folder / executor)}
        run = task.recipe.run.model_copy(update=where)
        tasks.append(
            type(task)(task.label, task.recipe.model_copy(update={"run": run}), task.budget)
        )
    with open_executor(config, comparison.folder, QUIET) as run:
        return tasks, run(tasks)


def weights(task):
    (path,) = task.folder.glob("checkpoints/step_*/adapter_model.safetensors")
    return load_file(path)


CASES = [
    ("lora", 0, 1e-3),
    ("rslora", 1, 3e-3),
    ("dora", 0, 2e-3),
    ("pissa", 0, 1e-4),
    ("ln_tuning", 0, 1e-2),
    ("lora", 2, 1e-2),
]
"""On three places, so that some begin while others are under way. DoRA and LN tuning go to vLLM by
whole weights, PiSSA as a LoRA of twice its rank."""


@pytest.mark.engine
@pytest.mark.parametrize(
    ("steps", "cases"), [(2, CASES[:3]), pytest.param(5, CASES, marks=pytest.mark.slow)]
)
def test_runs_of_different_methods_ranks_rates_and_seeds_are_those_they_are_alone(
    open_written, steps, cases
):
    comparison = open_written(
        METHODS + BY_TURNS + SHARED,
        budget=f"steps = {steps}",
        rollout=ROLLOUT | ({} if steps > 2 else {"max_response_len": 8}),
    )
    together, outcomes = run_all(comparison, "shared", cases)
    assert [one.status for one in outcomes] == ["finished"] * len(cases), outcomes
    alone, outcomes = run_all(comparison, "local", cases)
    assert [one.status for one in outcomes] == ["finished"] * len(cases), outcomes
    for ours, theirs in zip(together, alone, strict=True):
        rows = zip(steady_metrics(ours.folder), steady_metrics(theirs.folder), strict=True)
        for row, other in rows:
            assert row == pytest.approx(other, rel=1e-4, abs=1e-6)
        for name, value in weights(theirs).items():
            assert (weights(ours)[name] - value).abs().max() < 1e-6


@pytest.mark.slow
@pytest.mark.engine
def test_a_run_that_fails_ends_alone(open_written):
    comparison = open_written(METHODS + SHARED, budget="steps = 3", rollout=ROLLOUT)
    # this rate makes a gradient that is not finite in the first steps
    cases = [("lora", 0, 1e-3), ("rslora", 0, 1.0)]
    tasks, outcomes = run_all(comparison, "shared", cases)
    assert outcomes[0].status == "finished"
    assert len(read_metrics(tasks[0].folder)) == 3
    (calm,), _ = run_all(comparison, "local", cases[:1])
    for row, other in zip(
        steady_metrics(tasks[0].folder), steady_metrics(calm.folder), strict=True
    ):
        assert row == pytest.approx(other, rel=1e-4, abs=1e-6)


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.parametrize("sync", ["adapter", "auto"])  # on a CPU auto means that all take turns
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_runs_that_were_stopped_together_go_on_together(write_comparison, tmp_path, signum, sync):
    path = write_comparison(
        METHODS + SHARED,
        seeds="[0]",
        budget="steps = 12",
        rollout=ROLLOUT | {"sync": sync},
        train={"steps": 15, "checkpoint_every": 1},
    )
    command = [sys.executable, "-m", "rlvr.cli", "compare", str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    runs = tmp_path / "runs" / "cmp" / "runs"

    def begun() -> int:
        """Runs that have two steps or more behind them."""
        done = {path.parents[1] for path in runs.glob("*/checkpoints/step_*")}
        return sum(len(read_metrics(run)) >= 2 for run in done)

    wait_until(lambda: process.poll() is not None or begun() == 3)
    process.send_signal(signum)
    output, _ = process.communicate(timeout=HANG_S)
    assert process.returncode in (-signum, 128 + signum), output
    assert not list(runs.glob("*/checkpoints/step_12"))
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert done.returncode == 0, done.stderr
    for run in runs.iterdir():
        assert [row["step"] for row in steady_metrics(run)] == [*range(1, 13)]


def test_every_setting_that_vllm_is_started_with_is_in_the_list():
    """A warm engine is kept for the next run, and shared, only where these are equal."""
    nodes = ast.walk(ast.parse(Path(vllm_start.__file__).read_text()))
    read = {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "rollout"
    }
    assert "engine_args" in read
    assert read <= {*STARTED_WITH}


def test_the_live_display_has_a_line_for_every_run(open_written):
    comparison = open_written(METHODS + SHARED, budget="steps = 4", rollout=ROLLOUT)
    tasks = [comparison.task(label, 0, 1e-3) for label in ("lora", "rslora")]
    console = Console(file=StringIO(), force_terminal=True, width=100)
    with live_lines(console) as lines:
        for task in tasks:
            add_line(lines, task)
        lines.refresh()
        show_step(lines, lines.task_ids[1], 3, {"reward/mean": 0.25})
        lines.refresh()
    said = Text.from_ansi(console.file.getvalue()).plain
    assert "lora lr 0.001 seed 0" in said
    assert "0/4" in said
    assert "3/4 reward 0.250" in said


REFUSED = {
    "[methods.full]\nlr = 1e-3\n": "trains the whole model",
    "[methods.galore]\nlr = 1e-3\n": "trains the whole model",
    "[methods.prompt_tuning]\nlr = 1e-3\n": "vLLM does not serve it",
    '[methods.lora]\nlr = 1e-3\n[settings.rollout]\nmode = "async"\n': "rollout.mode",
}


@pytest.mark.parametrize(("text", "named"), REFUSED.items())
def test_a_run_that_needs_an_engine_of_its_own_is_refused(write_comparison, capsys, text, named):
    path = write_comparison(text + SHARED, rollout=ROLLOUT)
    assert main(["compare", str(path)]) == 2
    said = capsys.readouterr().err
    assert 'executor.kind = "shared"' in said
    assert named in said


def test_runs_of_different_bases_or_lengths_are_refused(write_comparison, capsys):
    text = METHODS + "[methods.lora.settings.model]\nmax_len = 99\n" + SHARED
    path = write_comparison(text, rollout=ROLLOUT)
    assert main(["compare", str(path)]) == 2
    assert "model.max_len is 99" in capsys.readouterr().err
