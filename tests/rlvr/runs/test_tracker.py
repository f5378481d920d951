"""The real W&B, offline and unreachable; metrics.jsonl whatever happens."""

import json

import pytest

from rlvr.runs.metrics import METRICS
from rlvr.runs.tracker import Tracker, is_traced
from tests.waiting import wait_until


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").open()]


def test_offline_wandb_gets_its_files_inside_the_run_folder(make_recipe, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    tracker = Tracker(make_recipe(track={"wandb": "offline"}), tmp_path, "abcd1234", 0)
    tracker.log(1, {"reward/mean": 0.5})
    tracker.close()
    assert list((tmp_path / "wandb").glob("offline-run-*-abcd1234/run-abcd1234.wandb"))
    assert lines(tmp_path) == [{"step": 1, "reward/mean": 0.5}]


def test_two_runs_of_one_process_are_two_runs_of_wandb(make_recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    recipe = make_recipe(track={"wandb": "offline"})
    folders = [tmp_path / name for name in ("first", "second")]
    trackers = []
    for i, folder in enumerate(folders):
        folder.mkdir()
        trackers.append(Tracker(recipe, folder, f"run{i}", 0))
    for tracker in trackers:
        tracker.log(1, {"reward/mean": 0.5})
        tracker.close()
    for i, folder in enumerate(folders):
        (log,) = folder.glob(f"wandb/offline-run-*-run{i}/*.wandb")
        # W&B's own process writes it, and may still be at it
        assert wait_until(lambda log=log: b"reward/mean" in log.read_bytes())


def test_an_unreachable_wandb_is_said_and_logged_offline(make_recipe, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "5")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    tracker = Tracker(make_recipe(track={"wandb": "auto"}), tmp_path, "abcd1235", 0)
    tracker.log(1, {"reward/mean": 0.5})
    tracker.close()
    assert "W&B online failed" in capfd.readouterr().err
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert lines(tmp_path) == [{"step": 1, "reward/mean": 0.5}]


class Online:
    """Stands in for W&B's run, which no test can reach: it has steps 1 and 2 of the run already."""

    step = 3

    def __init__(self) -> None:
        self.got = []

    def define_metric(self, name, **_):
        pass

    def log(self, metrics, step):
        self.got.append((step, metrics))

    def finish(self):
        pass


def test_wandb_is_sent_the_steps_that_it_missed(make_recipe, tmp_path, monkeypatch):
    rows = [{"step": step, "reward/mean": step / 10} for step in range(1, 5)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    online = Online()
    monkeypatch.setattr("wandb.init", lambda **_: online)
    tracker = Tracker(make_recipe(track={"wandb": "online"}), tmp_path, "abcd1236", 4)
    tracker.log(5, {"reward/mean": 0.5})
    tracker.close()
    assert online.got == [(s, {"step": s, "reward/mean": s / 10}) for s in (3, 4, 5)]


def test_a_resumed_run_forgets_the_steps_it_does_again(make_recipe, tmp_path):
    recipe = make_recipe()
    tracker = Tracker(recipe, tmp_path, "x", 0)
    for step in (1, 2, 3):
        tracker.log(step, {"reward/mean": step / 10})
    tracker.close()
    tracker = Tracker(recipe, tmp_path, "x", 2)
    tracker.log(3, {"reward/mean": 0.9})
    tracker.close()
    assert [(row["step"], row["reward/mean"]) for row in lines(tmp_path)] == [
        (1, 0.1),
        (2, 0.2),
        (3, 0.9),
    ]


def test_a_name_outside_the_table_is_a_bug(make_recipe, tmp_path):
    assert "reward/mean" in METRICS
    with pytest.raises(AssertionError, match="not in METRICS"):
        Tracker(make_recipe(), tmp_path, "x", 0).log(1, {"rewards/mean": 1.0})


def test_wandb_without_a_folder_to_write_to_stops_nothing(make_recipe, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "wandb"))
    (tmp_path / "wandb").write_text("a file where the folder should be")
    tracker = Tracker(make_recipe(track={"wandb": "offline"}), tmp_path, "abcd1236", 0)
    tracker.log(1, {"reward/mean": 0.5})
    tracker.close()
    assert lines(tmp_path) == [{"step": 1, "reward/mean": 0.5}]


def test_a_half_written_last_line_is_dropped_on_resume(make_recipe, tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "reward/mean": 0.5}\n{"step": 2, "rew')
    tracker = Tracker(make_recipe(), tmp_path, "x", 1)
    tracker.log(2, {"reward/mean": 0.7})
    tracker.close()
    assert [row["step"] for row in lines(tmp_path)] == [1, 2]


def test_traces_of_a_long_run_stay_few():
    kept = [step for step in range(1001) if is_traced(step)]
    assert kept == [*range(1, 10), *range(10, 100, 10), *range(100, 1001, 100)]
