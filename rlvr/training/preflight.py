"""What a recipe asks of this machine, its method and its ranks, and cannot have."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import torch

from rlvr.adapters import get_method
from rlvr.adapters.methods import quantized
from rlvr.adapters.optimizers import check_optimizer
from rlvr.common.errors import ConfigError
from rlvr.common.packages import is_vllm_installed
from rlvr.distributed.world import World
from rlvr.engines.choose import choose_engine
from rlvr.engines.server.engine import check_servers
from rlvr.engines.weights.sync import check_mode, mode_of
from rlvr.evaluation.problem_sets import check_benchmarks
from rlvr.policy.sharded import check_launcher, launcher_sharding

if TYPE_CHECKING:
    from rlvr.adapters.base import Method
    from rlvr.config.train import TrainRecipe


def check(recipe: TrainRecipe, world: World = World.alone()) -> None:
    """Refuses, before anything is loaded, what cannot work here; asks no other machine.

    Raises: ConfigError.
    """
    num_updates = recipe.train.steps * recipe.optim.updates_per_step
    method = get_method(recipe.adapter, num_updates)
    check_optimizer(recipe.optim, method.name, method.own_optimizer)
    if not method.syncs and not _shares_model(recipe, method):
        raise ConfigError(
            f"rollout.engine = {recipe.rollout.engine!r}: {method.name} cannot be merged into"
            " weights or served by vLLM; set it to 'transformers'"
        )
    check_mode(recipe, method)
    check_benchmarks(recipe)
    every = recipe.train.activation_checkpointing
    if every and not method.checkpointing:
        raise ConfigError(
            f"train.activation_checkpointing = {every}: transformers would drop what {method.name}"
            " trains; set it to 0"
        )
    _check_compile(recipe, method)
    _check_async(recipe, method)
    _check_ranks(recipe, world)
    _check_sharding(recipe, method, world)
    if recipe.rollout.engine == "vllm" and not is_vllm_installed():
        raise ConfigError(
            "rollout.engine = 'vllm': vLLM is not installed; pip install 'rlvr[vllm]' (without a"
            " GPU: make install), or set it to 'transformers'"
        )
    _check_sleep(recipe, method)
    _check_tensor_parallel(recipe, method, world)


def check_reachable(recipe: TrainRecipe) -> None:
    """Refuses vLLM servers that answer and cannot serve the recipe. Raises: ConfigError."""
    if recipe.rollout.engine == "vllm_server":
        on_cpu = not torch.cuda.is_available()
        check_servers(recipe, mode_of(recipe, get_method(recipe.adapter), on_cpu))


def _check_async(recipe: TrainRecipe, method: Method) -> None:
    """Raises: ConfigError where rollouts cannot be made while the policy is updated."""
    if recipe.rollout.mode == "async" and _shares_model(recipe, method):
        raise ConfigError(
            'rollout.mode = "async": the transformers engine generates with the model that is being'
            ' updated; generate with vLLM, or set it to "sync"'
        )


def _check_sleep(recipe: TrainRecipe, method: Method) -> None:
    """Raises: ConfigError where vLLM has no GPU memory to give up."""
    if not recipe.rollout.sleep:
        return
    if _shares_model(recipe, method):
        raise ConfigError(
            "rollout.sleep = true: transformers generates here, with the model that is trained; set"
            " it to false"
        )
    if not torch.cuda.is_available():
        raise ConfigError(
            "rollout.sleep = true: vLLM can give up a GPU's memory only, and there is none here;"
            " set it to false"
        )


def _check_tensor_parallel(recipe: TrainRecipe, method: Method, world: World) -> None:
    """Raises: ConfigError where the processes are no groups that share a vLLM."""
    wanted = recipe.rollout.tensor_parallel_size
    if wanted > 1 and _shares_model(recipe, method):
        raise ConfigError(
            f"rollout.tensor_parallel_size = {wanted}: transformers generates here, in each process"
            " for itself; set it to 1"
        )
    if world.size % recipe.rollout.ranks_per_engine:
        raise ConfigError(
            f"rollout.tensor_parallel_size = {wanted}: the number of processes has to be a multiple"
            f" of it, and is {world.size}; launch so many (docs/distributed.md), or set it to 1"
        )


def _shares_model(recipe: TrainRecipe, method: Method) -> bool:
    """Whether transformers generates, with the model that is trained."""
    return choose_engine(recipe.rollout.engine, method) == "transformers"


def _check_sharding(recipe: TrainRecipe, method: Method, world: World) -> None:
    """Raises: ConfigError for what a sharded policy cannot do."""
    way = launcher_sharding()
    if way is None or world.size == 1:
        return
    check_launcher()
    if recipe.model.dtype == "float16" and not way.SCALES_LOSS:
        raise ConfigError(
            'model.dtype = "float16": DeepSpeed clips before our loss scale could be taken out; set'
            ' it to "bfloat16" or "float32", or launch with recipes/accelerate/fsdp2.yaml'
        )
    engine, reference = recipe.rollout.engine, recipe.algorithm.reference
    without_vllm = " without vLLM" if engine == "auto" else ""
    conflicts = {
        f'adapter.method = "{method.name}"': not method.can_shard,
        f'rollout.engine = "{engine}"{without_vllm}': _shares_model(recipe, method),
        "train.compile = true": recipe.train.compile,
        f'optim.name = "{recipe.optim.name}"': recipe.optim.name != "adamw",
        f'algorithm.reference = "{reference}"': not method.keeps_base
        and recipe.algorithm.kl_beta > 0
        and reference != "initial",
    }
    for setting, conflict in conflicts.items():
        if conflict:
            raise ConfigError(
                f"{setting}: does not work on a sharded policy; change it, or launch with"
                " recipes/accelerate/ddp.yaml"
            )


def _check_ranks(recipe: TrainRecipe, world: World) -> None:
    """Raises: ConfigError for what several processes cannot do together."""
    if world.size > 1 and recipe.rollout.abort_stragglers:
        raise ConfigError(
            f"rollout.abort_stragglers = true: not with {world.size} processes, none of which"
            " sees what the others have finished; set it to false"
        )
    servers = recipe.rollout.servers
    if servers and len(servers) < world.size:
        raise ConfigError(
            f"rollout.servers lists {len(servers)}: each of {world.size} processes needs one of"
            " its own; start more with rlvr serve, or fewer processes"
        )


def _check_compile(recipe: TrainRecipe, method: Method) -> None:
    """Raises: ConfigError for what torch.compile cannot do, or not in a useful time."""
    if not recipe.train.compile:
        return
    if method in quantized.METHODS:
        raise ConfigError(
            f"train.compile = true: not known to work on the 4-bit base of {method.name}; set it to"
            " false"
        )
    if _shares_model(recipe, method):
        raise ConfigError(
            "train.compile = true: the policy would generate its own rollouts, and every length"
            " would be compiled; set it to false, or take a method that vLLM serves and"
            ' rollout.engine = "vllm"'
        )
    if not torch.cuda.is_available() and shutil.which("c++") is None:
        raise ConfigError(
            "train.compile = true: on CPU torch.compile needs a C++ compiler (c++); install one, or"
            " set it to false"
        )
