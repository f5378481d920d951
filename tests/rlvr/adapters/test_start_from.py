"""adapter.start_from: what a saved adapter is refused for, and a run that goes on from another."""

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from rlvr.adapters.saved import (
    ADAPTER_FILE,
    POLICY_FILE,
    SavedPolicy,
    check_settings,
    read_saved,
    write_saved,
)
from rlvr.common.errors import ConfigError
from rlvr.config.adapter import AdapterConfig
from rlvr.config.sft import FinetuneRecipe
from rlvr.config.toml import validate
from rlvr.policy.policy import load_policy
from rlvr.runs.checkpoint import find_checkpoint, refuse_damaged, save_checkpoint
from rlvr.sft.finetune import finetune
from tests.rlvr.small import steady_metrics
from tests.rlvr.training.test_train import start, wait_for_step

LORA = {"method": "lora", "rank": 4, "alpha": 8, "target_modules": ("q_proj", "v_proj")}
OTHER = [
    ({"method": "dora"}, 'adapter.method = "dora".+set it to "lora"'),
    ({"rank": 8}, "adapter.rank = 8.+set it to 4"),
    ({"rank": None}, "adapter.rank = the default.+set it to 4"),
    ({"alpha": 16}, "adapter.alpha = 16.+set it to 8"),
    ({"target_modules": ("q_proj",)}, "adapter.target_modules"),
    ({"seed": 3}, "adapter.seed = 3.+set it to 0"),
    ({"scaling": "sqrt_rank"}, 'set it to "rank"'),
]


@pytest.mark.parametrize(("change", "message"), OTHER)
def test_other_settings_than_the_saved_ones_are_refused(tmp_path, change, message):
    saved = AdapterConfig.model_validate(LORA | {"seed": 0})
    write_saved(object(), tmp_path, SavedPolicy(saved, "base", "abc", "float32"))
    found = read_saved(tmp_path)
    assert found is not None
    check_settings(found, AdapterConfig.model_validate(LORA))
    with pytest.raises(ConfigError, match=message):
        check_settings(found, AdapterConfig.model_validate(LORA | change))


def test_a_folder_without_a_saved_adapter_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no saved adapter"):
        read_saved(tmp_path)
    (tmp_path / POLICY_FILE).write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_saved(tmp_path)
    with pytest.raises(ConfigError, match="no such folder"):
        find_checkpoint(tmp_path / "nowhere")
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ConfigError, match="no checkpoint yet"):
        find_checkpoint(tmp_path)


def test_a_checkpoint_that_is_not_as_it_was_written_is_refused(make_trained, tmp_path):
    trained = make_trained("lora")
    folder = save_checkpoint(tmp_path, 3, trained.policy, trained.optimizer, {})
    assert find_checkpoint(folder) == folder
    refuse_damaged(folder)
    with (folder / ADAPTER_FILE).open("ab") as file:
        file.write(b"x")
    with pytest.raises(ConfigError, match=f"damaged .{ADAPTER_FILE} is changed"):
        refuse_damaged(folder)


def test_another_base_is_refused(make_trained, tiny_base, tmp_path):
    trained = make_trained("lora")
    trained.policy.save(tmp_path / "saved")
    other = shutil.copytree(tiny_base, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    adapter = trained.recipe.adapter.model_copy(update={"start_from": str(tmp_path / "saved")})
    model = trained.recipe.model
    with pytest.raises(ConfigError, match=f"was trained on {tiny_base}"):
        load_policy(model, adapter, str(other), 0, keep_reference=False)
    moved = shutil.copytree(tiny_base, tmp_path / "moved")
    load_policy(model, adapter, str(moved), 0, keep_reference=False)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["pissa", "full"])
def test_a_run_goes_on_from_supervised_training_and_resumes(
    write_recipe, rlvr_command, tiny_policy, tmp_path, method
):
    adapter = {"method": method} | ({"rank": 4} if method == "pissa" else {})
    tree = {
        "model": {"path": str(tiny_policy), "dtype": "float32", "max_len": 128},
        "data": {"path": "generated:word_problems", "limit": 16},
        "optim": {"lr": 3e-3},
        "train": {"batch_size": 8, "num_threads": 1},
        "adapter": adapter,
        "run": {"dir": str(tmp_path), "name": "sft"},
    }
    supervised = finetune(validate(tree, FinetuneRecipe), Path("r.toml"), Console(quiet=True))
    path = write_recipe(
        adapter=adapter | {"start_from": str(supervised)},
        algorithm={"kl_beta": 0.1},
        train={"steps": 3, "seed": 7},
    )
    if method == "full":  # the fixture's recipe has a rank
        path.write_text(path.read_text().replace("rank = 4\n", ""))
    run = tmp_path / "runs" / "run"
    done = rlvr_command("train", path)
    assert done.returncode == 0, done.stderr
    facts = json.loads((run / "manifest.json").read_text())
    checkpoint = supervised / "checkpoints" / "step_2"
    assert facts["start_from"]["folder"] == str(checkpoint)
    rows = steady_metrics(run)
    assert rows[0]["policy/kl_ref"] == pytest.approx(0, abs=1e-6), "the reference is the start"
    assert rows[2]["policy/kl_ref"] > 1e-6
    again = tmp_path / "again"
    run.rename(again)
    process = start(path)
    wait_for_step(run, 1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = rlvr_command("train", "--resume", run)
    assert done.returncode == 0, done.stderr
    assert steady_metrics(run) == rows
    name = "adapter_model.safetensors" if method == "pissa" else "model.safetensors"
    last = Path("checkpoints", "step_3", name)
    assert (run / last).read_bytes() == (again / last).read_bytes()
    # what the run began with must be what it goes on with
    file = checkpoint / name
    tensors = {key: value + 1 for key, value in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    done = rlvr_command("train", "--resume", run)
    assert done.returncode == 2
    assert "has changed since the run began" in done.stderr


@pytest.mark.slow
def test_supervised_training_goes_on_from_a_run_of_its_own(tiny_policy, tmp_path):
    tree = {
        "model": {"path": str(tiny_policy), "dtype": "float32", "max_len": 128},
        "data": {"path": "generated:word_problems", "limit": 16},
        "optim": {"lr": 3e-3},
        "train": {"batch_size": 8, "log_every": 1, "num_threads": 1},
        "adapter": {"method": "vera", "rank": 4},
        "run": {"dir": str(tmp_path), "name": "first"},
    }
    first = finetune(validate(tree, FinetuneRecipe), Path("r.toml"), Console(quiet=True))
    tree["adapter"] = {"method": "vera", "rank": 4, "start_from": str(first)}
    tree["run"] = {"dir": str(tmp_path), "name": "second"}
    second = finetune(validate(tree, FinetuneRecipe), Path("r.toml"), Console(quiet=True))
    losses = [
        json.loads(line)["policy/loss"]
        for folder in (first, second)
        for line in (folder / "metrics.jsonl").open()
    ]
    assert losses[2] < losses[0]
    assert torch.tensor(losses).isfinite().all()
