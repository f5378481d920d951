"""One run per folder, made whole, and resumed only as it was begun."""

import errno
import fcntl
import json
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rlvr.cli import main
from rlvr.common.errors import ConfigError
from rlvr.common.files import Lenient, write_whole
from rlvr.runs.checkpoint import HASHES, STATE_FOLDER, intact_checkpoints
from rlvr.runs.folder import check_same_data, check_same_recipe, create_run_folder, lock_run_folder

HOLD = """
import sys, time
from pathlib import Path
from rlvr.runs.folder import lock_run_folder
with lock_run_folder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.process
def test_a_folder_in_use_is_refused_and_free_again_when_its_holder_is_killed(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=f"process {holder.pid} is training in it"):
            lock_run_folder(tmp_path).__enter__()
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    with lock_run_folder(tmp_path):
        pass
    with lock_run_folder(tmp_path):
        pass


def test_a_file_system_without_locks_is_said_and_stops_nothing(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with lock_run_folder(tmp_path):
        assert "no lock (" in capsys.readouterr().err


@pytest.fixture
def run(make_recipe, tmp_path):
    """(folder of a run that has not begun to train, its recipe)."""
    recipe = make_recipe()
    facts = {"run_id": "x", "model": recipe.model.path, "data": {"sha256": "0" * 64}}
    create_run_folder(tmp_path / "runs" / "run", recipe, facts)
    return tmp_path / "runs" / "run", recipe


def test_a_run_folder_appears_with_its_files_or_not_at_all(run, make_recipe):
    folder, recipe = run
    assert {path.name for path in folder.iterdir()} == {"config.toml", "manifest.json"}
    assert [path.name for path in folder.parent.iterdir()] == ["run"]
    with pytest.raises(ConfigError, match=r"run\.name"):
        create_run_folder(folder, recipe, {})
    assert [path.name for path in folder.parent.iterdir()] == ["run"]


def test_resuming_by_another_recipe_lists_what_differs(run, make_recipe):
    folder, recipe = run
    check_same_recipe(folder, recipe)
    check_same_recipe(folder, make_recipe(run={"name": "elsewhere"}))
    changed = make_recipe(optim={"lr": 2e-3}, adapter={"rank": 8})
    with pytest.raises(ConfigError) as error:
        check_same_recipe(folder, changed)
    assert "adapter.rank = 8 (the run has 4)" in str(error.value)
    assert "optim.lr = 0.002 (the run has 0.001)" in str(error.value)
    assert "train" not in str(error.value)


def test_the_command_line_resumes_by_an_equal_recipe_only(run, write_recipe, capsys):
    folder, _ = run
    path = write_recipe()
    assert main(["train", str(path), "--resume", str(folder), "--train.steps", "9"]) == 2
    assert "train.steps = 9 (the run has 3)" in capsys.readouterr().err
    assert main(["train", "--resume", str(folder), "--train.steps", "9"]) == 2
    assert "keeps its settings" in capsys.readouterr().err


def test_resuming_on_other_data_is_refused(run, capsys):
    folder, _ = run
    assert main(["train", "--resume", str(folder)]) == 2
    assert "its problems have changed since the run began" in capsys.readouterr().err
    check_same_data("x.jsonl", "a", "a")


def test_what_cannot_be_written_leaves_what_was_there(tmp_path):
    path = tmp_path / "file.json"
    write_whole(path, "old")
    (tmp_path / ".file.json.partial").mkdir()
    with pytest.raises(OSError, match="Is a directory"):
        write_whole(path, "new")
    assert path.read_text() == "old"


def test_a_log_on_a_full_disk_stops_nothing(tmp_path):
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with (tmp_path / "log").open("w", buffering=1) as log:
        lenient = Lenient(log)
        print("begun", file=lenient)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (log.tell(), hard))
            with pytest.raises(OSError, match="too large"):
                print("lost", file=log)
            for _ in range(10_000):
                print("lost", file=lenient, flush=True)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        print("ended", file=lenient)
    words = (tmp_path / "log").read_text().split()
    assert (words[0], words[-1]) == ("begun", "ended")


def checkpoint(folder: Path) -> Path:
    """A folder that looks whole to `damage`."""
    from rlvr.runs.checkpoint import _hashes

    (folder / STATE_FOLDER).mkdir(parents=True)
    (folder / "weights").write_text("w")
    (folder / STATE_FOLDER / HASHES).write_text(json.dumps(_hashes(folder)))
    return folder


def test_a_checkpoint_whose_writer_died_before_naming_it_is_not_lost(tmp_path):
    checkpoint(tmp_path / "checkpoints" / "step_1")
    checkpoint(tmp_path / "checkpoints" / ".step_2.partial")
    half = checkpoint(tmp_path / "checkpoints" / ".step_3.partial")
    (half / "weights").write_text("")
    assert [path.name for path in intact_checkpoints(tmp_path)] == ["step_1", "step_2"]


def test_no_duration_depends_on_the_wall_clock(pytestconfig):
    """Clocks jump: whatever is measured or waited for uses a monotonic one."""
    wall = re.compile(r"\btime\.time\(|datetime\.now|utcnow|time\.localtime")
    for package in ("rlvr", "rewards", "eval"):
        for path in (pytestconfig.rootpath / package).rglob("*.py"):
            assert not wall.search(path.read_text()), path
