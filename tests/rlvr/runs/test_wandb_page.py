"""The page of a run on the real W&B, offline: what its file on disk says."""

import json
from pathlib import Path

import pytest

from rlvr.config.train import TrainRecipe
from rlvr.runs.metrics import METRICS
from rlvr.runs.tracker import Tracker, write_rollouts
from rlvr.runs.wandb_page import COLUMNS, MAX_INCREMENTS
from tests.rlvr.runs.wandb_file import read_records
from tests.waiting import wait_until

INCREMENTAL = "wandb-run-incremental-table"
BRIEF = '{"brief": 0.25}'


def rollout(step, i):
    return {
        "problem_id": f"p{i}",
        "prompt": f"question {i}",
        "response": f"answer {i} of step {step}",
        "reward": None if i else 1.0,
        "advantage": 0.5,
        "reason": "correct",
        "response_len": 3,
        "truncated": False,
        **({"extra": {"brief": 0.25}} if i else {}),
    }


def track(recipe, folder, steps, resumed, page_of=None):
    # two of one second would share a folder, whose name has the id
    tracker = Tracker(recipe, folder, f"part{resumed}", resumed)
    for step in steps:
        write_rollouts(folder, step, [rollout(step, i) for i in range(2)])
        tracker.log(step, {"reward/mean": step / 10, "eval/accuracy": 0.5})
    if page_of is not None:
        tracker.attach_report(page_of)
    tracker.close()


def finished_records(folder, number):
    """Of the newest of `number` W&B files, once W&B's own process has written its end."""
    files = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(files) == number
    records = {}

    def is_whole():
        records.clear()
        for record in read_records(files[-1]):
            kind = record.WhichOneof("record_type")
            records.setdefault(kind, []).append(getattr(record, kind))
        return "exit" in records

    assert wait_until(is_whole)
    return records


def values(items):
    return {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items}


def artifact_files(records, kind):
    """The files of the artifacts of a kind, in the order in which they were logged."""
    artifacts = [one for one in records["artifact"] if one.type == kind]
    return [Path(c.local_path) for one in artifacts for c in one.manifest.contents]


@pytest.fixture
def offline(make_recipe, monkeypatch):
    """A recipe of four steps that logs to W&B offline."""
    monkeypatch.delenv("WANDB_DATA_DIR", raising=False)
    return make_recipe(track={"wandb": "offline"}, train={"steps": 4})


def test_a_wandb_page_has_the_recipe_every_rollout_and_the_report(offline, tmp_path):
    track(offline, tmp_path, (1, 2), 0)
    track(offline, tmp_path, (3, 4), 2, lambda folder: f"<html>{folder.name}</html>")
    records = finished_records(tmp_path, 2)
    config = values(records["run"][0].config.update)
    assert {key: config[key] for key in TrainRecipe.model_fields} == offline.model_dump(mode="json")
    axes = {one.glob_name: one.step_metric for one in records["metric"] if one.glob_name}
    assert axes == {f"{name.partition('/')[0]}/*": "step" for name in METRICS}
    logged = [values(one.item) for one in records["history"]]
    assert [(row["_step"], row["step"], row["reward/mean"]) for row in logged] == [
        (3, 3, 0.3),
        (4, 4, 0.4),
    ]
    tables = [json.loads(p.read_text()) for p in artifact_files(records, INCREMENTAL)]
    assert {tuple(table["columns"]) for table in tables} == {(*COLUMNS, "extra")}
    # the first of a resumed run has the steps before it
    assert [sorted({row[0] for row in table["data"]}) for table in tables] == [[1, 2, 3], [4]]
    assert tables[1]["data"] == [
        [4, "p0", "question 0", "answer 0 of step 4", 1.0, 0.5, "correct", 3, False, None],
        [4, "p1", "question 1", "answer 1 of step 4", None, 0.5, "correct", 3, False, BRIEF],
    ]
    (report,) = artifact_files(records, "report")
    assert report.is_relative_to(tmp_path / "wandb"), "the home folder may be small"
    assert report.read_text() == (tmp_path / "report.html").read_text()
    assert report.read_text() == f"<html>{tmp_path.name}</html>"


def test_a_long_run_adds_several_steps_at_a_time_to_the_table(make_recipe, tmp_path):
    recipe = make_recipe(track={"wandb": "offline"}, train={"steps": 2 * MAX_INCREMENTS + 1})
    track(recipe, tmp_path, range(1, 6), 0)
    files = artifact_files(finished_records(tmp_path, 1), INCREMENTAL)
    steps = [sorted({row[0] for row in json.loads(p.read_text())["data"]}) for p in files]
    assert steps == [[1, 2, 3], [4, 5]], "every third step, and what is left at the end"


def test_without_a_place_for_tables_metrics_go_on(offline, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "file"))
    (tmp_path / "file").write_text("where the folder should be")
    track(offline, tmp_path, (1, 2), 0)
    records = finished_records(tmp_path, 1)
    assert [values(one.item)["step"] for one in records["history"]] == [1, 2]
    assert "W&B takes no rollouts" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.process
def test_a_real_run_gives_wandb_its_rollouts_and_its_report(write_recipe, rlvr_command, tmp_path):
    recipe = write_recipe(track={"wandb": "offline"}, train={"steps": 2})
    done = rlvr_command("train", recipe)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "run"
    records = finished_records(run, 1)
    (report,) = artifact_files(records, "report")
    assert "Rollouts" in report.read_text()
    tables = [json.loads(p.read_text())["data"] for p in artifact_files(records, INCREMENTAL)]
    assert [[row[0] for row in table] for table in tables] == [[1] * 16, [2] * 16]
    logged = [values(one.item) for one in records["history"]]
    wanted = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    assert [
        {key: row[key] for key in line} for row, line in zip(logged, wanted, strict=True)
    ] == wanted
