"""What is refused before anything loads: not by the recipe alone, but by what is at hand."""

import pytest
import torch

from rlvr.common.errors import ConfigError
from rlvr.distributed.world import World
from rlvr.training.preflight import check


def test_every_process_needs_a_server_of_its_own(make_recipe):
    recipe = make_recipe(rollout={"engine": "vllm_server", "servers": ["http://127.0.0.1:8000"]})
    with pytest.raises(ConfigError, match="lists 1: each of 2 processes needs one of its own"):
        check(recipe, World(0, 2))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_there_is_no_memory_of_a_gpu_to_give_up_without_one(make_recipe):
    with pytest.raises(ConfigError, match=r"rollout\.sleep = true: .* there is none here; set it"):
        check(make_recipe(rollout={"engine": "vllm", "sleep": True}))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("lora", r"tensor_parallel_size = 2: the number of processes has to .* and is 1; launch"),
        ("houlsby", r"tensor_parallel_size = 2: transformers generates here"),
    ],
)
def test_one_process_shares_no_vllm(make_recipe, method, message):
    rollout = {"engine": "vllm" if method == "lora" else "auto", "tensor_parallel_size": 2}
    with pytest.raises(ConfigError, match=message):
        check(make_recipe(rollout=rollout, adapter={"method": method, "rank": 4}))


def test_an_engine_that_shares_the_policy_cannot_sleep(make_recipe):
    adapter = {"method": "houlsby", "rank": 4}  # which vLLM cannot serve
    with pytest.raises(ConfigError, match=r"rollout\.sleep = true: transformers generates"):
        check(make_recipe(rollout={"engine": "auto", "sleep": True}, adapter=adapter))


def test_a_folder_has_no_revisions(make_recipe):
    with pytest.raises(ConfigError, match=r'revision = "main": would be ignored, .* a folder'):
        check(make_recipe(model={"revision": "main"}))


@pytest.mark.parametrize("engine", ["vllm", "auto"])
def test_vllm_in_the_process_cannot_generate_beside_the_update_on_a_gpu(make_recipe, engine):
    """Its second thread would launch kernels on the wrong device, or without order."""
    recipe = make_recipe(rollout={"engine": engine, "mode": "async"})
    with pytest.raises(ConfigError, match=r'"async": vLLM in this process .* "vllm_server"'):
        check(recipe, device=torch.device("cuda", 1))
    check(recipe, device=torch.device("cpu"))
    check(make_recipe(rollout={"engine": engine}), device=torch.device("cuda", 1))
    served = {"engine": "vllm_server", "mode": "async", "servers": ["http://127.0.0.1:8000"]}
    check(make_recipe(rollout=served), device=torch.device("cuda", 1))


@pytest.mark.parametrize("section", ["rollout", "eval"])
def test_a_temperature_that_vllm_refuses_is_refused_before(make_recipe, digit_problems, section):
    def recipe(engine: str, value: float):
        sections = {"rollout": {"engine": engine}, "eval": {"path": str(digit_problems)}}
        sections[section] |= {"temperature": value}
        return make_recipe(**sections)

    with pytest.raises(ConfigError, match=rf"{section}\.temperature = 2\.5: vLLM samples at 2"):
        check(recipe("vllm", 2.5))
    check(recipe("vllm", 2.0))
    check(recipe("transformers", 2.5))
