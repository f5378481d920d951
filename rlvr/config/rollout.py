"""Settings of generation and of the choice of prompts; arguments of vLLM that a recipe may not pass
on. Imports no torch."""

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from rlvr.common.errors import ConfigError
from rlvr.config.base import Section

SERVER = r"^https?://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?$"
"""An address without user, path or query: it is written to config.toml."""


STARTED_WITH = (
    "engine",
    "servers",
    "gpu_memory_utilization",
    "sleep",
    "kv_cache_gib",
    "max_num_seqs",
    "tensor_parallel_size",
    "engine_args",
)
"""Settings of [rollout] that an engine is started with and cannot change."""


class RolloutConfig(Section):
    """How the engine generates."""

    engine: Literal["auto", "vllm", "vllm_server", "transformers"] = "auto"
    """auto takes vLLM where it is installed, else transformers' generate (slow), and says so.
    vllm_server takes the vLLM servers in `servers`, see `rlvr serve`."""
    servers: tuple[Annotated[str, Field(pattern=SERVER)], ...] = ()
    """Addresses of vLLM servers, such as http://127.0.0.1:8000; engine = "vllm_server" only."""
    server_wait_s: float = Field(default=600, gt=0)
    """Seconds to wait for servers at the start, and whenever none is left."""
    mode: Literal["sync", "async"] = "sync"
    """sync: generate, then update. async: generate and verify the next steps' responses while the
    update runs, by older weights; vLLM only."""
    steps_ahead: int = Field(default=1, ge=1, le=16)
    """With mode = "async", steps whose responses are under way or waiting while one updates; they
    are sampled by weights as many steps older than those that they train."""
    max_staleness: int = Field(default=4, ge=0)
    """Steps by which the weights that sampled a response may be older than those it trains; older
    responses are dropped and counted. 0 keeps nothing for a later step."""
    partial: bool = False
    """Once a step has its groups, keep the responses still running and go on with them by the next
    weights: no waiting for long tails, and none is lost."""
    abort_stragglers: bool = False
    """Once enough informative groups are in, abort the responses still running and drop their
    groups: no waiting for long tails, but a bias towards short responses."""
    engine_args: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of vLLM, passed on as they are: quantization, kv_cache_dtype,
    speculative_config, ... Those that sync, seeds or log-probabilities depend on are refused."""
    prompts_per_step: int = Field(default=16, ge=1)
    """Groups P that one optimizer step trains on."""
    # a lone response has nothing to be compared with
    group_size: int = Field(default=8, ge=2)
    """Responses G per prompt."""
    max_response_len: int = Field(default=1024, ge=1)
    """Longest response in tokens; longer ones are truncated and counted."""
    stop: tuple[str, ...] = ()
    """Texts that end a response besides the model's own ends, each one token of its tokenizer, such
    as the "<|im_end|>" of a chat template; the token stays in the response and is trained on."""
    stop_token_ids: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Such tokens by id."""
    # not 0: greedy responses of a group would all be the same
    temperature: float = Field(default=1.0, gt=0, le=10)
    """Sampling temperature; the trainer divides its logits by the same number."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus mass; below 1 the engine renormalises its probabilities (see algorithm.mismatch)."""
    top_k: int = Field(default=0, ge=0)
    """Tokens kept; 0 keeps all."""
    min_p: float = Field(default=0.0, ge=0, lt=1)
    """Probability relative to the best token below which tokens are dropped; 0 keeps all."""
    sync: Literal["auto", "adapter", "merged"] = "auto"
    """What goes to the engine after a step: adapter weights, or base plus update; auto picks by
    device."""
    sync_rounding: Literal["nearest", "stochastic"] = "nearest"
    """How merged weights are rounded to bfloat16 for the engine. nearest: an update below half a
    unit in the last place of its weight does not arrive. stochastic: each number goes up or down by
    chance so that the update arrives on average, by draws from train.seed, step and name; factors
    of an adapter stay rounded to nearest."""
    sync_tolerance: float | None = Field(default=None, gt=0)
    """Largest difference of a fixed token's log-probability (nats) between engine and trainer after
    a sync; None: 1e-3 in float32, any in 16 bits, where weights alone prove that they arrived."""
    gpu_memory_utilization: float = Field(default=0.45, gt=0, lt=1)
    """Fraction of GPU memory for vLLM; the rest is the trainer's."""
    sleep: bool = False
    """vLLM gives its GPU memory up while the policy is trained: its weights wait in CPU memory, its
    key-value cache is made anew. CUDA only."""
    kv_cache_gib: int = Field(default=1, ge=1)
    """Memory of the key-value cache on CPU."""
    max_num_seqs: int = Field(default=256, ge=1)
    """Sequences that the engine runs at a time."""
    tensor_parallel_size: int = Field(default=1, ge=1)
    """GPUs that share one vLLM: as many ranks side by side, or those of one server."""

    @property
    def ranks_per_engine(self) -> int:
        """Consecutive ranks that generate together, the same responses on each."""
        return 1 if self.engine == "vllm_server" else self.tensor_parallel_size


class SamplingConfig(Section):
    """Which prompts come next."""

    strategy: Literal["uniform", "predictive", "curriculum"] = "uniform"
    """Random order, epoch by epoch; the problems most likely to give an informative group; or those
    with a pass rate near a target that falls from 0.8 to 0.2 over the run."""
    discount: float = Field(default=0.995, gt=0, le=1)
    """Share of a verdict's weight in its problem's estimated pass rate left one step later."""
    explore_frac: float = Field(default=0.05, ge=0, le=1)
    """Fraction of problems that predictive and curriculum take at random."""
    max_reuse: float = Field(default=2.5, gt=1)
    """How often predictive and curriculum may take one problem, relative to the mean."""
    dynamic: bool = True
    """Refill until prompts_per_step groups with non-zero reward variance are there (DAPO). With
    algorithm.advantage = "batch" (preset reinforce_pp) it is false: other groups count there."""
    max_refills: int = Field(default=8, ge=0)
    """Prompts that one step may ask for beyond its first ones, in multiples of prompts_per_step,
    before it goes on with the informative groups it has or, without any, stops the run and says
    why."""


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
"""Arguments of vLLM that a recipe may not pass on, and why."""


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
