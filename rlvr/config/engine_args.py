"""Arguments of vLLM that a recipe may not pass on, and why. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from rlvr.common.errors import ConfigError

_OWN = "it has a setting of its own, {}, which the trainer reads too"
_SYNC = "the weights that are handed over after every step would not arrive"
_SEEDS = "a response would no longer be a function of its seed"
_PROBABILITIES = "the log-probabilities would not be those that tokens were drawn with"
_CHOSEN = "it is chosen by how the run was launched"

REFUSED: Mapping[str, str] = {
    "model": _OWN.format("model.path"),
    "tokenizer": _OWN.format("model.path"),
    "revision": _OWN.format("model.revision"),
    "trust_remote_code": _OWN.format("model.trust_remote_code"),
    "dtype": _OWN.format("model.dtype"),
    "max_model_len": _OWN.format("model.max_len"),
    "max_num_seqs": _OWN.format("rollout.max_num_seqs"),
    "tensor_parallel_size": _OWN.format("rollout.tensor_parallel_size"),
    "gpu_memory_utilization": _OWN.format("rollout.gpu_memory_utilization"),
    "enable_sleep_mode": _OWN.format("rollout.sleep"),
    "seed": _OWN.format("train.seed"),
    "enable_lora": _OWN.format("rollout.sync"),
    "max_lora_rank": _OWN.format("adapter.rank"),
    "max_loras": _OWN.format("rollout.sync"),
    "load_format": _SYNC,
    "weight_transfer_config": _SYNC,
    "worker_extension_cls": _SYNC,
    "worker_cls": _SYNC,
    "logits_processors": _PROBABILITIES,
    "logprobs_mode": _PROBABILITIES,
    "max_logprobs": _PROBABILITIES,
    "generation_config": _PROBABILITIES,
    "override_generation_config": _PROBABILITIES,
    "skip_tokenizer_init": _SEEDS,
    "data_parallel_size": _CHOSEN,
    "distributed_executor_backend": _CHOSEN,
    "pipeline_parallel_size": _CHOSEN,
}
"""Name to reason."""


def refused_args(engine_args: Mapping[str, Any]) -> Iterator[str]:
    """A message for every argument that sync, seeds or log-probabilities depend on."""
    for name in engine_args:
        if "-" in name:
            yield f"rollout.engine_args.{name}: write it with underscores, as vLLM's LLM class does"
        if name in REFUSED:
            yield f"rollout.engine_args.{name}: not passed on to vLLM, {REFUSED[name]}; remove it"


def check_on_cpu(engine_args: Mapping[str, Any]) -> None:
    """Raises: ConfigError for what breaks seeds on a CPU alone."""
    if engine_args.get("enable_chunked_prefill"):
        raise ConfigError(
            "rollout.engine_args.enable_chunked_prefill = true: on CPU vLLM would draw other"
            " samples with the same seed; remove it"
        )


def as_options(engine_args: Mapping[str, Any]) -> list[str]:
    """The arguments as words of `vllm serve`'s command line."""
    words: list[str] = []
    for name, value in engine_args.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            words += [f"--{option}", text]
    return words
