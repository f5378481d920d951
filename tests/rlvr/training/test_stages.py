"""Runs with stages: what changes at a boundary, and that a killed one repeats the uninterrupted."""

import json
import os
import signal
from pathlib import Path

import pytest
from rich.console import Console

from rlvr.config.toml import dump_toml, load_recipe
from rlvr.config.train import TrainRecipe
from rlvr.training.loop import resume, train
from tests.rlvr.small import read_lines, steady_metrics, write_problems
from tests.rlvr.training.test_train import start, wait_for_step
from tests.waiting import HANG_S

QUIET = Console(quiet=True)


def stages_of(folder: Path) -> list[dict]:
    """From step 2 on other problems, longer and fewer responses, a new reference and optimizer;
    from step 4 on the rate alone changes."""
    other = write_problems(folder / "other.jsonl")
    other.write_text(other.read_text().replace("apples", "pears"))
    first = {
        "at_step": 2,
        "reset_reference": True,
        "reset_optimizer": True,
        "data": {"path": str(other)},
        "rollout": {"max_response_len": 40, "group_size": 4, "temperature": 0.9},
    }
    return [first, {"at_step": 4, "optim": {"lr": 1e-4}}]


@pytest.mark.process
def test_a_stage_begins_at_its_step_with_its_settings(make_recipe, tmp_path):
    short = {"rollout": {"max_response_len": 12, "group_size": 4}, "optim": {"lr": 1e-4}}
    recipe = make_recipe(
        stage=[{"at_step": 1, "reset_reference": True} | short],
        algorithm={"kl_beta": 0.1},
        train={"steps": 2},
        run={"dir": str(tmp_path), "name": "run"},
    )
    run = train(recipe, Path("r.toml"), QUIET)
    before, after = read_lines(run)
    assert before["rollout/response_len_mean"] > 12 >= after["rollout/response_len_mean"]
    assert (before["optim/lr"], after["optim/lr"]) == (1e-3, 1e-4)
    facts = json.loads((run / "manifest.json").read_text())
    assert [stage["at_step"] for stage in facts["stages"]] == [1]
    assert after["policy/kl_ref"] == pytest.approx(0, abs=1e-6), "the reference is the policy"


@pytest.fixture(scope="module", params=["lora", "full"])
def whole(request, make_recipe, tmp_path_factory):
    """(method, recipe, folder) of an uninterrupted run through two boundaries."""
    folder = tmp_path_factory.mktemp("stages")
    recipe = make_recipe(
        stage=stages_of(folder),
        algorithm={"kl_beta": 0.1},
        train={"steps": 5},
        run={"dir": str(folder), "name": "whole"},
    )
    if request.param == "full":
        adapter = type(recipe.adapter)(method="full")
        recipe = recipe.model_copy(update={"adapter": adapter})
    return request.param, recipe, train(recipe, Path("r.toml"), QUIET)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_a_run_that_is_killed_around_a_boundary_repeats_the_uninterrupted(
    whole, rlvr_command, tmp_path, step, signum
):
    method, recipe, expected = whole
    own = recipe.run.model_copy(update={"dir": str(tmp_path), "name": "run"})
    path = tmp_path / "recipe.toml"
    path.write_text(dump_toml(recipe.model_copy(update={"run": own})))
    process, run = start(path), tmp_path / "run"
    wait_for_step(run, step)
    os.kill(process.pid, signum)
    output, _ = process.communicate(timeout=HANG_S)
    assert process.returncode == (-signum if signum == signal.SIGKILL else 128 + signum), output
    done = rlvr_command("train", "--resume", run)
    assert done.returncode == 0, done.stderr
    assert steady_metrics(run) == steady_metrics(expected)
    name = "model.safetensors" if method == "full" else "adapter_model.safetensors"
    last = Path("checkpoints", "step_5", name)
    assert (run / last).read_bytes() == (expected / last).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_a_run_that_ends_at_any_step_goes_on_through_its_stages(whole, tmp_path, stop):
    _, recipe, expected = whole
    own = recipe.run.model_copy(update={"dir": str(tmp_path), "name": "run"})
    recipe = recipe.model_copy(update={"run": own})
    run = train(recipe, Path("r.toml"), QUIET, end=lambda step, _: step == stop)
    assert len(read_lines(run)) == stop
    resume(run, QUIET, same_as=load_recipe(run / "config.toml", [], TrainRecipe))
    assert steady_metrics(run) == steady_metrics(expected)


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.parametrize("rollout", [{"mode": "async", "steps_ahead": 2}, {"partial": True}])
def test_nothing_is_collected_ahead_over_a_boundary(make_recipe, rlvr_command, tmp_path, rollout):
    """With the real vLLM; a run killed in the stage repeats the uninterrupted."""
    shared = {
        "stage": stages_of(tmp_path),
        "rollout": {"engine": "vllm"} | rollout,
        "algorithm": {"kl_beta": 0.1},
        "train": {"steps": 5},
    }
    runs = []
    for name in ("whole", "killed"):
        recipe = make_recipe(**shared, run={"dir": str(tmp_path), "name": name})
        path = tmp_path / f"{name}.toml"
        path.write_text(dump_toml(recipe))
        run = tmp_path / name
        if name == "whole":
            done = rlvr_command("train", path)
        else:
            process = start(path)
            wait_for_step(run, 2)
            os.kill(process.pid, signal.SIGKILL)
            process.communicate(timeout=HANG_S)
            done = rlvr_command("train", "--resume", run)
        assert done.returncode == 0, done.stderr
        runs.append(run)
    # a step of groups left over samples nothing itself
    longest = [row.get("rollout/response_len_mean", 0) for row in read_lines(runs[0])]
    assert max(longest[:2]) <= 32 < max(longest[2:])
    assert steady_metrics(runs[1]) == steady_metrics(runs[0])
