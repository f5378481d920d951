"""Two real processes that hold half of the policy each, against one that holds all.

Once for each way to hold it, by the environment that accelerate's launcher makes of its yaml.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from rlvr.adapters import METHODS
from rlvr.common.errors import ConfigError
from rlvr.config.toml import dump_toml, load_recipe
from rlvr.config.train import TrainRecipe
from rlvr.distributed import fsdp, zero
from rlvr.distributed.world import World
from rlvr.training.preflight import check
from tests.rlvr import cases
from tests.rlvr.distributed import sharding_worker
from tests.rlvr.distributed.sharding_worker import CASES, WAYS, case
from tests.rlvr.distributed.test_ranks import (
    LAUNCH,
    ROOT,
    accelerate,
    assert_close,
    assert_same_run,
    assert_same_steps,
)
from tests.waiting import HANG_S

HALF = {"model": {"dtype": "bfloat16"}, "algorithm": {"preset": "dapo"}}

KL = {"algorithm": {"preset": "dapo", "kl_beta": 0.01}}


def tied_model(folder: Path) -> Path:
    """The model of the other cases with its embeddings as its head."""
    config = AutoConfig.from_pretrained(cases.model_folder(), tie_word_embeddings=True)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(cases.model_folder()).save_pretrained(folder)
    return folder


def train_both(folder: Path, recipes: dict, way: str) -> dict[str, tuple[dict, dict]]:
    """What every recipe gives (in parts, whole), by name; checkpoints in two/NAME and one/NAME."""
    paths = []
    for name, recipe in recipes.items():
        paths.append(folder / f"{name}.toml")
        paths[-1].write_text(dump_toml(recipe))
    whole = {
        name: sharding_worker.train(r, folder / "one" / name, World.alone())
        for name, r in recipes.items()
    }
    launch(way, folder / "two", folder / "one", *paths)
    return {
        name: (torch.load(folder / "two" / f"{name}.pt"), found) for name, found in whole.items()
    }


def launch(way: str, *words: object) -> None:
    command = [*LAUNCH, "-m", "tests.rlvr.distributed.sharding_worker", *map(str, words)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
        cwd=ROOT,
        env=os.environ | WAYS[way],
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module", params=WAYS)
def way(request) -> str:
    """A way to hold the parts, here installed."""
    if request.param != "fsdp2" and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("DeepSpeed is not installed")
    return request.param


@pytest.fixture(scope="module")
def trained(way, tmp_path_factory) -> tuple[Path, dict[str, tuple[dict, dict]]]:
    """(folder, what each of CASES gives)."""
    folder = tmp_path_factory.mktemp(way)
    recipes = {name: case(name) for name in CASES}
    path = str(tied_model(folder / "model"))
    recipes["tied"] = case("tied", model={"path": path})
    recipes["half"] = cases.make_recipe(**HALF)
    for dtype in ("bfloat16", "float16")[: 1 + (way == "fsdp2")]:
        recipes[dtype] = cases.make_recipe(**KL | {"model": {"dtype": dtype}})
    return folder, train_both(folder, recipes, way)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_halves_train_the_weights_that_a_whole_trains(trained, name):
    ours, theirs = trained[1][name]
    assert_same_steps(ours, theirs)
    start = trained[0] / "one" / name / "checkpoints"
    first, last = (load(start / f"step_{step}") for step in (1, 3))
    assert max(float((last[key] - first[key]).abs().max()) for key in first) > 1e-4, "it did train"


def load(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_file(next(checkpoint.glob("*model.safetensors")))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_bad_update_is_left_out_and_leaves_no_trace(trained, name):
    """None in those after it: see above."""
    assert [found["left_out"] for found in trained[1][name]] == [[True, True]] * 2


@pytest.mark.slow
def test_half_precision_differs_by_rounding_alone(trained):
    ours, theirs = (found["metrics"][0] for found in trained[1]["half"])
    assert ours["optim/grad_norm"] == pytest.approx(theirs["optim/grad_norm"], rel=0.02)
    assert ours["policy/entropy"] == pytest.approx(theirs["policy/entropy"], rel=0.005)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_policy_and_reference_in_parts_are_one_at_step_zero(way, trained, dtype):
    if dtype == "float16" and way != "fsdp2":
        pytest.skip("DeepSpeed refuses float16")
    ours, theirs = (found["metrics"] for found in trained[1][dtype])
    assert [ours[0]["policy/kl_ref"], theirs[0]["policy/kl_ref"]] == [0.0, 0.0]
    assert ours[0]["optim/grad_norm"] == pytest.approx(theirs[0]["optim/grad_norm"], rel=0.02)
    assert ours[0].get("optim/loss_scale") == theirs[0].get("optim/loss_scale")
    assert all(metrics["optim/skipped"] == 0 for metrics in ours)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_rank_holds_its_half_of_every_weight(way, trained, name):
    if way == "zero2":
        pytest.skip("its weights stay whole")
    held = trained[1][name][0]["held"].values()
    assert all(ours <= -(-total // 2) + 32 for ours, total in held)  # rows are not cut
    assert sum(ours for ours, _ in held) < 0.6 * sum(total for _, total in held)


@pytest.mark.slow
def test_the_base_stays_in_parts_while_an_adapter_is_handed_over(way, trained):
    if way == "zero2":
        pytest.skip("its weights stay whole")
    in_parts = trained[1]["lora"][0]["in_sync"]
    assert {name for name, sharded in in_parts.items() if not sharded} == {
        name for name in in_parts if ".lora_" in name
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_checkpoint_has_no_trace_of_the_ranks(trained, name):
    folder, _ = trained
    ours, theirs = (folder / count / name / "checkpoints" / "step_3" for count in ("two", "one"))
    assert_close(load(ours), load(theirs))
    saved, expected = (
        torch.load(path / "trainer_state" / "optimizer.pt", weights_only=True)["optimizer"]
        for path in (ours, theirs)
    )
    assert saved["param_groups"] == expected["param_groups"]
    for index, state in expected["state"].items():
        for key, value in state.items():
            torch.testing.assert_close(saved["state"][index][key], value, atol=1e-5, rtol=1e-3)
    assert {path.name for path in ours.iterdir()} == {path.name for path in theirs.iterdir()}


@pytest.mark.slow
def test_a_whole_continues_what_two_halves_began(trained, tmp_path):
    folder, results = trained
    for name in CASES:
        copied = copy_start(folder / "two" / name, tmp_path / name)
        recipe = load_recipe(folder / f"{name}.toml", [], TrainRecipe)
        found = sharding_worker.train(recipe, copied, World.alone(), first_step=1)
        assert_close(found["weights"], results[name][1]["weights"])


def copy_start(run: Path, folder: Path) -> Path:
    """A folder with the run's checkpoint after step 1."""
    shutil.copytree(run / "checkpoints" / "step_1", folder / "checkpoints" / "step_1")
    return folder


@pytest.mark.slow
def test_two_halves_continue_what_a_whole_began(trained):
    for name in CASES:
        ours, theirs = trained[1][name]
        assert_close(ours["continued"], theirs["weights"])


@pytest.mark.slow
def test_a_teacher_is_whole_beside_a_policy_in_parts(way, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(cases.model_folder())
    with torch.no_grad():
        model.lm_head.weight += 0.1
        model.model.norm.weight *= 1.3
    for one in (model, AutoTokenizer.from_pretrained(cases.model_folder())):
        one.save_pretrained(tmp_path / "teacher")
    taught = {"teacher": {"path": str(tmp_path / "teacher")}}
    recipes = {name: case(name, **taught) for name in ("lora", "full")}
    for ours, theirs in train_both(tmp_path, recipes, way).values():
        assert_same_steps(ours, theirs)
        assert ours["metrics"][0]["policy/kl_teacher"] != 0


@pytest.mark.slow
@pytest.mark.parametrize("half", [0, 1])
def test_every_method_that_is_not_refused_trains_in_parts(way, half, tmp_path):
    small = {"fourierft": {"num_frequencies": 51}, "oft": {"block_size": 8}}
    recipes = {}
    for name, method in list(METHODS.items())[half::2]:
        rank = {"rank": 4} if "rank" in method.options else {}
        adapter = {"method": name} | rank | ({name: small[name]} if name in small else {})
        if method.can_shard:
            recipes[name] = cases.make_recipe(adapter=adapter, optim={"eps": 1e-6, "lr": 1e-3})
    results = train_both(tmp_path, recipes, way)
    for name, (ours, theirs) in results.items():
        assert ours["weights"].keys() == theirs["weights"].keys(), name
        for key, value in theirs["weights"].items():
            torch.testing.assert_close(
                ours["weights"][key], value, atol=1e-5, rtol=0, msg=f"{name}: {key}"
            )


def refuse(monkeypatch, flags: dict[str, str], recipe, message: str) -> None:
    for key, value in flags.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(ConfigError, match=message):
        check(recipe, World(0, 2))


@pytest.mark.parametrize(
    ("way", "flag", "wanted"),
    [
        (way, flag, wanted)
        for way, settings in {"fsdp2": fsdp.SETTINGS, "zero3": zero.SETTINGS}.items()
        for flag, (wanted, _) in settings.items()
    ],
)
def test_other_kinds_of_sharding_are_refused_with_the_remedy(
    make_recipe, monkeypatch, way, flag, wanted
):
    message = rf"{flag} = other: .*; set it to {wanted}, as recipes/accelerate/{way}\.yaml"
    recipe = make_recipe(rollout={"engine": "vllm"})
    refuse(monkeypatch, WAYS[way] | {flag: "other"}, recipe, message)


@pytest.mark.parametrize(
    ("sections", "setting"),
    [
        ({}, r'rollout\.engine = "transformers"'),
        (
            {"adapter": {"method": "adalora"}, "train": {"steps": 30}},
            r'adapter\.method = "adalora"',
        ),
    ],
)
def test_what_cannot_be_sharded_is_refused_before_anything_loads(
    make_recipe, monkeypatch, sections, setting
):
    recipe = make_recipe(**sections)
    refuse(
        monkeypatch, WAYS["fsdp2"], recipe, rf"{setting}.*: does not work on a sharded.*ddp\.yaml"
    )


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.parametrize(
    ("method", "rollout", "shared"),
    [
        ("lora", {"sync": "merged"}, {}),
        ("lora", {"sync": "adapter"}, {"tensor_parallel_size": 2}),
        ("full", {}, {"tensor_parallel_size": 2}),
    ],
)
def test_a_run_in_parts_under_accelerate_is_the_run_of_one_process(
    way, make_recipe, tmp_path, method, rollout, shared
):
    """With a vLLM for each rank, or one for both."""
    commands = {"one": [sys.executable], "two": accelerate(f"{way}.yaml", num_processes=2)}
    for count, command in commands.items():
        path = tmp_path / f"{count}.toml"
        recipe = make_recipe(
            adapter={"method": method, "rank": 4 if method == "lora" else None},
            run={"dir": str(tmp_path), "name": count},
            rollout={"engine": "vllm"} | rollout | (shared if count == "two" else {}),
            optim={"lr": 1e-3 if method == "lora" else 1e-4, "eps": 1e-6},
            train={"num_threads": 1},
        )
        path.write_text(dump_toml(recipe))
        done = subprocess.run(
            [*map(str, command), "-m", "rlvr.cli", "train", str(path)],
            capture_output=True,
            text=True,
            timeout=HANG_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-4000:]
    assert json.loads((tmp_path / "two" / "manifest.json").read_text())["sharded"]
    assert_same_run(tmp_path / "two", tmp_path / "one")
