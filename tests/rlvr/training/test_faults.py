"""Whole runs to which something real happens: a dying engine, dying workers, a full disk, numbers
that are not finite. They end as runs to which nothing happened, or stop with a checkpoint."""

import gzip
import json
import os
import resource
import signal
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load

from rlvr.common.errors import ConfigError
from rlvr.common.signals import Stopped
from rlvr.engines.engine import EngineLost
from rlvr.engines.restarting import MAX_RESTARTS
from rlvr.engines.transformers import TransformersEngine
from rlvr.runs.checkpoint import NotWrittenError, intact_checkpoints
from rlvr.training.loop import resume, train
from rlvr.training.resume import short_grace
from rlvr.training.skipped_steps import MAX_IN_A_ROW, NotFiniteError
from tests.rlvr.sessions import WatchedSession
from tests.rlvr.small import steady_metrics


def weights(run: Path, step: int) -> bytes:
    return (run / "checkpoints" / f"step_{step}" / "adapter_model.safetensors").read_bytes()


def logged(run: Path) -> list[int]:
    return [row["step"] for row in steady_metrics(run)]


@pytest.fixture(scope="module")
def begin(make_recipe):
    """begin(folder, **what `train` takes or sections): trains three steps into the folder."""

    def run(folder: Path, *, start_engine=None, end=None, **sections):
        sections["run"] = {"dir": str(folder.parent), "name": folder.name}
        recipe = make_recipe(**sections, rollout={"max_response_len": 16})
        return train(recipe, Path("tiny.toml"), Console(quiet=True), start_engine, end)

    return run


@pytest.fixture(scope="module")
def calm(begin, tmp_path_factory):
    """A run that nothing happens to."""
    return begin(tmp_path_factory.mktemp("calm") / "run")


class Watched(TransformersEngine):
    """The real engine, which asks `dies` in every session and `score` whether it dies there.

    dies gets the names of all such calls so far, of all engines of the run.
    """

    def __init__(self, policy, calls: list[str], dies) -> None:
        super().__init__(policy)
        self.calls, self._dies = calls, dies

    def _ask(self, name: str) -> None:
        self.calls.append(name)
        self.lost = self.lost or self._dies(self.calls)
        if self.lost:
            raise EngineLost(f"{name} was its last call")

    def open(self, sampling):
        def ask(number: int) -> None:
            if number == 4:
                self._ask("session")

        return WatchedSession(super().open(sampling), ask)

    def score(self, sequences):
        self._ask("score")
        return super().score(sequences)


def watched(dies, started: list):
    """What `train` takes as start_engine; appends every engine to `started`."""
    calls: list[str] = []

    def start(_recipe, policy, _use_vllm, _mode):
        started.append(Watched(policy, calls, dies))
        return started[-1]

    return start


def test_a_run_whose_engines_die_ends_as_one_whose_engine_lives(begin, calm, tmp_path, capsys):
    started: list = []
    # call 1 is the first sync's; 2 to 4 the first step's, with another sync; 5 the sync's after it
    start = watched(lambda calls: len(calls) in {2, 5, 8}, started)
    run = begin(tmp_path / "run", start_engine=start)
    assert len(started) == 4, "one engine, and one for each that died"
    assert capsys.readouterr().err.count("starting another") == 3
    after = [started[0].calls[number] for number in (2, 5, 8)]
    assert after == ["score"] * 3, "every engine is checked before it works"
    assert steady_metrics(run) == steady_metrics(calm)
    assert weights(run, 3) == weights(calm, 3)


FOR_GOOD = {
    "in a rollout": (lambda calls: len(calls) >= 2, 0),
    "in the sync after an update": (lambda calls: calls.count("score") >= 2, 1),
}


@pytest.mark.parametrize(("dies", "num_steps"), FOR_GOOD.values(), ids=FOR_GOOD)
def test_engine_after_engine_dying_stops_the_run_with_a_checkpoint_that_goes_on(
    begin, calm, tmp_path, dies, num_steps
):
    started: list = []
    with pytest.raises(EngineLost, match=f"{1 + MAX_RESTARTS} times in a row"):
        begin(
            tmp_path / "run",
            start_engine=watched(dies, started),
            train={"steps": 3, "checkpoint_every": 0},
        )
    assert len(started) == 1 + MAX_RESTARTS
    run = tmp_path / "run"
    assert [path.name for path in intact_checkpoints(run)] == [f"step_{num_steps}"]
    resume(run, Console(quiet=True))
    assert weights(run, 3) == weights(calm, 3)
    assert logged(run) == [1, 2, 3]


@pytest.mark.parametrize("resumed", [False, True])
def test_an_engine_that_never_takes_the_weights_is_started_once_and_offers_no_resume(
    begin, tmp_path, capsys, resumed
):
    run, started = tmp_path / "run", []
    if resumed:
        begin(run, train={"checkpoint_every": 1}, end=lambda *_: True)
    refuses = watched(lambda _calls: True, started)
    start = partial(resume, run, Console(quiet=True)) if resumed else partial(begin, run)
    with pytest.raises(ConfigError, match=r"not take this model .*score was its last call; set"):
        start(start_engine=refuses)
    assert len(started) == 1
    said = capsys.readouterr()
    assert "starting another" not in said.err
    assert "--resume" not in said.out + said.err
    assert [path.name for path in intact_checkpoints(run)] == ["step_1"] * resumed


def test_what_an_engine_says_of_a_model_at_its_start_is_one_line(begin, tmp_path):
    def refuses(*_):
        raise ValueError("1 validation error\nGPT2LMHeadModel does not support LoRA yet.")

    with pytest.raises(ConfigError, match="does not support LoRA yet") as refused:
        begin(tmp_path / "run", start_engine=refuses)
    assert "\n" not in str(refused.value)


def test_a_step_that_has_trained_is_kept_when_a_signal_ends_its_evaluation(
    begin, calm, digit_problems, tmp_path
):
    def preempt(calls: list[str]) -> bool:
        """After the syncs at the start and of three steps comes the last evaluation."""
        if calls.count("score") == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return False

    run = tmp_path / "run"
    with pytest.raises(Stopped):
        begin(
            run,
            start_engine=watched(preempt, []),
            eval={"path": str(digit_problems), "limit": 5},
            train={"steps": 3, "checkpoint_every": 0},
        )
    assert [path.name for path in intact_checkpoints(run)] == ["step_3"]
    assert logged(run) == [1, 2]
    resume(run, Console(quiet=True))
    *rows, last = steady_metrics(run)
    assert "eval/accuracy" in last
    plain = {name: value for name, value in last.items() if not name.startswith("eval/")}
    assert [*rows, plain] == steady_metrics(calm)
    assert weights(run, 3) == weights(calm, 3)


def test_no_second_process_trains_in_the_folder_of_a_run(begin, tmp_path):
    run = tmp_path / "run"

    def beside(_step: int, _metrics: dict) -> bool:
        with pytest.raises(ConfigError, match="is training in it"):
            resume(run, Console(quiet=True))
        return True

    begin(run, end=beside)
    resume(run, Console(quiet=True), end=beside)
    assert logged(run) == [1, 2]


def test_a_full_disk_is_said_and_training_goes_on_where_it_can(begin, calm, tmp_path, capsys):
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    kept = []

    def disk(step: int, _metrics: dict) -> bool:
        """Before step 2 is written the disk fills; before step 3 there is room again."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 if step == 2 else hard, hard))
        kept.append([path.name for path in intact_checkpoints(run)])
        return False

    run = tmp_path / "run"
    try:
        begin(run, end=disk)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    said = capsys.readouterr().err
    assert "metrics.jsonl lacks steps from 2 on" in said
    assert kept == [[], ["step_1"], ["step_1"]], "step_2 failed and took nothing with it"
    assert [path.name for path in intact_checkpoints(run)] == ["step_1", "step_3"]
    assert weights(run, 3) == weights(calm, 3)
    assert logged(run) == [1, 2, 3], "the line waited for room"
    assert not list(run.rglob(".*.partial"))


def test_a_timer_writes_checkpoints_that_no_step_is_due_for(begin, calm, tmp_path):
    often = {"checkpoint_every": 0, "checkpoint_minutes": 1e-9, "keep_checkpoints": 3}
    run = begin(tmp_path / "run", train=often)
    assert [path.name for path in intact_checkpoints(run)] == ["step_1", "step_2", "step_3"]
    assert weights(run, 3) == weights(calm, 3), "it changes nothing"


def test_a_checkpoint_slower_than_a_launchers_grace_is_said_where_no_timer_bounds_the_loss():
    assert short_grace(29.0, checkpoint_minutes=0) is None
    assert "41 s" in str(short_grace(41.2, checkpoint_minutes=0))
    assert short_grace(41.2, checkpoint_minutes=10) is None


def test_a_disk_full_to_the_end_stops_the_run_which_goes_on_when_there_is_room(
    begin, calm, tmp_path, capsys
):
    """capsys: what is said must not go to a file."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(step: int, _metrics: dict) -> bool:
        if step == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
        return False

    run = tmp_path / "run"
    try:
        with pytest.raises(NotWrittenError, match="make room"):
            begin(run, end=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert [path.name for path in intact_checkpoints(run)] == ["step_1"]
    resume(run, Console(quiet=True))
    assert weights(run, 3) == weights(calm, 3)
    assert logged(run) == [1, 2, 3]


def test_steps_that_overflow_change_nothing_are_kept_and_stop_the_run(begin, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(NotFiniteError, match="3 steps in a row"):
        begin(
            run,
            train={"steps": 10, "checkpoint_every": 0},
            reward={"correct": 1e38, "incorrect": -3e38},  # their mean overflows float32
            algorithm={"advantage": "group_mean"},
        )
    assert [row["optim/skipped"] for row in steady_metrics(run)] == [1.0] * MAX_IN_A_ROW
    still = load(weights(run, MAX_IN_A_ROW))
    assert all((value == 0).all() for name, value in still.items() if "lora_B" in name)
    state = run / "checkpoints" / f"step_{MAX_IN_A_ROW}" / "trainer_state" / "optimizer.pt"
    assert torch.load(state, weights_only=True)["optimizer"]["state"] == {}
    with gzip.open(run / "skipped" / "step_1.json.gz", "rt") as file:
        batch = json.load(file)
    assert [len(group["responses"]) for group in batch["groups"]] == [8, 8]


def children(pid: int) -> list[int]:
    """Processes whose parent is `pid`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(FileNotFoundError, ProcessLookupError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                found += [int(entry.name)] if parent == pid else []
    return found


def test_a_run_whose_verifier_workers_are_killed_goes_on(begin, tmp_path):
    """The workers are the processes that the verifier's template, a child of ours, has forked."""
    over, killed = threading.Event(), []

    def kill() -> None:
        while not over.wait(0.1):
            for worker in [pid for child in children(os.getpid()) for pid in children(child)]:
                with suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
                    killed.append(worker)

    thread = threading.Thread(target=kill)

    def after(step: int, _metrics: dict) -> bool:
        if step == 1:
            thread.start()
        elif step == 2:
            over.set()
        return False

    try:
        sections = {"train": {"steps": 4, "checkpoint_every": 0}, "sampling": {"dynamic": False}}
        run = begin(tmp_path / "run", end=after, **sections)
    finally:
        over.set()
        if thread.is_alive():
            thread.join()
    assert killed
    assert logged(run) == [1, 2, 3, 4]
    assert steady_metrics(run)[-1]["reward/worker_died_frac"] == 0, "it has recovered"
