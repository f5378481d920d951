"""`rlvr serve`: what it would start, on which address, and who learns the key. Starts nothing."""

import stat
from pathlib import Path

import pytest
import torch

from rlvr.cli import main
from rlvr.common.errors import ConfigError
from rlvr.config.toml import dump_toml, load_recipe
from rlvr.engines.server.engine import exchange_folder, is_loopback
from rlvr.engines.server.key import find_key, key_file, make_key


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("RLVR_API_KEY", raising=False)


def serve(capsys, *words: object) -> tuple[int, str, str]:
    code = main(["serve", *map(str, words), "--print"])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_server_listens_on_loopback_unless_told(write_recipe, capsys):
    code, out, _ = serve(capsys, write_recipe())
    assert code == 0
    assert out.endswith(" --host 127.0.0.1 --port 8000\n")
    assert "--dtype float32 --max-model-len 160" in out
    assert "--logprobs-mode processed_logprobs --middleware rlvr.engines.server.guard.Guard" in out


def test_with_16_bit_weights_the_server_keeps_its_logits_in_float32(write_recipe, capsys):
    _, out, _ = serve(capsys, write_recipe(model={"dtype": "bfloat16"}))
    assert """--hf-overrides '{"head_dtype": "float32"}'""" in out
    assert "--hf-overrides" not in serve(capsys, write_recipe())[1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="vLLM's own block on a GPU is short")
def test_on_a_cpu_the_cache_has_short_blocks_unless_the_recipe_gives_others(write_recipe, capsys):
    assert "--block-size 32 " in serve(capsys, write_recipe())[1]
    rollout = {"engine": "vllm", "engine_args": {"block_size": 64}}
    _, out, _ = serve(capsys, write_recipe(rollout=rollout))
    assert out.index("--block-size 32 ") < out.index("--block-size 64 "), "the last one counts"


def test_another_address_needs_a_chosen_key(write_recipe, capsys, monkeypatch):
    code, out, err = serve(capsys, write_recipe(), "--host", "0.0.0.0")
    assert code == 2
    assert "--host 0.0.0.0: other machines could replace this server's weights; set RLVR_API" in err
    assert out == ""
    monkeypatch.setenv("RLVR_API_KEY", "chosen-by-hand")
    code, out, err = serve(capsys, write_recipe(), "--host", "0.0.0.0")
    assert code == 0
    assert "--host 0.0.0.0" in out
    assert "chosen-by-hand" not in out + err


def test_only_loopback_addresses_count_as_such():
    assert all(map(is_loopback, ("127.0.0.1", "127.8.9.1", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "node1", "localhost.evil.org")))


def test_a_made_key_is_private_and_found_by_training(write_recipe, monkeypatch):
    recipe = load_recipe_of(write_recipe())
    folder = Path(recipe.run.dir)
    assert find_key(folder) is None
    key = make_key(folder)
    assert len(key) >= 40
    assert find_key(folder) == make_key(folder) == key
    assert stat.S_IMODE(key_file(folder).stat().st_mode) == 0o600
    assert key not in dump_toml(recipe)
    monkeypatch.setenv("RLVR_API_KEY", "goes first")
    assert find_key(folder) == "goes first"
    monkeypatch.delenv("RLVR_API_KEY")
    key_file(folder).chmod(0o644)
    with pytest.raises(ConfigError, match="others can read this API key"):
        find_key(folder)


def load_recipe_of(path):
    from rlvr.config.train import TrainRecipe

    return load_recipe(path, [], TrainRecipe)


@pytest.mark.parametrize(
    ("adapter", "words", "rank"),
    [({"rank": 6}, [], 8), ({"method": "pissa", "rank": 6}, [], 16), ({}, ["--port", 8123], 8)],
)
def test_with_adapters_the_server_takes_the_recipes_rank(
    write_recipe, capsys, adapter, words, rank
):
    path = write_recipe(adapter=adapter, rollout={"engine": "auto", "sync": "adapter"})
    _, out, _ = serve(capsys, path, *words)
    assert f"--max-lora-rank {rank} --max-loras 1" in out
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1" in out
    assert "VLLM_SERVER_DEV_MODE" not in out, "nobody needs its endpoints"
    assert f"--port {words[1] if words else 8000}" in out


def test_with_merged_weights_it_opens_the_endpoints_that_replace_them(write_recipe, capsys):
    _, out, _ = serve(capsys, write_recipe(rollout={"engine": "auto"}), "--rollout.sync", "merged")
    assert "VLLM_SERVER_DEV_MODE=1" in out
    assert "lora" not in out


def test_the_port_is_that_of_the_first_server_and_what_follows_the_dashes_goes_on(
    write_recipe, capsys
):
    servers = ["http://127.0.0.1:8011", "http://127.0.0.1:8012"]
    rollout = {"engine": "vllm_server", "servers": servers, "tensor_parallel_size": 2}
    path = write_recipe(rollout=rollout)
    main(["serve", str(path), "--print", "--", "--block-size", "32"])
    out = capsys.readouterr().out
    assert "--port 8011" in out
    assert "--tensor-parallel-size 2" in out
    assert "--block-size 32 --host" in out


def test_no_address_slips_in_behind_the_check(write_recipe, capsys):
    main(["serve", str(write_recipe()), "--print", "--", "--host", "0.0.0.0"])
    assert capsys.readouterr().out.endswith("--host 0.0.0.0 --host 127.0.0.1 --port 8000\n")


@pytest.mark.parametrize(
    ("rollout", "message"),
    [
        ({"engine": "vllm_server"}, "lists none; start them with rlvr serve and give their addr"),
        ({"engine": "vllm", "servers": ["http://127.0.0.1:8000"]}, "servers.*would be ignored"),
        ({"engine": "vllm_server", "servers": ["http://me:pw@host:8000"]}, "rollout.servers.0"),
        ({"engine": "vllm_server", "servers": ["http://host:8000/v1"]}, "rollout.servers.0"),
    ],
)
def test_servers_that_cannot_be_are_refused(make_recipe, rollout, message):
    with pytest.raises(ConfigError, match=message):
        make_recipe(rollout=rollout)


def test_files_for_servers_elsewhere_lie_with_the_runs(tmp_path):
    assert exchange_folder(["http://127.0.0.1:8000"], tmp_path / "runs") != tmp_path / "runs"
    assert exchange_folder(["http://node2:8000"], tmp_path / "runs") == tmp_path / "runs"
