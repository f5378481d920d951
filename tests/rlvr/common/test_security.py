"""No foreign code runs, no name leaves its folder, no secret is written down, no port is opened."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rlvr.common.errors import ConfigError
from rlvr.config.compare import CompareRecipe
from rlvr.config.toml import validate
from rlvr.config.train import ModelConfig
from rlvr.config.warm_start import WarmStartRunConfig
from rlvr.policy.language_model import load_base, load_tokenizer

SECRETS = {"WANDB_API_KEY": "f4ke" * 10, "HF_TOKEN": "hf_f4kef4kef4kef4ke"}


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self):
        return Path.touch, (self.touched,)


def settings(folder: Path) -> ModelConfig:
    return ModelConfig(path=str(folder), dtype="float32", max_len=64)


def test_a_model_folder_with_pickled_weights_only_is_refused_unopened(tiny_policy, tmp_path):

    folder = shutil.copytree(tiny_policy, tmp_path / "policy")
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump(Payload(tmp_path / "ran"), file)
    with pytest.raises(ConfigError, match="safetensors"):
        load_base(settings(folder), str(folder))
    assert not (tmp_path / "ran").exists()


def test_code_beside_a_model_or_a_tokenizer_does_not_run(tiny_policy, tmp_path):

    folder = shutil.copytree(tiny_policy, tmp_path / "policy")
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    tree = json.loads((folder / "config.json").read_text())
    tree |= {
        "model_type": "unheard_of",
        "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"},
    }
    (folder / "config.json").write_text(json.dumps(tree))
    with pytest.raises(ConfigError):
        load_base(settings(folder), str(folder))
    tree = json.loads((folder / "tokenizer_config.json").read_text())
    tree |= {
        "tokenizer_class": "Unheard",
        "auto_map": {"AutoTokenizer": ["code.Tokenizer", None]},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tree))
    with pytest.raises(ConfigError):
        load_tokenizer(settings(folder), str(folder))
    assert not (tmp_path / "ran").exists()
    assert ModelConfig(path="x").trust_remote_code is False


def test_nothing_foreign_is_unpickled_and_recipes_are_toml(pytestconfig):
    """torch.load stands once, for our own trainer state, and only with weights_only."""
    loads, call = [], r"torch\.load\((?:[^()]|\([^()]*\))*\)"
    for package in ("rlvr", "rewards", "eval"):
        for path in (pytestconfig.rootpath / package).rglob("*.py"):
            text = path.read_text()
            wrong = r"^\s*(import|from) (pickle|dill|cloudpickle|joblib|yaml|marshal|shelve)\b"
            assert not re.search(wrong, text, re.MULTILINE), path
            loads += [(path.name, found) for found in re.findall(call, text)]
            assert "allow_pickle=True" not in text, path
    assert [name for name, _ in loads] == ["checkpoint.py"]
    assert "weights_only=True" in loads[0][1]


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "a/b", ".hidden", "..", "", "a\nb"])
def test_no_name_leaves_its_folder(make_recipe, name):
    with pytest.raises(ConfigError, match=r"run\.name"):
        make_recipe(run={"name": name})
    with pytest.raises(ConfigError, match="name"):
        validate({"name": name}, WarmStartRunConfig)
    tree = {
        "compare": {"name": "x", "base": "x.toml"},
        "methods": {name: {"method": "lora"}},
        "budget": {"steps": 1},
    }
    with pytest.raises(ConfigError, match="methods"):
        validate(tree, CompareRecipe)


LISTENERS = """
import sys
from pathlib import Path
from rich.console import Console
from rlvr.common.environment import set_environment
set_environment()
from rlvr.config.train import TrainRecipe
from rlvr.config.toml import load_recipe
from rlvr.training.loop import train

def inodes():
    found = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" or table.startswith("udp"):
                found.add(f"socket:[{fields[9]}]")
    return found

def look(step, metrics):
    listening, mine = inodes(), set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if (entry / "stat").read_text().rpartition(")")[2].split()[3] != session:
                continue
            mine |= {str(fd.readlink()) for fd in (entry / "fd").iterdir()}
        except OSError:
            continue
    print("listening:", sorted(listening & mine))
    return False

session = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[3]
train(load_recipe(sys.argv[1], [], TrainRecipe), Path(sys.argv[1]), Console(), end=look)
"""


@pytest.mark.slow
def test_a_run_opens_no_port_and_writes_no_secret(write_recipe, tmp_path):
    """A whole run with W&B offline and secrets in its environment."""
    recipe = write_recipe(train={"steps": 1}, track={"wandb": "offline"})
    environment = os.environ | SECRETS | {"WANDB_MODE": "offline"}
    done = subprocess.run(
        [sys.executable, "-c", LISTENERS, str(recipe)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )
    assert done.returncode == 0, done.stderr
    assert "listening: []" in done.stdout, done.stdout
    from rlvr.report.cli import report_main

    report_main([str(tmp_path / "runs" / "run"), "-o", str(tmp_path / "runs" / "page.html")])
    written = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert len(written) > 10
    for secret in SECRETS.values():
        assert secret not in done.stdout + done.stderr
        for path in written:
            assert secret.encode() not in path.read_bytes(), path
