"""Where and how a run is started: pipes, threads, folders, names, interrupts while it loads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rlvr.cli import main
from rlvr.common.errors import ConfigError
from rlvr.common.files import lenient_output
from rlvr.compare.estimate import measured_cost
from rlvr.config.toml import dump_toml
from rlvr.data.absolute_paths import absolute
from rlvr.runs.folder import check_same_recipe, create_run_folder, reserve_run_folder
from rlvr.training import loop as train
from rlvr.training.build import new_engine
from tests.rlvr.small import read_lines
from tests.waiting import HANG_S

QUIET = Console(quiet=True)
SHORT = {"train": {"steps": 2, "checkpoint_every": 0}}


def run_with_closed(streams: tuple[str, ...], *words: object) -> subprocess.CompletedProcess[str]:
    """`rlvr WORDS` with these of stdout and stderr piped to a reader that has ended."""
    reading, writing = os.pipe()
    os.close(reading)
    where: dict[str, Any] = {
        name: writing if name in streams else subprocess.PIPE for name in ("stdout", "stderr")
    }
    try:
        return subprocess.run(
            [sys.executable, "-m", "rlvr.cli", *map(str, words)],
            text=True,
            timeout=HANG_S,
            check=False,
            **where,
        )
    finally:
        os.close(writing)


def test_a_run_whose_output_nobody_reads_any_more_goes_on_to_its_end(write_recipe, tmp_path):
    done = run_with_closed(("stdout", "stderr"), "train", write_recipe(**SHORT))
    assert done.returncode == 0
    run = tmp_path / "runs" / "run"
    assert [row["step"] for row in read_lines(run)] == [1, 2]
    assert (run / "summary.json").is_file()
    page = tmp_path / "page.html"
    done = run_with_closed(("stdout",), "report", run, "-o", page)
    assert (done.returncode, done.stderr) == (0, "")
    assert page.is_file()


def test_an_evaluation_whose_output_nobody_reads_is_written_all_the_same(tmp_path):
    problems, given = tmp_path / "sums.jsonl", tmp_path / "given.jsonl"
    problems.write_text('{"id": "a", "problem": "1 + 1?", "answer": "2"}\n')
    row = {"benchmark": "sums", "id": "a", "response": r"\boxed{2}"}
    given.write_text(json.dumps(row) + "\n")
    words = ("eval", "--generations", given, "--benchmarks", problems, "--out", tmp_path / "out")
    done = run_with_closed(("stdout", "stderr"), *words)
    assert done.returncode == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["benchmarks"]["sums"]["avg@k"]["value"] == 1.0


def test_a_supervised_run_beside_a_comparison_says_nothing_of_its_cost(make_recipe, tmp_path):
    """Both go into runs/ by default."""
    (tmp_path / "config.toml").write_text(dump_toml(make_recipe()))
    (tmp_path / "summary.json").write_text('{"seconds": 3.0}')
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "policy/loss": 5.0}\n')
    assert measured_cost(make_recipe(), [tmp_path]) is None


@pytest.mark.slow
def test_sft_and_compare_go_on_without_a_reader(tiny_policy, write_recipe, tmp_path):
    sft = tmp_path / "sft.toml"
    sft.write_text(
        f'[model]\npath = "{tiny_policy}"\ndtype = "float32"\nmax_len = 128\n'
        '[data]\npath = "generated:word_problems"\nlimit = 24\n[optim]\nlr = 3e-3\n'
        f'[train]\nbatch_size = 8\n[run]\ndir = "{tmp_path}"\nname = "sft"\n'
    )
    assert run_with_closed(("stdout", "stderr"), "sft", sft).returncode == 0
    assert (tmp_path / "sft" / "summary.json").is_file()
    base = write_recipe(**SHORT, eval={"path": "generated:word_problems", "limit": 8})
    compare = tmp_path / "compare.toml"
    compare.write_text(
        f'[compare]\nname = "cmp"\nbase = "{base}"\ndir = "{tmp_path}"\nseeds = [0]\n'
        "allow_unmatched = true\n[budget]\nsteps = 2\n"
        "[methods.lora]\nlr = 1e-3\n[methods.dora]\nlr = 1e-3\n"
    )
    assert run_with_closed(("stdout", "stderr"), "compare", compare).returncode == 0
    assert (tmp_path / "cmp" / "comparison.json").is_file()


def test_output_that_nobody_reads_is_dropped_and_any_other_error_is_not(capfd):
    reading, writing = os.pipe()
    program = (
        "import sys; from rlvr.common.files import lenient_output\n"
        "with lenient_output():\n"
        "    for _ in range(3): print('x' * 100_000, flush=True); print('y', file=sys.stderr)\n"
    )
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=writing, stderr=writing, timeout=HANG_S, check=False
    )
    os.close(writing)
    assert done.returncode == 0
    with Path(os.devnull).open() as unwritable, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", unwritable)
        with lenient_output(), pytest.raises(OSError, match="not writable"):
            print("x")


def test_training_works_in_a_thread_that_receives_no_signals(make_recipe, tmp_path):
    recipe = make_recipe(train={"steps": 1}, run={"dir": str(tmp_path), "name": "run"})
    ends: list[object] = []

    def work() -> None:
        try:
            ends.append(train.train(recipe, Path("r.toml"), QUIET))
        except BaseException as error:
            ends.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ends == [tmp_path / "run"]
    assert len(read_lines(tmp_path / "run")) == 1


@pytest.fixture
def elsewhere(tiny_policy, digit_problems, recipe_tree, tmp_path, monkeypatch):
    """A folder with policy and problems, named relative to it in a recipe, as working directory."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "policy").symlink_to(tiny_policy)
    (home / "digits.jsonl").write_bytes(digit_problems.read_bytes())
    monkeypatch.chdir(home)
    return home


RELATIVE = {
    "model": {"path": "policy"},
    "data": {"path": "digits.jsonl"},
    "eval": {"path": "digits.jsonl", "limit": 4, "benchmarks": ("own=digits.jsonl",)},
    "run": {"dir": "runs", "name": "run"},
}


def test_a_run_begun_with_relative_paths_goes_on_and_is_evaluated_from_elsewhere(
    elsewhere, make_recipe, tmp_path, monkeypatch
):
    recipe = make_recipe(**RELATIVE, train={"steps": 2, "checkpoint_every": 1})
    folder = elsewhere / train.train(recipe, Path("r.toml"), QUIET, end=lambda step, _: step == 1)
    check_same_recipe(folder, recipe)
    monkeypatch.chdir(tmp_path)
    train.resume(folder, QUIET)
    assert [row["step"] for row in read_lines(folder)] == [1, 2]
    adapter = json.loads((folder / "checkpoints/step_2/adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == str(elsewhere / "policy")
    words = ["eval", "--model", str(folder / "checkpoints/step_2"), "--samples", "1"]
    words += ["--benchmarks", f"own={elsewhere / 'digits.jsonl'}", "--engine", "transformers"]
    assert main([*words, "--limit", "2", "--max-tokens", "4", "--out", "scored"]) == 0


def test_a_run_folder_that_holds_relative_paths_still_resumes_where_they_lead(
    elsewhere, make_recipe
):
    recipe = make_recipe(**RELATIVE, train={"steps": 2, "checkpoint_every": 1})
    folder = train.train(recipe, Path("r.toml"), QUIET, end=lambda step, _: step == 1)
    (folder / "config.toml").write_text(dump_toml(recipe))
    facts = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(facts | {"model": "policy"}))
    train.resume(folder, QUIET, same_as=recipe)
    assert [row["step"] for row in read_lines(folder)] == [1, 2]


def test_only_what_is_here_becomes_absolute(elsewhere, make_recipe, monkeypatch):
    recipe = make_recipe(
        **RELATIVE | {"eval": {"path": "generated:word_problems", "limit": 4}},
    )
    found = absolute(recipe)
    assert found.model.path == str(elsewhere / "policy")
    assert found.data.path == str(elsewhere / "digits.jsonl")
    assert found.eval.path == "generated:word_problems"
    assert found.adapter.model_fields_set == recipe.adapter.model_fields_set
    monkeypatch.chdir("/")
    assert absolute(recipe) == recipe
    assert absolute(found) == found
    hub = make_recipe(model={"path": "Qwen/Qwen3-0.6B"}, eval={"benchmarks": ("math500",)})
    assert absolute(hub) == hub
    some = make_recipe(data={"path": str(elsewhere / "dig*.jsonl")})
    assert absolute(some) == some
    monkeypatch.chdir(elsewhere)
    every = make_recipe(data={"path": "dig*.jsonl"})
    assert absolute(every).data.path == str(elsewhere / "dig*.jsonl")
    (elsewhere / "sub").mkdir()
    monkeypatch.chdir(elsewhere / "sub")
    monkeypatch.setenv("RLVR_DATA", "..")
    assert absolute(recipe).data.path == str(elsewhere / "sub" / ".." / "digits.jsonl")


def test_two_runs_of_one_second_have_names_of_their_own(make_recipe, tmp_path):
    recipe = make_recipe(run={"dir": str(tmp_path / "runs")})
    folders = []
    with (
        reserve_run_folder(recipe, Path("r.toml")) as first,
        reserve_run_folder(recipe, Path("r.toml")) as second,
    ):
        for folder in (first, second):
            create_run_folder(folder, recipe, {})
            folders.append(folder)
        with reserve_run_folder(recipe, Path("r.toml")) as third:
            folders.append(third)
    assert len({*folders}) == 3
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {first.name, second.name}


def test_a_name_that_another_run_is_about_to_take_is_refused_before_anything_loads(
    make_recipe, tmp_path
):
    recipe = make_recipe(run={"dir": str(tmp_path / "runs"), "name": "mine"})
    with reserve_run_folder(recipe, Path("r.toml")):
        loads = make_recipe(model={"path": "nowhere"}, run=recipe.run.model_dump())
        with pytest.raises(ConfigError, match=rf"run\.name = 'mine': .*process {os.getpid()}"):
            train.train(loads, Path("r.toml"), QUIET)
    assert not (tmp_path / "runs").exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_a_destructor_swallows_while_loading_still_ends_the_run(
    make_recipe, tmp_path
):
    recipe = make_recipe(train={"steps": 1}, run={"dir": str(tmp_path / "runs"), "name": "run"})

    class Swallows:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(3):  # the handler runs before one of these
                pass

    def start(*words):
        del words_kept[0]
        return new_engine(*words)

    words_kept = [Swallows()]
    with pytest.raises(KeyboardInterrupt):
        train.train(recipe, Path("r.toml"), QUIET, start)
    assert not (tmp_path / "runs").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


INTERRUPTED_IMPORT = """
import os, signal, sys
from importlib import abc
from rlvr.cli import main

class Breaks(abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "transformers":  # as a library that drops or replaces what an import raises
            try:
                os.kill(os.getpid(), signal.SIGINT)
                for _ in range(3): pass
            except BaseException as error:
                raise ImportError("something else") from error

sys.meta_path.insert(0, Breaks())
sys.exit(main(sys.argv[1:]))
"""


def test_an_interrupt_that_an_import_turns_into_another_error_is_an_interrupt(write_recipe):
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IMPORT, "train", str(write_recipe())],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.slow
@pytest.mark.parametrize("wait_s", [0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0])
def test_an_interrupt_at_any_moment_ends_the_run_and_its_processes(write_recipe, tmp_path, wait_s):
    recipe = write_recipe(train={"steps": 10_000, "checkpoint_every": 0})
    process = subprocess.Popen(
        [sys.executable, "-m", "rlvr.cli", "train", str(recipe)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    time.sleep(wait_s)  # a moment, not a limit: any is right
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=HANG_S)
    assert process.returncode == 130, output.decode()
    assert not [*(tmp_path / "runs").glob(".*.partial")]
