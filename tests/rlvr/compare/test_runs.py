"""Real runs of a tiny policy: reuse, pause, resume, change, failure, pruning, the files."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from rlvr.cli import main
from rlvr.compare.comparison import survivors
from rlvr.compare.execution.execute import execute
from rlvr.compare.execution.executors import open_executor
from rlvr.compare.execution.task import OUTCOME, RunTask, is_current, run_key, settled
from rlvr.compare.execution.warm_engine import WarmEngine
from rlvr.runs.reader import read_metrics
from tests.rlvr.small import steady_metrics

TWO = "[methods.lora]\nlr = 1e-3\n[methods.full]\nlr = 1e-4\n"
QUIET = Console(quiet=True)


def test_a_paused_run_goes_on_to_repeat_the_uninterrupted_one_and_a_finished_one_is_left_alone(
    open_written,
):
    comparison = open_written(TWO, budget="steps = 3")
    whole = comparison.task("lora", 0, 1e-3)
    apart = replace(whole, recipe=whole.recipe.model_copy(
        update={"run": whole.recipe.run.model_copy(update={"name": "apart"})}))  # fmt: skip
    paused = execute(replace(apart, until=1), WarmEngine(), QUIET)
    assert (paused.status, paused.steps) == ("paused", 1)
    assert (apart.folder / "eval" / "step_1.json").exists()
    (apart.folder / OUTCOME).unlink()  # as if killed between its checkpoint and its outcome
    again = execute(replace(apart, until=1), WarmEngine(), QUIET)
    assert (again.status, again.steps) == ("paused", 1), "it does not run past its pause"
    assert execute(apart, WarmEngine(), QUIET).status == "finished"
    assert execute(whole, WarmEngine(), QUIET).status == "finished"
    ours, theirs = steady_metrics(apart.folder), steady_metrics(whole.folder)
    evaluated = [name for name in ours[0] if name.startswith("eval/")]
    assert "eval/accuracy" in evaluated, "evaluated at the pause"
    for name in evaluated:
        del ours[0][name]
    assert ours == theirs
    before = (whole.folder / "metrics.jsonl").stat().st_mtime_ns
    assert execute(whole, WarmEngine(), QUIET).status == "finished"
    assert (whole.folder / "metrics.jsonl").stat().st_mtime_ns == before


def test_the_key_changes_with_what_decides_the_numbers_and_with_nothing_else(open_written):
    comparison = open_written(TWO)
    task = comparison.task("lora", 0, 1e-3)

    def key(section, **values):
        part = getattr(task.recipe, section).model_copy(update=values)
        return run_key(task.recipe.model_copy(update={section: part}), task.budget)

    same = run_key(task.recipe, task.budget)
    assert key("run", name="other") == same
    assert key("track", rollouts_per_step=1) == same
    for section, values in (
        ("optim", {"lr": 2e-3}),
        ("train", {"seed": 1}),
        ("rollout", {"temperature": 0.9}),
        ("eval", {"samples": 2}),
    ):
        assert key(section, **values) != same
    assert RunTask.from_json(json.loads(json.dumps(task.to_json()))) == task


def test_a_default_that_has_changed_since_makes_a_run_out_of_date(open_written):
    task = open_written(TWO, budget="steps = 1").task("lora", 0, 1e-3)
    assert execute(task, WarmEngine(), QUIET).status == "finished"
    assert is_current(task)
    config = task.folder / "config.toml"
    config.write_text(config.read_text().replace("max_grad_norm = 1.0", "max_grad_norm = 0.5"))
    assert not is_current(task)
    assert settled(task) is None
    assert execute(task, WarmEngine(), QUIET).status == "finished"
    assert "max_grad_norm = 1.0" in config.read_text()


def test_a_run_that_fails_says_why_does_not_stop_the_others_and_can_be_tried_again(
    open_written, tmp_path
):
    comparison = open_written(TWO)
    good = comparison.task("lora", 0, 1e-3)
    data = good.recipe.data.model_copy(update={"path": str(tmp_path / "missing.jsonl")})
    bad = replace(good, recipe=good.recipe.model_copy(update={
        "data": data, "run": good.recipe.run.model_copy(update={"name": "bad"})}))  # fmt: skip
    executor = comparison.recipe.executor
    with open_executor(executor, comparison.folder, QUIET) as run:
        outcomes = run([bad, good])
    assert [o.status for o in outcomes] == ["failed", "finished"]
    assert "no such file" in outcomes[0].reason
    (tmp_path / "missing.jsonl").write_text(Path(good.recipe.data.path).read_text())
    with open_executor(executor, comparison.folder, QUIET) as run:
        assert run([bad])[0].status == "failed", "kept until told otherwise"
    with open_executor(executor, comparison.folder, QUIET, retry_failed=True) as run:
        assert run([bad])[0].status == "finished"


def test_a_comparison_writes_what_was_agreed_and_a_second_time_trains_nothing(
    write_comparison, capsys, tmp_path
):
    recipe = write_comparison(TWO)
    assert main(["compare", str(recipe)]) == 0
    said = capsys.readouterr().out
    folder = tmp_path / "runs" / "cmp"
    tree = json.loads((folder / "comparison.json").read_text())
    assert tree["metric"] == "eval/accuracy"
    assert tree["budget"] == {"steps": 2}
    assert [m["label"] for m in tree["methods"]] == ["lora", "full"]
    for method in tree["methods"]:
        lo, hi = method["accuracy"]["ci95"]
        assert lo <= method["accuracy"]["value"] <= hi
        assert method["num_params"] > 0
        assert method["tokens"] > 0
        assert [r["status"] for r in method["runs"]] == ["finished"] * 2
        assert all((folder / r["run"] / "summary.json").exists() for r in method["runs"])
    (pair,) = tree["pairs"]
    assert pair["text"] in tree["sentences"]
    assert pair["text"] in said
    assert pair["p_holm"] == pair["p"], "one pair needs no correction"
    assert "| lora |" in (folder / "comparison.md").read_text()
    times = {p: p.stat().st_mtime_ns for p in folder.glob(f"runs/*/{OUTCOME}")}
    assert len(times) == 4
    assert main(["compare", str(recipe), "--plan"]) == 0
    assert "2 runs, 2 of them done; 0.00 h" in capsys.readouterr().out
    assert main(["compare", str(recipe)]) == 0
    assert {p: p.stat().st_mtime_ns for p in folder.glob(f"runs/*/{OUTCOME}")} == times


@pytest.mark.slow
def test_halving_ends_the_worst_method_at_its_rung_and_reports_it(write_comparison, tmp_path):
    text = TWO + "[prune]\nrungs = [1]\n"
    assert main(["compare", str(write_comparison(text, seeds="[0]"))]) == 0
    tree = json.loads((tmp_path / "runs" / "cmp" / "comparison.json").read_text())
    (row,) = tree["pruned"]
    assert (row["steps"], row["rung"]) == (1, 1)
    by_label = {m["label"]: m for m in tree["methods"]}
    (ended,) = by_label[row["label"]]["runs"]
    assert (ended["status"], ended["steps"]) == ("pruned", 1)
    assert by_label[row["label"]]["accuracy"] is None
    assert tree["pairs"] == []
    assert any("was pruned after 1 steps" in sentence for sentence in tree["sentences"])
    assert main(["compare", str(tmp_path / "compare.toml")]) == 0
    again = json.loads((tmp_path / "runs" / "cmp" / "comparison.json").read_text())
    assert again["pruned"] == tree["pruned"], "a finished run is judged by its value at the rung"


@pytest.mark.parametrize(
    ("values", "keep", "left"),
    [
        ({"a": 0.1, "b": 0.3, "c": 0.2}, 0.5, ["b", "c"]),
        ({"a": None, "b": 0.0, "c": 0.2, "d": 0.1}, 0.5, ["c", "d"]),
        ({"a": 0.1}, 0.5, ["a"]),
    ],
)
def test_the_best_fraction_survives_rounded_up(values, keep, left):
    assert survivors(values, keep) == left


def test_a_budget_of_tokens_ends_every_run_with_the_step_that_reaches_it(open_written):
    comparison = open_written(TWO, budget="tokens = 1000")
    task = comparison.task("lora", 0, 1e-3)
    outcome = execute(task, WarmEngine(), QUIET)
    assert outcome.status == "finished"
    rows = read_metrics(task.folder)
    tokens = [row["rollout/tokens_per_s"] * row["time/rollout_s"] for row in rows]
    assert sum(tokens[:-1]) < 1000 <= sum(tokens)
