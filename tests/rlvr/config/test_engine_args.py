"""rollout.engine_args: what goes to vLLM as it is, and what is refused with its reason."""

import pytest

from rlvr.common.errors import ConfigError
from rlvr.config.rollout import REFUSED, as_options, check_on_cpu
from tests.rlvr.cases import make_recipe


@pytest.mark.parametrize("name", REFUSED)
def test_what_sync_seeds_or_probabilities_depend_on_is_refused_with_the_reason(name):
    with pytest.raises(ConfigError, match=rf"rollout\.engine_args\.{name}: not passed on to vLLM"):
        make_recipe(rollout={"engine": "vllm", "engine_args": {name: 1}})


def test_the_server_is_given_them_as_options():
    args = {
        "kv_cache_dtype": "fp8",
        "enforce_eager": True,
        "async_scheduling": False,
        "speculative_config": {"method": "ngram", "num_speculative_tokens": 3},
    }
    assert as_options(args) == [
        *("--kv-cache-dtype", "fp8", "--enforce-eager", "--no-async-scheduling"),
        *("--speculative-config", '{"method": "ngram", "num_speculative_tokens": 3}'),
    ]


def test_without_vllm_they_would_be_ignored():
    with pytest.raises(ConfigError, match=r"rollout\.engine_args .* would be ignored"):
        make_recipe(rollout={"engine": "transformers", "engine_args": {"block_size": 32}})


def test_a_name_as_on_the_command_line_is_not_another_way_in():
    with pytest.raises(ConfigError, match=r"engine_args\.max-loras: write it with underscores"):
        make_recipe(rollout={"engine": "vllm", "engine_args": {"max-loras": 2}})


def test_what_breaks_seeds_on_a_cpu_is_refused_there():
    check_on_cpu({"enable_chunked_prefill": False})
    with pytest.raises(ConfigError, match="other samples with the same seed; remove it"):
        check_on_cpu({"enable_chunked_prefill": True})
