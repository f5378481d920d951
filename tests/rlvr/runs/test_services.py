"""TensorBoard, Trackio and MLflow as they are, offline; skipped where they are not installed."""

import json
import sys

import pytest

from rlvr.cli import main
from rlvr.runs.services import SERVICES
from rlvr.runs.tracker import Tracker

PASS = "eval/aime24/pass@k"


def run_twice(recipe, folder):
    """A run of four steps that was killed after the third and resumed at the second."""
    folder.mkdir()
    tracker = Tracker(recipe, folder, "abcd1238", 0)
    for step in (1, 2, 3):
        tracker.log(step, {"reward/mean": step / 10, PASS: 0.5})
    tracker.close()
    tracker = Tracker(recipe, folder, "abcd1238", 2)
    for step in (3, 4):
        tracker.log(step, {"reward/mean": step / 100, PASS: 0.25})
    tracker.attach_report(lambda _folder: "<html>the page</html>")
    tracker.close()


REDONE = [(1, 0.1), (2, 0.2), (3, 0.3), (3, 0.03), (4, 0.04)]
"""(step, reward) of `run_twice` where a tracker keeps what was logged before."""


@pytest.mark.parametrize("name", SERVICES)
def test_a_tracker_that_is_not_installed_is_refused_before_anything_loads(
    write_recipe, tmp_path, capsys, monkeypatch, name
):
    monkeypatch.setitem(sys.modules, name, None)  # as Python finds a package that is not there
    recipe = write_recipe(track={"to": [name], "wandb": "auto" if name == "wandb" else "disabled"})
    assert main(["train", str(recipe)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f'track.to names "{name}"' in line
    assert f"pip install {name} " in line
    assert not (tmp_path / "runs").exists()


def test_tensorboard_draws_a_resumed_run_as_one_curve(make_recipe, tmp_path, capfd):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_twice(make_recipe(track={"to": ["tensorboard"]}), tmp_path / "run")
    assert "failed" not in capfd.readouterr().err
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    curve = [(event.step, round(event.value, 6)) for event in events.Scalars("reward/mean")]
    assert curve == [(1, 0.1), (2, 0.2), (3, 0.03), (4, 0.04)]
    assert [event.value for event in events.Scalars(PASS)] == [0.5, 0.5, 0.25, 0.25]
    text = events.Tensors("recipe/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert "lr = 0.001" in text
    assert not (tmp_path / "run" / "report.html").exists(), "TensorBoard takes no report"


def test_a_tracker_that_cannot_start_is_named_and_the_run_goes_on(make_recipe, tmp_path, capfd):
    pytest.importorskip("tensorboard")
    (tmp_path / "tensorboard").write_text("a file where the folder should be")
    tracker = Tracker(make_recipe(track={"to": ["tensorboard"]}), tmp_path, "abcd1238", 0)
    tracker.log(1, {"reward/mean": 0.5})
    tracker.close()
    assert "track.to: tensorboard failed" in capfd.readouterr().err
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["step"] == 1


@pytest.mark.slow
def test_mlflow_goes_on_with_the_run_that_it_has(make_recipe, tmp_path, monkeypatch, capfd):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)  # its artifacts go there
    run_twice(make_recipe(track={"to": ["mlflow"], "project": "p"}), tmp_path / "run")
    assert "failed" not in capfd.readouterr().err
    (run,) = mlflow.search_runs(experiment_names=["p"], output_format="list")
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.params["optim.lr"] == "0.001"
    client = mlflow.MlflowClient()
    history = client.get_metric_history(run.info.run_id, "reward/mean")
    assert sorted((one.step, one.value) for one in history) == sorted(REDONE)
    assert run.data.metrics["eval/aime24/pass_at_k"] == 0.25
    (report,) = client.list_artifacts(run.info.run_id)
    assert report.path == "report.html"


@pytest.mark.slow
def test_trackio_goes_on_with_the_run_that_it_has(make_recipe, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    trackio = pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    run_twice(make_recipe(track={"to": ["trackio"], "project": "p"}), tmp_path / "run")
    assert "failed" not in capfd.readouterr().err
    (run,) = trackio.Api().runs("p")
    assert run.name == "run-abcd1238"
    assert run.config["optim"]["lr"] == 0.001
    logs = SQLiteStorage.get_logs("p", run.name)
    curve = [(one["step"], one["reward/mean"]) for one in logs if "reward/mean" in one]
    assert sorted(curve) == sorted(REDONE)
