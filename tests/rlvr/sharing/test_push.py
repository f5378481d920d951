"""rlvr push against a stand-in of the hub over HTTP; what it received is read back."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from huggingface_hub import ModelCard, constants

from rlvr.cli import main
from rlvr.config.toml import load_recipe
from rlvr.config.train import TrainRecipe
from rlvr.runs.checkpoint import _seal
from tests.rlvr.report import folders
from tests.rlvr.sharing.hub import TOKEN, running_hub
from tests.waiting import HANG_S

CONTAMINATION = {
    "train_rows": 500,
    "contaminated_rows": 3,
    "benchmarks": [
        {"benchmark": "aime24", "problems": 30, "exact": 1, "near": 2, "covered": 3, "pairs": 4}
    ],
}


def write_finished_run(folder, base="org/base-model", model=None):
    """A finished run of constructed numbers, whose best checkpoint is an adapter's of `base`."""
    home = folder.parent
    data = {"path": str(home / "train.jsonl"), "prompt_template": "/think about a/b: {problem}"}
    sections = {"data": data, "eval": {"path": None, "benchmarks": ["aime24"]}}
    model = {"path": model or base, "dtype": "float32", "max_len": 256}
    folders.write_run(folder, model=model, **sections)
    facts = json.loads((folder / "manifest.json").read_text())
    facts |= {"model": base, "contamination": CONTAMINATION, "git_commit": "abc1234", "seed": 7}
    facts |= {"paper": "2106.09685"}
    (folder / "manifest.json").write_text(json.dumps(facts))
    for step, value in ((0, 0.25), (100, 0.75)):
        score = {"value": value, "ci95": [value - 0.125, value + 0.125]}
        tree = json.loads((folder / "eval" / f"step_{step}.json").read_text())
        tree["sets"] = {"aime24": [float(i < 32 * value) for i in range(32)]}
        tree["results"] = {"benchmarks": {"aime24": {"k": 8, "avg@k": score}}}
        (folder / "eval" / f"step_{step}.json").write_text(json.dumps(tree))
    (folder / "eval" / "step_50.json").write_text((folder / "eval" / "step_0.json").read_text())
    summary = json.loads((folder / "summary.json").read_text())
    summary["best_checkpoint"] = "checkpoints/step_100"
    (folder / "summary.json").write_text(json.dumps(summary))
    checkpoint = folder / "checkpoints" / "step_100"
    (checkpoint / "trainer_state").mkdir(parents=True)
    (checkpoint / "trainer_state" / "optimizer.pt").write_bytes(b"moments")
    (checkpoint / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    (checkpoint / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 8)
    saved = {"adapter": {"method": "lora"}, "base": str(home / "base"), "base_weights": None}
    (checkpoint / "rlvr_policy.json").write_text(json.dumps(saved))
    (checkpoint / "README.md").write_text("peft's own card")
    _seal(checkpoint)
    return folder


@pytest.fixture
def run(tmp_path):
    return write_finished_run(tmp_path / "run")


@pytest.fixture
def hub(monkeypatch):
    """The stand-in as the hub of this process, which the tests otherwise keep offline."""
    with running_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


EXPECTED = {"README.md", "adapter_config.json", "adapter_model.safetensors", "recipe.toml"}
EXPECTED |= {"rlvr_policy.json"}


def test_a_push_sends_the_checkpoint_with_its_card_and_recipe(run, hub, capsys, tmp_path):
    assert main(["push", str(run), "me/adapter", "--private", "--revision", "v1"]) == 0
    assert capsys.readouterr().out.startswith(f"{hub.url}/me/adapter/commit/")
    assert hub.repos == {"me/adapter": True}
    files = hub.files["me/adapter", "v1"]
    assert files.keys() == EXPECTED, "neither the trainer's state nor peft's card"
    saved = run / "checkpoints" / "step_100" / "adapter_model.safetensors"
    assert files["adapter_model.safetensors"] == saved.read_bytes()
    text = files["README.md"].decode()
    data = ModelCard(text).data
    assert (data.base_model, data.library_name) == ("org/base-model", "peft")
    assert {"rlvr", "lora"} <= set(data.tags)
    row = next(line for line in text.splitlines() if line.startswith("| aime24, avg@8 |"))
    assert "| 32 | 0.250 [0.125, 0.375] | 0.750 [0.625, 0.875] | +0.500 [+" in row
    for words in (
        "method lora (2106.09685)",
        "100 steps",
        "123,456 parameters",
        "3 of 500 training problems repeat",
        "| aime24 | 30 | 1 | 2 |",
        "2 steps were evaluated on these problems and the best",
        "| seed | 7 |",
        "train.jsonl",
        "at commit abc1234",
        'PeftModel.from_pretrained(model, "me/adapter")',
    ):
        assert words in text
    (tmp_path / "recipe.toml").write_bytes(files["recipe.toml"])
    recipe = load_recipe(tmp_path / "recipe.toml", [], TrainRecipe)
    assert recipe.data.path == "train.jsonl"
    assert recipe.data.prompt_template == "/think about a/b: {problem}"
    for name in ("README.md", "recipe.toml", "adapter_config.json", "rlvr_policy.json"):
        assert str(tmp_path) not in files[name].decode(), "says where its author keeps files"


def test_a_dry_run_prints_files_sizes_and_the_card_and_asks_nobody(run, hub, capsys):
    assert main(["push", str(run), "me/adapter", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert hub.asked == []
    assert "          2,048  adapter_model.safetensors" in shown
    assert "trainer_state" not in shown
    assert "+0.500 [+" in shown


def without_checkpoint(run):
    shutil.rmtree(run / "checkpoints")


def without_end(run):
    (run / "summary.json").unlink()


def damaged(run):
    (run / "checkpoints/step_100/adapter_model.safetensors").write_bytes(b"half")


def of_nothing(run):
    (run / "config.toml").unlink()


@pytest.mark.parametrize(
    ("break_run", "words", "message"),
    [
        (without_checkpoint, [], "best checkpoint (step_100) is not in the folder"),
        (without_end, [], "rlvr train --resume"),
        (damaged, [], "adapter_model.safetensors is changed"),
        (of_nothing, [], "not a run of rlvr train"),
        (None, ["--base", "/home/me/model"], "not an id on the hub"),
    ],
)
def test_what_cannot_be_shared_is_refused_in_one_line(run, hub, capsys, break_run, words, message):
    if break_run is not None:
        break_run(run)
    assert main(["push", str(run), "me/adapter", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert hub.asked == []


@pytest.mark.parametrize(("repo", "message"), [("adapter", "USER/adapter"), ("a/b/c", "Repo id")])
def test_a_repository_without_an_owner_is_refused(run, capsys, repo, message):
    assert main(["push", str(run), repo, "--dry-run"]) == 2
    assert message in capsys.readouterr().err


def test_an_adapter_of_a_local_folder_needs_the_id_of_its_base(tmp_path, hub, capsys):
    run = write_finished_run(tmp_path / "run", base=str(tmp_path))
    assert main(["push", str(run), "me/adapter"]) == 2
    assert "--base USER/NAME" in capsys.readouterr().err
    assert main(["push", str(run), "me/adapter", "--base", "org/real"]) == 0
    files = hub.files["me/adapter", "main"]
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "org/real"
    assert 'path = "org/real"' in files["recipe.toml"].decode()
    assert str(tmp_path) not in b"".join(files[name] for name in EXPECTED).decode("latin-1")


def test_without_a_token_nothing_is_sent(run, hub, capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert main(["push", str(run), "me/adapter"]) == 2
    assert "hf auth login" in capsys.readouterr().err
    assert hub.asked == []


def test_a_token_that_may_not_write_is_the_users_error(run, hub, capsys):
    hub.read_only = True
    assert main(["push", str(run), "me/adapter"]) == 2
    assert "write access" in capsys.readouterr().err
    assert not hub.files


def test_nothing_private_goes_to_a_repository_that_is_public(run, hub, capsys):
    hub.repos["me/adapter"] = False
    assert main(["push", str(run), "me/adapter", "--private"]) == 2
    assert "is public" in capsys.readouterr().err
    assert not hub.files


def test_a_hub_that_does_not_answer_stops_the_push(run, hub, capsys, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert main(["push", str(run), "me/adapter"]) == 1
    assert "me/adapter:" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.process
def test_a_real_run_is_pushed_as_a_user_would_and_loads_again(
    write_recipe, rlvr_command, digit_problems, tmp_path, tiny_policy
):
    """The client's own settings: HF_ENDPOINT and HF_TOKEN in the environment of a process."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    recipe = write_recipe(eval={"path": str(digit_problems), "limit": 20}, train={"steps": 1})
    assert rlvr_command("train", recipe).returncode == 0
    run = tmp_path / "runs" / "run"
    with running_hub() as hub:
        environment = os.environ | {
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": TOKEN,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
        }
        words = ["push", str(run), "me/adapter", "--base", "org/tiny"]
        subprocess.run(
            [sys.executable, "-m", "rlvr.cli", *words],
            env=environment,
            check=True,
            timeout=HANG_S,
        )
    files = hub.files["me/adapter", "main"]
    folder = tmp_path / "downloaded"
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        if not name.endswith(".safetensors"):
            assert str(tmp_path.parent).encode() not in content, name
    base = AutoModelForCausalLM.from_pretrained(tiny_policy)
    model = PeftModel.from_pretrained(base, folder)
    assert model.peft_config["default"].r == 4
    card = (folder / "README.md").read_text()
    after = json.loads((run / "summary.json").read_text())["accuracy_after"]
    assert f"| {after:.3f} [" in card
