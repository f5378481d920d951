"""Whole runs, as a user starts them: in processes of their own, killed with real signals."""

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rlvr.cli import main
from rlvr.common.machine import gpu_facts
from rlvr.runs.metrics import is_known
from tests.rlvr.small import read_lines, steady_metrics
from tests.waiting import HANG_S, wait_until

COMMAND = [sys.executable, "-m", "rlvr.cli", "train"]


@pytest.fixture(scope="module")
def finished(rlvr_command, recipe_tree, make_recipe, digit_problems, tmp_path_factory):
    """(run folder, output) of an uninterrupted run of three steps."""
    from rlvr.config.toml import dump_toml

    folder = tmp_path_factory.mktemp("finished")
    recipe = make_recipe(
        run={"dir": str(folder / "runs"), "name": "run"},
        eval={"path": str(digit_problems), "limit": 20, "every": 2},
        train={"steps": 3, "checkpoint_every": 1, "keep_checkpoints": 2},
        track={"rollouts_per_step": 8},
    )
    (folder / "recipe.toml").write_text(dump_toml(recipe))
    done = rlvr_command("train", folder / "recipe.toml")
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "run", done.stdout


def test_a_run_folder_holds_everything_that_was_promised(finished):
    run, output = finished
    rows = read_lines(run)
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(is_known(name) for row in rows for name in row if name != "step")
    always = {
        "optim/lr",
        "time/step_s",
        "sync/logprob_error",
        "policy/entropy",
        "train/padding_frac",
    }
    assert all(always <= set(row) for row in rows)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["steps"] == 3
    uses = {int(times): count for times, count in summary["problem_uses"].items()}
    assert sum(uses.values()) == 60
    assert sum(times * count for times, count in uses.items()) == 3 * 2, "three steps of two groups"
    assert summary["best_checkpoint"].startswith("checkpoints/step_")
    assert (run / summary["best_checkpoint"] / "adapter_model.safetensors").exists()
    lo, hi = summary["difference_ci95"]
    assert lo <= summary["accuracy_after"] - summary["accuracy_before"] <= hi
    manifest = json.loads((run / "manifest.json").read_text())
    assert {"torch", "accelerate", "transformers"} <= manifest["versions"].keys()
    assert manifest["gpu"] == gpu_facts()
    module = manifest["modules"]["model.layers.0.self_attn.q_proj"]
    assert (module["rank"], module["scaling"]) == (4, 2.0)
    assert manifest["trainable_parameters"] < manifest["total_parameters"] / 5
    assert (run / "reward_curve.png").read_bytes().startswith(b"\x89PNG")
    with gzip.open(run / "rollouts" / "step_1.jsonl.gz", "rt") as file:
        rollouts = [json.loads(line) for line in file]
    assert len(rollouts) == 8
    assert abs(sum(r["advantage"] for r in rollouts)) < 1e-3
    assert all(r["reward"] != r["advantage"] for r in rollouts)
    assert str(run) in output
    assert "held-out accuracy" in output


def counted_traces(run: Path) -> dict[str, list[list]]:
    """The traces of a run as far as no clock decides."""
    vague = {"begin_s", "end_s"}
    trees = {path.name: json.loads(path.read_text()) for path in (run / "trace").iterdir()}
    return {
        name: [
            [v for c, v in zip(tree["columns"], row, strict=True) if c not in vague]
            for row in tree["rows"]
        ]
        for name, tree in trees.items()
    }


def test_a_run_keeps_traces_of_its_steps(finished):
    traces = counted_traces(finished[0])
    assert traces.keys() == {"step_1.json", "step_2.json", "step_3.json"}
    # a step may find enough groups left over from the one before, and ask for none
    asked = [row.get("rollout/responses", 0) for row in read_lines(finished[0])]
    assert [len(rows) for _, rows in sorted(traces.items())] == asked
    tree = json.loads((finished[0] / "trace" / "step_2.json").read_text())
    (update, begin, end), (sync, sync_begin, sync_end) = tree["phases"]
    assert (update, sync) == ("update", "sync")
    assert 0 < begin < end <= sync_begin < sync_end <= tree["seconds"]


def test_old_checkpoints_go_and_the_newest_stay(finished):
    names = {path.name for path in (finished[0] / "checkpoints").iterdir()}
    assert {"step_2", "step_3"} <= names
    assert len(names) <= 3, "two newest and the best"


def start(recipe: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, str(recipe)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for_step(run: Path, step: int) -> None:
    lines = run / "metrics.jsonl"
    assert wait_until(lambda: lines.exists() and lines.read_text().count("\n") >= step)


def alive_in_session(session: int) -> list[str]:
    """Command lines of processes of the session that are not zombies."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append((entry / "cmdline").read_text().replace("\0", " "))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_checkpoint_and_resuming_repeats_the_uninterrupted_run(
    write_recipe, rlvr_command, finished, digit_problems, tmp_path, signum
):
    recipe = write_recipe(
        eval={"path": str(digit_problems), "limit": 20, "every": 2},
        train={"steps": 3, "checkpoint_every": 1, "keep_checkpoints": 2},
        track={"rollouts_per_step": 8},
    )
    run = tmp_path / "runs" / "run"
    process = start(recipe)
    wait_for_step(run, 1)
    os.kill(process.pid, signum)
    output, _ = process.communicate(timeout=HANG_S)
    assert process.returncode == 128 + signum, output
    assert f"rlvr train --resume {run}" in output
    assert wait_until(lambda: not alive_in_session(process.pid), 60)
    done = rlvr_command("train", "--resume", run)
    assert done.returncode == 0, done.stderr
    assert steady_metrics(run) == steady_metrics(finished[0])
    assert counted_traces(run) == counted_traces(finished[0])
    last = "checkpoints/step_3/adapter_model.safetensors"
    assert (run / last).read_bytes() == (finished[0] / last).read_bytes()


def test_a_damaged_checkpoint_is_said_and_the_one_before_it_continues(
    finished, rlvr_command, tmp_path
):
    run = shutil.copytree(finished[0], tmp_path / "run")
    weights = run / "checkpoints" / "step_3" / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    done = rlvr_command("train", "--resume", run)
    assert done.returncode == 0, done.stderr
    assert "step_3 is damaged (adapter_model.safetensors is changed)" in done.stderr
    assert weights.read_bytes() == whole, "the step was done again"
    assert steady_metrics(run) == steady_metrics(finished[0])


def test_a_run_without_an_intact_checkpoint_is_refused(finished, rlvr_command, tmp_path):
    run = shutil.copytree(finished[0], tmp_path / "run")
    for checkpoint in (run / "checkpoints").iterdir():
        (checkpoint / "trainer_state" / "optimizer.pt").unlink()
    done = rlvr_command("train", "--resume", run)
    assert done.returncode == 2
    assert "optimizer.pt is missing" in done.stderr
    assert "no usable checkpoint" in done.stderr


BAD = [
    ({"path": "nowhere.jsonl"}, {}, "no such file"),
    ({}, {"model": {"path": "no-such-owner/no-such-model"}}, "no model can be loaded"),
    ({"problem_field": "question"}, {}, "no such field"),
    ({}, {"adapter": {"method": "lorra"}}, "did you mean lora?"),
    ({}, {"adapter": {"target_modules": ["w_proj"]}}, "adapter.target_modules"),
    ({"max_prompt_len": 3}, {}, "tokens"),
]


@pytest.mark.parametrize(("data", "sections", "message"), BAD, ids=[m for *_, m in BAD])
def test_bad_input_exits_2_with_one_line_and_no_run_folder(
    write_recipe, capsys, tmp_path, data, sections, message
):
    assert main(["train", str(write_recipe(data=data, **sections))]) == 2
    stderr = capsys.readouterr().err
    lines = [line for line in stderr.splitlines() if line.startswith("rlvr: error: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in stderr
    assert not (tmp_path / "runs").exists()


def test_an_existing_run_folder_is_refused_with_both_remedies(write_recipe, rlvr_command, tmp_path):
    (tmp_path / "runs" / "run").mkdir(parents=True)
    done = rlvr_command("train", write_recipe())
    assert done.returncode == 2
    assert "--resume" in done.stderr
    assert "another name" in done.stderr
    assert list((tmp_path / "runs" / "run").iterdir()) == []
    done = rlvr_command("train", "--resume", tmp_path / "runs" / "run")
    assert done.returncode == 2
    assert "not a run folder" in done.stderr


def test_demanding_vllm_without_it_is_refused(write_recipe, tmp_path):
    blocker = tmp_path / "blocker"
    blocker.mkdir()
    (blocker / "sitecustomize.py").write_text(
        "import importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'vllm' else find(name, *a)\n"
    )
    path = os.pathsep.join([str(blocker), *filter(None, [os.environ.get("PYTHONPATH")])])
    for engine, code, message in (
        ("vllm", 2, "vLLM is not installed"),
        ("auto", 0, "transformers"),
    ):
        recipe = write_recipe(
            rollout={"engine": engine}, train={"steps": 1}, run={"name": f"run-{engine}"}
        )
        done = subprocess.run(
            [*COMMAND, str(recipe)],
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        assert message in done.stderr


@pytest.fixture(scope="module")
def short_quickstart_policy(rlvr_command, pytestconfig) -> str:
    """The quickstart's policy after a tenth of its warm start."""
    recipe = pytestconfig.rootpath / "recipes" / "quickstart_sft.toml"
    done = rlvr_command("sft", recipe, "--data.num_problems", 3200, "--run.name", "short")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.engine
def test_problems_out_of_reach_stop_the_run_in_plain_words(
    write_recipe, rlvr_command, short_quickstart_policy, tmp_path, pytestconfig
):
    data = Path(os.environ.get("RLVR_DATA", pytestconfig.rootpath.parent / "shared" / "data"))
    path = data / "gsm8k_train.jsonl"
    if not path.exists():
        pytest.skip("needs gsm8k_train.jsonl: set RLVR_DATA to the folder that holds it")
    rows = [json.loads(line) for line in path.open()]
    hard = [row for row in rows if row["answer"].isdigit() and len(row["answer"]) > 3]
    (tmp_path / "hard.jsonl").write_text("".join(json.dumps(row) + "\n" for row in hard[:200]))
    recipe = write_recipe(
        model={"path": short_quickstart_policy, "max_len": 512},
        data={"path": str(tmp_path / "hard.jsonl"), "on_bad_row": "skip"},
        rollout={"engine": "vllm", "prompts_per_step": 4, "max_response_len": 96},
        reward={"answer_mode": "boxed"},
        sampling={"max_refills": 2},
        train={"steps": 2},
    )
    done = rlvr_command("train", recipe)
    assert done.returncode == 1, done.stderr[-3000:]
    # vLLM warns at every start on a CPU of what is set there on purpose
    assert "Enforce eager set" not in done.stderr
    assert "Triton is installed" not in done.stderr
    assert re.search(r"no group carried a signal in \d+ prompts, \d+ responses", done.stderr)
    assert "all rewards were 0 (" in done.stderr
    remedies = ("raise rollout.max_response_len", "data.prompt_template", "take easier ones")
    assert any(remedy in done.stderr for remedy in remedies)
    assert "Traceback" not in done.stderr
