"""Starts vLLM in this process: its environment, its arguments, the threads it must leave alone."""

from __future__ import annotations

import inspect
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.common.errors import ConfigError
from rlvr.config.rollout import check_on_cpu
from rlvr.distributed.world import World
from rlvr.engines.engine import CPU_BLOCK, hf_overrides
from rlvr.engines.vllm_cpu import multiply_by_adapter, prepare

if TYPE_CHECKING:
    from rlvr.config.train import ModelConfig, RolloutConfig

QUIET_ON_CPU = (
    "vllm.config.vllm",
    "vllm.engine.arg_utils",
    "vllm.model_executor.layers.indexer_topk",
    "vllm.platforms.cpu",
    "vllm.triton_utils.importing",
    "vllm.v1.worker.cpu_worker",
)
"""vLLM's loggers that warn at every start on a CPU of what is set there on purpose, or missing."""


def _set_environment(kv_cache_gib: int) -> None:
    """Sets what vLLM reads once, at import."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine shares our process and weights
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(kv_cache_gib))
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # the trainer uses the same cores
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    # else vLLM's LLM class resets the level of each of its loggers
    os.environ.setdefault("VLLM_CONFIGURE_LOGGING", "0")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")


def _remove_leftovers(world: World, width: int) -> None:
    """Removes shared memory of killed runs: vLLM on CPU names what `width` ranks share by their
    numbers alone, and would find it. Runs that use the same name have opened it and keep it."""
    first = world.rank // width * width
    names = "-".join(map(str, range(first, first + width)))
    if world.rank == first:
        for path in Path("/dev/shm").glob(f"*-tp:0-[[]{names}[]]-cpushm_*"):
            path.unlink(missing_ok=True)
    world.gather(None)  # nobody may create what a slower rank would still remove


@contextmanager
def _settable_threads() -> Iterator[None]:
    """Undoes at the end that vLLM on CPU makes torch.set_num_threads a no-op in the whole process.

    vLLM protects a binding to cores, which it makes in processes of its own only.
    """
    import torch

    set_num_threads = torch.set_num_threads
    try:
        yield
    finally:
        torch.set_num_threads = set_num_threads


def start_llm(
    model: ModelConfig,
    rollout: RolloutConfig,
    path: str,
    max_lora_rank: int | None,
    world: World,
    seed: int,
    num_adapters: int,
) -> tuple[Any, float]:
    """(vLLM's LLM, the GPU memory that it has taken, GiB). Arguments: as VllmEngine's.

    Raises: ConfigError for an argument that this vLLM does not have.
    """
    _set_environment(rollout.kv_cache_gib)
    import torch

    warnings.filterwarnings("ignore", category=FutureWarning, module="vllm")
    on_cpu = not torch.cuda.is_available()
    # before the import, which warns too
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"].upper())
    for name in QUIET_ON_CPU if on_cpu else ():
        logging.getLogger(name).setLevel(logging.ERROR)
    from vllm import LLM

    if on_cpu and rollout.tensor_parallel_size > 1:
        _remove_leftovers(world, rollout.tensor_parallel_size)
    if on_cpu and max_lora_rank:
        multiply_by_adapter()  # before vLLM tries how much memory it needs
    options = _options(model, rollout, max_lora_rank, world, on_cpu, num_adapters)
    before = torch.cuda.memory_allocated()
    with _settable_threads():
        llm = LLM(model=path, seed=seed, **options)
    llm.collective_rpc(_give_classes_back)
    if on_cpu:
        llm.collective_rpc(prepare)
    return llm, (torch.cuda.memory_allocated() - before) / 2**30


def _give_classes_back(worker: Any) -> None:
    """Makes transformers' classes what they were, where vLLM runs the model by these (OLMo 2,
    SmolLM3): it changes how a class is made and called, and the policy is of the same one.

    vLLM's own model goes on as a subclass with what vLLM has added.
    """
    from vllm.compilation.wrapper import TorchCompileWithNoGuardsWrapper as Added

    for module in list(worker.model_runner.get_model().modules()):
        cls = type(module)
        if not cls.__module__.startswith("transformers.") or Added not in cls.__bases__:
            continue
        called, made = vars(cls)["__call__"], vars(cls)["__init__"]
        cls.__bases__ = tuple(base for base in cls.__bases__ if base is not Added)
        cls.__init__ = inspect.getclosurevars(made).nonlocals["old_init"]
        del cls.__call__
        module.__class__ = type(cls.__name__, (cls, Added), {"__call__": called})


def refuse_head(folder: Path) -> None:
    """Raises: ConfigError for an adapter on the head, which vLLM on a CPU cannot serve."""
    import torch
    from safetensors import safe_open

    if torch.cuda.is_available():
        return
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            if any(".lm_head." in name for name in tensors.keys()):  # noqa: SIM118 (no dict)
                raise ConfigError(
                    'rollout.sync = "adapter": vLLM on a CPU serves no adapter on lm_head; set it'
                    ' to "merged"'
                )


def _options(
    model: ModelConfig,
    rollout: RolloutConfig,
    max_lora_rank: int | None,
    world: World,
    on_cpu: bool,
    num_adapters: int,
) -> dict[str, Any]:
    options: dict[str, Any] = {
        "revision": model.revision,
        "trust_remote_code": model.trust_remote_code,
        "dtype": model.dtype,
        "max_model_len": model.max_len,
        # of as many runs, each with what it would have alone
        "max_num_seqs": rollout.max_num_seqs * num_adapters,
        "tensor_parallel_size": rollout.tensor_parallel_size,
        "gpu_memory_utilization": rollout.gpu_memory_utilization,
        "enable_sleep_mode": rollout.sleep,
        "enable_prefix_caching": True,
        # the ratio needs the probabilities that tokens were drawn with, not the model's
        "logprobs_mode": "processed_logprobs",
        "skip_tokenizer_init": False,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }
    if on_cpu:
        check_on_cpu(rollout.engine_args)
        # vLLM rewinds the generator of a request whose prefill was split, which CPU ones cannot
        options |= {"enforce_eager": True, "enable_chunked_prefill": False}
        options["block_size"] = CPU_BLOCK
        # vLLM wants a place in a batch for every sequence
        most = max(8192, model.max_len, options["max_num_seqs"])
        options["max_num_batched_tokens"] = most
    if max_lora_rank:
        options |= {
            "enable_lora": True,
            "max_lora_rank": max_lora_rank,
            "max_loras": num_adapters,
        }
    if world.size > 1:
        # inside the ranks' process group: each takes its own GPU, neighbours share an engine
        options["distributed_executor_backend"] = "external_launcher"
    options |= known_args(rollout.engine_args)
    options["hf_overrides"] = hf_overrides(model.dtype, rollout.engine_args)
    return options


def known_args(engine_args: dict[str, Any]) -> dict[str, Any]:
    """The arguments. Raises: ConfigError for one that vLLM does not have."""
    from vllm import EngineArgs

    known = {field.name for field in fields(EngineArgs)}
    for name in engine_args:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            meant = f"did you mean {close[0]}?" if close else "see the options of vllm serve"
            raise ConfigError(f"rollout.engine_args.{name}: vLLM has no such argument; {meant}")
    return engine_args
