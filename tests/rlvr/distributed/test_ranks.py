"""Two real processes on CPU against one: the same groups, parameters and metrics."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from rlvr.common.errors import ConfigError
from rlvr.config.toml import dump_toml, load_recipe
from rlvr.config.train import TrainRecipe
from rlvr.distributed.shares import in_order, shares
from rlvr.distributed.world import REFUSED, World, join_world
from rlvr.training import loop as train
from tests.rlvr import cases
from tests.rlvr.distributed import ranks_worker, sharding_worker
from tests.rlvr.small import steady_metrics
from tests.rlvr.training.test_train import wait_for_step
from tests.waiting import HANG_S, wait_until

LAUNCH = [
    *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
    *("--monitor-interval", "0.1"),
]
ROOT = Path(__file__).parents[3]
CASES = {
    "lora": {
        "algorithm": {"preset": "dapo", "kl_beta": 0.01},
        "rollout": {"prompts_per_step": 3},
        "optim": {"lr": 1e-3, "eps": 1e-6, "updates_per_step": 2},
        "eval": {"limit": 9, "every": 2},
    },
    "full": {"adapter": {"method": "full", "rank": None}, "optim": {"lr": 1e-4, "eps": 1e-6}},
}
"""Sections of the recipes that are trained both ways: uneven shares, a KL penalty, evaluation. With
the usual eps, AdamW makes whole steps out of gradients that are rounding."""
PARTS = ("fsdp2", "zero3") if importlib.util.find_spec("deepspeed") else ("fsdp2",)


def launch(*words: object, timeout: float = HANG_S) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*LAUNCH, *map(str, words)], capture_output=True, text=True, timeout=timeout, check=False
    )


def weights(run: Path, step: int = 3) -> dict[str, torch.Tensor]:
    checkpoint = run / "checkpoints" / f"step_{step}"
    return load_file(next(checkpoint.glob("*model.safetensors")))


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=0, msg=name)


def assert_same_run(ours: Path, theirs: Path) -> None:
    """Parameters to 1e-5, every metric, the problems met and the evaluations."""
    assert_close(weights(ours), weights(theirs))
    assert [row.keys() for row in steady_metrics(ours)] == [
        row.keys() for row in steady_metrics(theirs)
    ]
    for one, other in zip(steady_metrics(ours), steady_metrics(theirs), strict=True):
        # by the split; by the batch; by the length of shares; by the rows of an engine
        exact = {"train/padding_frac", "sync/logprob_error", "rollout/imbalance"}
        exact.add("rollout/decoding_steps")
        for name in one.keys() - exact:
            assert one[name] == pytest.approx(other[name], rel=1e-3, abs=1e-6), name


def assert_same_steps(ours: dict, theirs: dict) -> None:
    """Weights to 1e-5, every metric, and what the manifest says of the modules."""
    assert_close(ours["weights"], theirs["weights"])
    for one, other in zip(ours["metrics"], theirs["metrics"], strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() - {"train/padding_frac"}:  # by the split
            assert one[name] == pytest.approx(other[name], rel=1e-3, abs=1e-6), name
    assert ours["facts"] == theirs["facts"]


def cut(run: Path, folder: Path) -> Path:
    """A copy of a finished run as it stood after step 2."""
    copy = shutil.copytree(run, folder)
    shutil.rmtree(copy / "checkpoints" / "step_3")
    return copy


@pytest.fixture(scope="module")
def write_pair(make_recipe, digit_problems):
    """Writes the recipe of a case twice, for runs FOLDER/one/CASE and FOLDER/two/CASE."""

    def write(folder: Path, name: str) -> list[Path]:
        paths = []
        for count in ("one", "two"):
            sections = CASES[name] | {
                "run": {"dir": str(folder / count), "name": name},
                "train": {"checkpoint_every": 1, "keep_checkpoints": 3, "num_threads": 1},
            }
            if "eval" in sections:
                sections["eval"] = sections["eval"] | {"path": str(digit_problems)}
            paths.append(folder / f"{count}-{name}.toml")
            paths[-1].write_text(dump_toml(make_recipe(**sections)))
        return paths

    return write


def train_alone(recipe: Path) -> None:
    train.train(load_recipe(recipe, [], TrainRecipe), recipe, Console(quiet=True))


@pytest.fixture(scope="module")
def runs(write_pair, tmp_path_factory):
    """Folder with one/lora and two/lora, by as many processes, two/resumed of one/lora, and
    WAY.pt, what two train that hold a part each."""
    folder = tmp_path_factory.mktemp("ranks")
    one, two = write_pair(folder, "lora")
    train_alone(one)
    for way in PARTS:
        (folder / f"{way}.toml").write_text(dump_toml(sharding_worker.case("lora")))
    facts = cases.make_recipe(rollout={"prompts_per_step": 6}, sampling={"dynamic": False})
    (folder / "facts.toml").write_text(dump_toml(facts))
    resumed = cut(folder / "one" / "lora", folder / "two" / "resumed")
    command = [sys.executable, "-m", "tests.rlvr.distributed.ranks_worker"]
    words = [folder / "facts.json", two, resumed, *(folder / f"{way}.pt" for way in PARTS)]
    done = subprocess.run(
        [*command, *map(str, words)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def assert_trained_alike(ours: Path, theirs: Path) -> None:
    first = next((ours / "checkpoints" / "step_1").glob("*.safetensors"))
    start, end = load_file(first), weights(ours)
    assert max(float((end[key] - start[key]).abs().max()) for key in end) > 1e-4, "it did train"
    assert_same_run(ours, theirs)


def test_two_processes_train_the_parameters_that_one_trains(runs):
    assert_trained_alike(runs / "two" / "lora", runs / "one" / "lora")


@pytest.mark.slow
def test_two_processes_train_all_weights_as_one_does(write_pair, tmp_path):
    one, two = write_pair(tmp_path, "full")
    train_alone(one)
    done = launch("-m", "rlvr.cli", "train", two)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "step 3/3" in done.stdout
    assert done.stdout.count("run folder:") == 1, "one process prints"
    assert_trained_alike(tmp_path / "two" / "full", tmp_path / "one" / "full")


def test_two_processes_continue_what_one_began(runs):
    assert_same_run(runs / "two" / "resumed", runs / "one" / "lora")


def test_one_process_continues_what_two_began(runs, tmp_path):
    resumed = cut(runs / "two" / "lora", tmp_path / "resumed")
    train.resume(resumed, Console(quiet=True))
    assert_same_run(resumed, runs / "one" / "lora")


def test_two_processes_train_in_parts_what_one_trains(runs, tmp_path):
    """Of the methods with more to them, and of runs: see test_sharding.py."""
    expected = sharding_worker.train(sharding_worker.case("lora"), tmp_path, World.alone())
    for way in PARTS:
        assert_same_steps(torch.load(runs / f"{way}.pt"), expected)


def test_only_one_process_writes(runs):
    run = runs / "two" / "lora"
    assert [row["step"] for row in steady_metrics(run)] == [1, 2, 3]
    assert json.loads((run / "manifest.json").read_text())["num_ranks"] == 2
    assert (run / "summary.json").exists()
    ours, theirs = (runs / count / "lora" / "eval" / "step_3.json" for count in ("two", "one"))
    assert json.loads(ours.read_text())["texts"] == json.loads(theirs.read_text())["texts"]


def test_a_failure_of_one_rank_is_raised_by_all_and_a_true_one_before_a_signal(runs):
    first, second = json.loads((runs / "facts.json").read_text())["raised"]
    died = "the engine died"
    assert first == [
        f"RunError: rank 1 of 2: {died}",
        "ConfigError: rank 1 of 2: no such file",
        "Stopped: stopped by SIGTERM",
        f"RunError: rank 1 of 2: {died}",
    ]
    assert second == [
        f"RunError: {died}",
        "ConfigError: no such file",
        "Stopped: stopped by SIGTERM",
        f"RunError: {died}",
    ]


def test_a_rank_with_a_long_group_is_asked_for_fewer_and_groups_stay_in_order(runs):
    """p0's responses were longer than those of all others together, two of which are unmet."""
    first, second = json.loads((runs / "facts.json").read_text())["shared_out"]
    assert sorted([first["num_asked"], second["num_asked"]]) == [1 * 4, 5 * 4]
    assert first["order"] == second["order"]
    assert len(first["order"]) == 6
    assert first["imbalance"] == second["imbalance"] > 1
    assert first["learned"]
    assert second["learned"]


def test_ranks_pause_and_go_on_together_with_what_one_process_would(runs, tmp_path):
    first, second = json.loads((runs / "facts.json").read_text())["paused"]
    assert first == second, "all ranks know what all engines have begun"
    recipe = load_recipe(runs / "facts.toml", [], TrainRecipe)
    assert json.loads(json.dumps(ranks_worker.paused(recipe, World.alone()))) == first
    spans, left = first
    assert left
    assert {version for group in spans[2] for version, _ in group} - {2}, "some began before"


def test_ranks_that_need_each_other_stop_together(runs):
    found = json.loads((runs / "facts.json").read_text())["stopped"]
    assert found == [
        ["goes on", "stopped by SIGTERM"],
        ["stopped by SIGTERM", "stopped by SIGTERM"],
    ]


def test_gradients_add_up_where_some_rank_has_one(runs):
    """a: on rank 0 only. b: on none. c: on both, in bfloat16. Four buckets or one: the same."""
    for gradients in json.loads((runs / "facts.json").read_text())["gradients"]:
        assert gradients == {"a": [1.0, 2.0, 3.0], "b": None, "c": [[3.0], [3.0]]}


def test_a_loss_that_is_not_finite_on_one_rank_leaves_the_update_out_on_all(runs):
    found = json.loads((runs / "facts.json").read_text())["not_finite"]
    assert found == [{"skipped": 1.0, "moved": 0.0}] * 2


def test_shares_put_the_longest_first_on_the_rank_with_the_least():
    assert shares([3, 9, 1, 4, 2], 2) == [[1, 2], [0, 3, 4]]
    assert shares([5, 5], 3) == [[0], [1], []]
    assert shares([], 2) == [[], []]


@pytest.mark.parametrize("num_ranks", [2, 3, 8])
def test_shares_hold_every_index_once_and_balance_long_tails(num_ranks):
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randn(128, generator=draw).exp().mul(400).long().tolist()
    parts = shares(lengths, num_ranks)
    assert sorted(i for part in parts for i in part) == list(range(128))
    loads = [sum(lengths[i] for i in part) for part in parts]
    assert max(loads) < 1.05 * sum(lengths) / num_ranks


def test_a_lone_process_exchanges_nothing():
    world = World.alone()
    assert (world.rank, world.size, world.gather("x"), world.is_main) == (0, 1, ["x"], True)
    dealt, parts = world.scatter_work([1, 2, 3], [5, 1, 3], lambda items: [2 * i for i in items])
    assert in_order(dealt, parts) == [2, 4, 6]
    assert world.my_share([7, 1]) == [0, 1]


@pytest.mark.parametrize(("flag", "name"), REFUSED.items())
def test_sharded_training_is_refused_with_the_remedy(monkeypatch, flag, name):
    for key, value in {"LOCAL_RANK": "0", "WORLD_SIZE": "2", flag: "true"}.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(ConfigError, match=rf"asks for {name}.*ddp\.yaml"):
        join_world()


def test_a_missing_deepspeed_is_named_with_its_extra(monkeypatch):
    flags = {"LOCAL_RANK": "0", "WORLD_SIZE": "2", "ACCELERATE_USE_DEEPSPEED": "true"}
    for key, value in flags.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"not installed; pip install 'rlvr\[deepspeed\]'"):
        join_world()


def start(recipe: Path, *launcher: object) -> subprocess.Popen[str]:
    """A launch of which every process carries RLVR_TEST_LAUNCH, the recipe's path."""
    return subprocess.Popen(
        [*map(str, launcher or LAUNCH), "-m", "rlvr.cli", "train", str(recipe)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"RLVR_TEST_LAUNCH": str(recipe)},
    )


def processes_of(recipe: Path, *more: str) -> list[int]:
    """The live processes of `start(recipe)`, with `more` in their environment."""
    wanted = {f"RLVR_TEST_LAUNCH={recipe}", *more}
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and wanted <= set(
                (entry / "environ").read_text(errors="replace").split("\0")
            ):
                found.append(int(entry.name))
        except OSError:  # gone, or another user's
            continue
    return found


@pytest.mark.slow
def test_a_rank_that_dies_ends_all(write_recipe, tmp_path):
    process = start(recipe := write_recipe(train={"steps": 1000, "num_threads": 1}))
    wait_for_step(tmp_path / "runs" / "run", 2)
    os.kill(min(processes_of(recipe, "RANK=1")), signal.SIGKILL)  # before its verifier's processes
    output, _ = process.communicate(timeout=HANG_S)
    assert process.returncode != 0, output
    assert "rank" in output
    assert wait_until(lambda: not processes_of(recipe), 60)


@pytest.mark.slow
@pytest.mark.parametrize("to", ["launcher", "rank 1"])
def test_sigterm_leaves_a_checkpoint_that_one_process_continues(runs, write_pair, tmp_path, to):
    _, recipe = write_pair(tmp_path, "lora")
    process, run = start(recipe), tmp_path / "two" / "lora"
    wait_for_step(run, 1)
    if to == "launcher":
        process.send_signal(signal.SIGTERM)
    else:
        os.kill(min(processes_of(recipe, "RANK=1")), signal.SIGTERM)
    output, _ = process.communicate(timeout=HANG_S)
    assert f"continue with: rlvr train --resume {run}" in output
    assert wait_until(lambda: not processes_of(recipe), 60)
    train.resume(run, Console(quiet=True))
    assert_same_run(run, runs / "one" / "lora")


def accelerate(config: str, num_processes: int) -> tuple[object, ...]:
    yaml = ROOT / "recipes" / "accelerate" / config
    launcher = (sys.executable, "-m", "accelerate.commands.launch")
    return *launcher, "--num_processes", num_processes, "--config_file", yaml


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.parametrize(
    ("method", "mode"), [("lora", "sync"), ("full", "sync"), ("lora", "async"), ("lora", "ahead")]
)
def test_a_vllm_for_each_rank_or_for_each_two_make_the_run_of_one_process(
    make_recipe, digit_problems, tmp_path, method, mode
):
    case = CASES[method] | {"eval": {"limit": 9, "every": 2, "path": str(digit_problems)}}
    sizes = {"alone": 1, "each": 1} | ({"shared": 2} if mode == "sync" else {})
    recipes = {}
    for name, size in sizes.items():
        rollout = {"prompts_per_step": 3, "engine": "vllm", "mode": mode}
        if mode == "ahead":
            rollout |= {"mode": "async", "steps_ahead": 2}
        rollout |= {"tensor_parallel_size": size}
        sections = case | {
            "run": {"dir": str(tmp_path), "name": name},
            "train": {"checkpoint_every": 1, "keep_checkpoints": 3, "num_threads": 1},
            "rollout": rollout,
        }
        recipes[name] = tmp_path / f"{name}.toml"
        recipes[name].write_text(dump_toml(make_recipe(**sections)))
    commands = {
        "alone": [sys.executable],
        "each": accelerate("ddp.yaml", num_processes=2),
        "shared": accelerate("ddp.yaml", num_processes=4),
    }
    for name, recipe in recipes.items():
        if name == "shared":
            Path("/dev/shm/-tp:0-[0-1]-cpushm_0").touch()  # as a killed run leaves it
        process = start(recipe, *commands[name])
        output, _ = process.communicate(timeout=HANG_S)
        assert process.returncode == 0, output[-4000:]
    for name in sizes.keys() - {"alone"}:
        assert_trained_alike(tmp_path / name, tmp_path / "alone")
        errors = [row["sync/logprob_error"] for row in steady_metrics(tmp_path / name)]
        assert max(errors) < 1e-3


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.parametrize(
    ("config", "width", "mode"),
    [("ddp", 2, "sync"), ("fsdp2", 1, "async"), ("zero3", 2, "sync"), ("ddp", 1, "async")],
)
def test_sigterm_to_one_of_two_that_need_each_other_stops_both(
    write_recipe, tmp_path, config, width, mode
):
    """They share a vLLM, hold the policy in parts, or collect ahead."""
    if config == "zero3" and "zero3" not in PARTS:
        pytest.skip("DeepSpeed is not installed")
    rollout = {
        "engine": "vllm",
        "tensor_parallel_size": width,
        "max_response_len": 200,
        "mode": mode,
    }
    train_config = {"steps": 1000, "num_threads": 1, "checkpoint_every": 0}
    recipe = write_recipe(model={"max_len": 400}, rollout=rollout, train=train_config, eval={})
    process, run = start(recipe, *accelerate(f"{config}.yaml", 2)), tmp_path / "runs" / "run"
    wait_for_step(run, 2)
    os.kill(min(processes_of(recipe, "RANK=1")), signal.SIGTERM)
    output, _ = process.communicate(timeout=HANG_S)
    assert f"continue with: rlvr train --resume {run}" in output
    assert len(list((run / "checkpoints").iterdir())) == 1
    assert wait_until(lambda: not processes_of(recipe), 60)
