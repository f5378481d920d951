"""Whole runs to which something real happens: a dying engine, dying workers, a full disk, numbers
that are not finite. They end as runs to which nothing happened, or stop with a checkpoint."""

import gzip
import json
import os
import resource
import signal
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from rich.console import Console

from rlvr.checkpoint import intact_checkpoints
from rlvr.recipe import RunError
from rlvr.recover import MAX_RESTARTS
from rlvr.rollout.engine import EngineLost
from rlvr.rollout.transformers import TransformersEngine
from rlvr.skipped import MAX_IN_A_ROW, NotFiniteError
from rlvr.train import resume, train

VAGUE = ("time/", "memory/", "verify/", "rollout/tokens_per_s", "train/tokens_per_s")


def numbers(run: Path) -> list[dict]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(VAGUE)} for row in rows]


def weights(run: Path, step: int) -> bytes:
    return (run / "checkpoints" / f"step_{step}" / "adapter_model.safetensors").read_bytes()


@pytest.fixture
def begin(make_recipe, digit_problems, tmp_path):
    """begin(name, sections, **what `train` takes): trains into tmp_path/name."""

    def run(name, sections, **options):
        base = {
            "run": {"dir": str(tmp_path), "name": name},
            "eval": {"path": str(digit_problems), "limit": 5},
        }
        recipe = make_recipe(**(base | sections))
        return train(recipe, Path("tiny.toml"), Console(quiet=True), **options)

    return run


class Fragile(TransformersEngine):
    """The real engine, which dies at the calls of `stream` and `score` whose numbers are given.

    Calls are counted over all engines of a run.
    """

    def __init__(self, policy, calls: list[int], deaths: set[int]) -> None:
        super().__init__(policy)
        self._calls, self._deaths = calls, deaths

    def _count(self) -> None:
        self._calls[0] += 1
        self.lost = self.lost or self._calls[0] in self._deaths
        if self.lost:
            raise EngineLost(f"call {self._calls[0]} was its last")

    def stream(self, requests, sampling):
        for number, finished in enumerate(super().stream(requests, sampling)):
            if number == 3:
                self._count()
            yield finished

    def score(self, sequences):
        self._count()
        return super().score(sequences)


def fragile(deaths, started):
    calls = [0]

    def start(_recipe, policy, _use_vllm, _mode):
        started.append(1)
        return Fragile(policy, calls, deaths)

    return start


@pytest.fixture
def calm(begin):
    """A run of three steps that nothing happens to."""
    return begin("calm", {"train": {"steps": 3, "checkpoint_every": 1}})


def test_a_run_whose_engines_die_ends_as_one_whose_engine_lives(begin, calm, capsys):
    started: list[int] = []
    # call 2 is the first evaluation's; 5 the first step's, after a sync and the evaluation anew
    start = fragile({2, 5, 8}, started)
    run = begin("fragile", {"train": {"steps": 3, "checkpoint_every": 1}}, start_engine=start)
    assert len(started) == 4, "one engine, and one for each that died"
    assert "starting another" in capsys.readouterr().err
    assert numbers(run) == numbers(calm)
    assert weights(run, 3) == weights(calm, 3)


def test_engine_after_engine_dying_stops_the_run_with_a_checkpoint_that_goes_on(
    begin, calm, tmp_path
):
    started: list[int] = []
    start = fragile(set(range(6, 1000)), started)
    with pytest.raises(EngineLost, match=f"{MAX_RESTARTS + 1} times in a row"):
        begin("dead", {"train": {"steps": 3, "checkpoint_every": 0}}, start_engine=start)
    assert len(started) == 1 + MAX_RESTARTS
    run = tmp_path / "dead"
    assert len(intact_checkpoints(run)) == 1
    resume(run, Console(quiet=True))
    assert weights(run, 3) == weights(calm, 3)
    assert [row["step"] for row in numbers(run)] == [1, 2, 3]


def test_a_full_disk_is_said_and_training_goes_on_where_it_can(begin, calm, tmp_path, capsys):
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    kept = []

    def disk(step: int, _metrics: dict) -> bool:
        """Before step 2 is written the disk fills; before step 3 there is room again."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 if step == 2 else hard, hard))
        kept.append([path.name for path in intact_checkpoints(tmp_path / "full")])
        return False

    sections = {"train": {"steps": 3, "checkpoint_every": 1}, "eval": {}}
    try:
        run = begin("full", sections, end=disk)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    said = capsys.readouterr().err
    assert "metrics.jsonl lacks steps from 2 on" in said
    assert kept == [[], ["step_1"], ["step_1"]], "step_2 failed and took nothing with it"
    assert [path.name for path in intact_checkpoints(run)] == ["step_1", "step_3"]
    assert weights(run, 3) == weights(calm, 3)
    assert [row["step"] for row in numbers(run)] == [1, 2, 3], "the line waited for room"
    assert not list(run.rglob(".*.partial"))


def test_a_disk_full_to_the_end_stops_the_run_which_goes_on_when_there_is_room(
    begin, calm, tmp_path
):
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(step: int, _metrics: dict) -> bool:
        if step == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
        return False

    try:
        with pytest.raises(RunError, match="make room"):
            begin("full", {"train": {"steps": 3, "checkpoint_every": 1}, "eval": {}}, end=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    run = tmp_path / "full"
    assert [path.name for path in intact_checkpoints(run)] == ["step_1"]
    resume(run, Console(quiet=True))
    assert weights(run, 3) == weights(calm, 3)
    assert [row["step"] for row in numbers(run)] == [1, 2, 3]


def test_steps_that_overflow_change_nothing_are_kept_and_stop_the_run(begin, tmp_path):
    sections = {
        "train": {"steps": 10, "checkpoint_every": 0},
        "reward": {"correct": 1e38, "incorrect": -3e38},  # their mean overflows float32
        "algorithm": {"advantage": "group_mean"},
        "eval": {},
    }
    first = {"train": {"steps": 10, "checkpoint_every": 0}, "eval": {}}
    with pytest.raises(NotFiniteError, match="3 steps in a row"):
        begin("overflow", sections)
    run = tmp_path / "overflow"
    assert [row["optim/skipped"] for row in numbers(run)] == [1.0] * MAX_IN_A_ROW
    begin("one", first, end=lambda *_: True)
    moved, still = weights(tmp_path / "one", 1), weights(run, MAX_IN_A_ROW)
    assert moved != still
    from safetensors.torch import load

    assert all((value == 0).all() for name, value in load(still).items() if "lora_B" in name)
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


def test_a_run_whose_verifier_workers_are_killed_goes_on(begin):
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
        run = begin("killed", {"train": {"steps": 4, "checkpoint_every": 0}}, end=after)
    finally:
        over.set()
        if thread.is_alive():
            thread.join()
    rows = numbers(run)
    assert killed
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[-1]["reward/worker_died_frac"] == 0, "it has recovered"
