"""A real vLLM server on loopback: exact weights, the local engine's tokens, keys, lost servers."""

import json
import os
import re
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch

from rlvr.cli import main
from rlvr.common.errors import ConfigError, RunError
from rlvr.engines.engine import Request, SamplingParams
from rlvr.engines.server import handed
from rlvr.engines.server.engine import ServerEngine, check_servers
from rlvr.engines.server.guard import PAUSE_PATH
from rlvr.engines.vllm_local import VllmEngine
from rlvr.engines.weights.sync import Syncer, SyncError
from tests.rlvr.distributed.test_ranks import launch
from tests.rlvr.engines.engine_cases import (
    LONG,
    PROMPTS,
    SAMPLING,
    adapted_policy,
    assert_ends_at_a_stop_token,
    assert_pauses_and_goes_on,
    requests,
    sampled_error,
)
from tests.rlvr.engines.serving import KEY, ServerProcess, ask
from tests.rlvr.small import steady_metrics
from tests.waiting import HANG_S, wait_until

pytestmark = pytest.mark.engine


@pytest.fixture(autouse=True)
def api_key(monkeypatch):
    monkeypatch.setenv("RLVR_API_KEY", KEY)


def connect(recipe, mode) -> ServerEngine:
    run_dir = Path(recipe.run.dir)
    return ServerEngine(recipe.model, recipe.rollout, run_dir, recipe.model.path, mode)


def look_at_servers(recipe, mode) -> None:
    check_servers(recipe.model, recipe.rollout, Path(recipe.run.dir), mode)


@pytest.fixture(scope="module")
def server(make_recipe, tmp_path_factory):
    """One server for the module, that takes adapters and merged weights."""
    server = start_server(make_recipe, tmp_path_factory.mktemp("server"))
    server.wait()
    yield server
    server.kill()


def start_server(make_recipe, folder, sync: str = "adapter") -> ServerProcess:
    from rlvr.config.toml import dump_toml

    path = folder / "recipe.toml"
    path.write_text(dump_toml(make_recipe(rollout={"engine": "auto"})))
    words = ["--rollout.sync", sync]
    server = ServerProcess(path, folder / "log", *words, VLLM_SERVER_DEV_MODE="1")
    server.start()
    return server


@pytest.fixture
def start_another(make_recipe):
    """Gives `start_server`, whose servers end with the test, however it ends."""
    started = []

    def start(folder, sync: str = "adapter") -> ServerProcess:
        started.append(start_server(make_recipe, folder, sync))
        return started[-1]

    yield start
    for server in started:
        server.kill()


@pytest.fixture
def server_recipe(make_recipe, tmp_path):
    """Gives the small recipe on these servers; keyword arguments replace rollout settings."""

    def make(*servers: ServerProcess, **rollout):
        urls = [server.url for server in servers]
        rollout = {"engine": "vllm_server", "servers": urls, "server_wait_s": 120} | rollout
        return make_recipe(rollout=rollout, run={"dir": str(tmp_path / "runs")})

    return make


@pytest.mark.parametrize("mode", ["adapter", "merged"])
def test_after_real_updates_the_server_serves_exactly_the_policy(server, server_recipe, mode):
    recipe = server_recipe(server)
    policy = adapted_policy(recipe)
    engine = connect(recipe, mode)
    syncer = Syncer(recipe.rollout, policy, engine, mode, PROMPTS)
    for _ in range(2):  # a second version replaces the first
        stats = syncer.sync()
        assert stats.num_bytes > 0
        assert stats.logprob_error < 1e-4
        for temperature in (1.0, 0.7):
            assert sampled_error(policy, engine, SamplingParams(24, temperature)) < 1e-4
        with torch.no_grad():
            for parameter in policy.trainable:
                parameter.mul_(1.5)
    session = engine.open(SAMPLING)
    session.add(requests(4))
    while session.num_running:
        session.step()
    load = session.cache_load()
    session.close()
    assert load is not None, "the server tells by its metrics"
    assert load.preemptions == 0
    assert 0 <= load.peak_frac < 1
    engine.close()
    if mode == "merged":
        connect(recipe, mode).close()  # the base again, for other tests


@pytest.mark.parametrize("mode", ["adapter", "merged"])
def test_what_a_server_does_not_hold_is_named_by_its_own_checksums(server, server_recipe, mode):
    recipe, name = server_recipe(server), "model.layers.0.self_attn.k_proj"
    policy = adapted_policy(recipe)
    engine = connect(recipe, mode)
    syncer = Syncer(recipe.rollout, policy, engine, mode, PROMPTS)
    syncer.sync()
    syncer.prove()
    with torch.no_grad():
        layer: Any = policy.model.get_submodule(f"base_model.model.{name}")
        layer.lora_B["default"].weight += 1e-5
    with pytest.raises(SyncError, match=rf"the engine serves {name} without its update"):
        syncer.prove()
    syncer.sync()
    syncer.prove()
    body = json.dumps({"names": ["model.norm.weight"], "has_adapter": False}).encode()
    assert ask(f"{server.url}/rlvr/held", None, body) == 401
    assert ask(f"{server.url}/rlvr/held", KEY, body) == 200
    engine.close()
    if mode == "merged":
        connect(recipe, mode).close()  # the base again, for other tests


def test_the_server_ends_a_response_at_a_stop_token(server, server_recipe):
    recipe = server_recipe(server)
    engine = connect(recipe, "merged")
    assert_ends_at_a_stop_token(engine)
    engine.close()


def test_the_server_pauses_and_goes_on(server, server_recipe):
    engine = connect(server_recipe(server), "adapter")
    assert_pauses_and_goes_on(engine, LONG, num_steps=1)
    engine.close()


@pytest.mark.slow
def test_the_server_samples_the_tokens_of_the_local_engine(server, server_recipe):
    recipe = server_recipe(server)
    remote = connect(recipe, "merged")
    local = VllmEngine(recipe.model, recipe.rollout, recipe.model.path, max_lora_rank=8)
    for sampling in (
        SAMPLING,
        SamplingParams(24, 0.7, top_p=0.9),
        SamplingParams(24, temperature=0),
    ):
        ours = remote.generate(requests(12), sampling)
        theirs = local.generate(requests(12), sampling)
        assert [r.token_ids for r in ours] == [r.token_ids for r in theirs]
        assert [r.truncated for r in ours] == [r.truncated for r in theirs]
        for x, y in zip(ours, theirs, strict=True):
            assert x.logprobs == pytest.approx(y.logprobs, abs=1e-5)
    assert remote.generate(requests(2), SamplingParams(8, logprobs=False))[0].logprobs == []
    assert remote.score(PROMPTS)[2] == pytest.approx(local.score(PROMPTS)[2], abs=1e-5)
    local.close()
    remote.close()


def metric(server: ServerProcess, name: str) -> float:
    """Sum of what the server says of `name`, a pattern."""
    asked = urllib.request.Request(
        f"{server.url}/metrics", headers={"Authorization": f"Bearer {KEY}"}
    )
    with urllib.request.urlopen(asked, timeout=HANG_S) as reply:
        text = reply.read().decode()
    return sum(map(float, re.findall(rf"^vllm:{name}{{.*}} (.*)$", text, re.M)))


def num_running(server: ServerProcess) -> float:
    return metric(server, "num_requests_(?:running|waiting)")


def test_the_server_reads_a_prompt_once_for_all_its_responses(server, server_recipe):
    engine = connect(server_recipe(server), "adapter")
    before = metric(server, "prefix_cache_hits_total")
    prompt = PROMPTS[3][::-1]
    engine.generate([Request(prompt, seed) for seed in range(4)], SAMPLING)
    hits = metric(server, "prefix_cache_hits_total") - before
    assert hits == 3 * 64, f"tokens of {len(prompt)}"
    engine.close()


def test_closing_a_stream_aborts_its_requests_and_leaves_the_engine_usable(server, server_recipe):
    recipe = server_recipe(server)
    engine = connect(recipe, "adapter")
    short = [request for request in requests(128) if len(request.prompt_ids) < 16]
    stream = engine.stream(short, SamplingParams(max_len=128))  # long enough to be asked meanwhile
    num_finished = 0
    while not num_finished:
        num_finished += len(next(stream))
    assert ask(server.url + PAUSE_PATH, KEY) == 200, "asked only: nothing is ended"
    assert num_running(server) > 0
    stream.close()
    assert num_finished < len(short)
    assert wait_until(lambda: num_running(server) == 0)
    assert len(engine.generate(requests(2), SAMPLING)) == 2
    engine.close()


def test_a_wrong_key_is_refused_before_anything_loads(server, server_recipe, monkeypatch):
    monkeypatch.setenv("RLVR_API_KEY", "another")
    with pytest.raises(ConfigError, match=f"{server.url} refuses the API key; set RLVR_API_KEY"):
        look_at_servers(server_recipe(server), "adapter")


def test_every_path_but_health_asks_for_the_key(server):
    assert ask(f"{server.url}/health") == 200
    rpc = json.dumps({"method": "reload_weights"}).encode()
    for path, body in {"/v1/models": None, "/metrics": None, "/collective_rpc": rpc}.items():
        assert ask(server.url + path, None, body) == 401, path
        assert ask(server.url + path, KEY + "x", body) == 401, path
    assert ask(f"{server.url}/metrics", KEY) == 200
    assert KEY not in server.log.read_text()


def test_a_server_that_is_too_short_for_the_recipe_is_refused(server, server_recipe):
    recipe = server_recipe(server)
    longer = recipe.model.model_copy(update={"max_len": 512})
    with pytest.raises(ConfigError, match=r"model.max_len = 512: .* takes 160 tokens"):
        look_at_servers(recipe.model_copy(update={"model": longer}), "adapter")


def test_no_server_at_all_is_waited_for_and_then_said(make_recipe, server_recipe):
    class Nowhere:
        url = "http://127.0.0.1:9"

    recipe = server_recipe(Nowhere, server_wait_s=0.1)
    look_at_servers(recipe, "adapter")  # it may still be starting
    with pytest.raises(RunError, match=r"no server of rollout.servers .* answered for 0.1 s"):
        connect(recipe, "adapter")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_servers_share_the_requests_and_one_does_them_all_when_the_other_dies(
    server, server_recipe, start_another, tmp_path, capfd
):
    other = start_another(tmp_path)
    other.wait()
    recipe = server_recipe(server, other, max_num_seqs=4)
    policy = adapted_policy(recipe)
    engine = connect(recipe, "adapter")
    syncer = Syncer(recipe.rollout, policy, engine, "adapter", PROMPTS)
    assert syncer.sync().logprob_error < 1e-4
    whole = engine.generate(requests(48), LONG)
    found, stream = {}, engine.stream(requests(48), LONG)
    while len(found) < 8:
        found.update(next(stream))
    assert wait_until(lambda: num_running(server) and num_running(other))
    other.kill()
    for finished in stream:
        found.update(finished)
    assert [found[i].token_ids for i in range(48)] == [r.token_ids for r in whole]
    assert re.search(rf"{other.url} is lost .* \d+ requests are reissued", capfd.readouterr().err)

    other.start()  # on the same port, with the base's weights
    other.wait()
    assert syncer.sync().logprob_error < 1e-4
    assert f"{other.url} is ready" in capfd.readouterr().err
    assert [r.token_ids for r in engine.generate(requests(48), LONG)] == [
        r.token_ids for r in whole
    ]
    engine.close()


TRAIN = {"prompts_per_step": 2, "group_size": 8, "max_response_len": 64}


def train(write_recipe, name: str, **rollout) -> list[dict[str, float]]:
    """The metrics of a short run."""
    path = write_recipe(rollout=TRAIN | rollout, train={"steps": 3}, run={"name": name})
    assert main(["train", str(path)]) == 0
    return steady_metrics(path.parent / "runs" / name, "sync/")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("sync", ["adapter", "merged"])
def test_a_run_on_a_server_killed_and_restarted_in_a_step_equals_a_local_run(
    write_recipe, start_another, tmp_path, sync, capfd, monkeypatch
):
    proofs: list[int] = []
    differing = handed.differing

    def counted(folder, found) -> list[str]:
        proofs.append(len(found))
        return differing(folder, found)

    monkeypatch.setattr(handed, "differing", counted)
    (tmp_path / "server").mkdir()
    server = start_another(tmp_path / "server", sync)
    local = train(write_recipe, "local", engine="vllm", sync=sync)
    server.wait()
    on_server = {"engine": "vllm_server", "servers": [server.url], "sync": sync}
    undisturbed = train(write_recipe, "undisturbed", **on_server)

    def kill_in_the_second_step() -> None:
        metrics = tmp_path / "runs" / "killed" / "metrics.jsonl"
        while not (metrics.exists() and metrics.read_text().count("\n") >= 1):
            time.sleep(0.05)
        wait_until(lambda: num_running(server))
        server.kill()
        server.start()

    killer = threading.Thread(target=kill_in_the_second_step)
    killer.start()
    killed = train(write_recipe, "killed", **on_server, server_wait_s=240)
    killer.join()
    said = capfd.readouterr().err
    assert "is lost" in said
    assert said.count("is ready") == 3, "once per run, and after the restart"
    assert proofs == [42 if sync == "adapter" else 30] * 3, "all tensors, as often"
    for other in (undisturbed, killed):
        for ours, theirs in zip(other, local, strict=True):
            # of servers, only the ends of responses are seen
            names = theirs.keys() - {"rollout/decoding_steps"}
            assert {k: ours[k] for k in names} == pytest.approx(
                {k: theirs[k] for k in names}, rel=1e-4, abs=1e-6
            )
    server.kill()
    for folder in (tmp_path / "runs", tmp_path / "server"):
        for file in filter(os.path.isfile, folder.rglob("*")):
            assert KEY.encode() not in file.read_bytes(), file


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_two_processes_with_a_server_each_train_as_one_with_vllm_does(
    write_recipe, start_another, tmp_path, mode
):
    servers = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        servers.append(start_another(tmp_path / name))
    local = train(write_recipe, "local", engine="vllm", sync="adapter", mode=mode)
    for server in servers:
        server.wait()
    urls = [server.url for server in servers]
    rollout = TRAIN | {"engine": "vllm_server", "servers": urls, "sync": "adapter", "mode": mode}
    train_config = {"steps": 3, "num_threads": 1}
    path = write_recipe(rollout=rollout, train=train_config, run={"name": "two"})
    done = launch("-m", "rlvr.cli", "train", path)
    assert done.returncode == 0, done.stderr[-4000:]
    for ours, theirs in zip(steady_metrics(tmp_path / "runs" / "two", "sync/"), local, strict=True):
        for name in ("train/padding_frac", "rollout/imbalance"):  # by the split
            del ours[name], theirs[name]
        names = theirs.keys() - {"rollout/decoding_steps"}
        assert {k: ours[k] for k in names} == pytest.approx(
            {k: theirs[k] for k in names}, rel=1e-3, abs=1e-6
        )
