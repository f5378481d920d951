"""What a recipe asks for that this machine, its adapter method or its processes cannot give.

Nothing is loaded and no other machine is asked. What the recipe alone decides is judged in
`rlvr.config.rules`, while it is read.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rlvr.adapters import check_adapter, get_method
from rlvr.adapters.methods import quantized
from rlvr.adapters.saved import check_settings, read_saved
from rlvr.common.errors import ConfigError
from rlvr.common.own_code import check_call
from rlvr.config.train import called_with, own_functions
from rlvr.distributed.world import World
from rlvr.engines.choose import choose_engine, is_vllm_installed
from rlvr.engines.server.engine import check_servers
from rlvr.engines.weights.sync import mode_of
from rlvr.evaluation.problem_sets import check_benchmarks
from rlvr.policy.language_model import default_device
from rlvr.policy.sharded import check_launcher, launcher_sharding
from rlvr.runs.checkpoint import find_checkpoint
from rlvr.runs.services import check_trackers
from rlvr.sampling.extra import style_of
from rlvr.training.teacher import meet_servers

if TYPE_CHECKING:
    from rlvr.adapters.base import Method
    from rlvr.config.adapter import AdapterConfig
    from rlvr.config.sft import FinetuneRecipe
    from rlvr.config.train import ModelConfig, OptimConfig, TrainRecipe

VLLM_TEMPERATURE = 2.0
"""The highest temperature that vLLM samples at."""


def check(
    recipe: TrainRecipe, world: World = World.alone(), device: torch.device | None = None
) -> None:
    """Refuses a training recipe that cannot work here. Raises: ConfigError.

    device: that the policy is trained on; None takes a GPU, if there is one.
    """
    # AdaLoRA's schedule has to fit into the run; no other method asks how long that is
    num_updates = recipe.train.steps * recipe.optim.updates_per_step
    method = check_adapter(recipe.adapter, num_updates)
    _check_start(recipe.adapter)
    check_optimizer(method, recipe.optim)
    _check_revision(recipe.model)
    _check_sync(recipe, method)
    check_benchmarks(recipe)
    check_trackers(recipe)
    every = recipe.train.activation_checkpointing
    if every and not method.checkpointing:
        raise ConfigError(
            f"train.activation_checkpointing = {every}: transformers would drop what {method.name}"
            " trains; set it to 0"
        )
    for key, name in own_functions(recipe).items():
        given = called_with(key)
        if given is not None:
            check_call(name, *given)
    for one in recipe.reward.extra:
        style_of(one)
    _check_compile(recipe, method)
    _check_async(recipe, method, device or default_device())
    _check_ranks(recipe, world)
    _check_sharding(recipe, method, world)
    needs_engine = recipe.train.replay is None
    if needs_engine and recipe.rollout.engine == "vllm" and not is_vllm_installed():
        raise ConfigError(
            "rollout.engine = 'vllm': vLLM is not installed; pip install 'rlvr[vllm]' (without a"
            " GPU: make install), or set it to 'transformers'"
        )
    _check_sleep(recipe, method)
    _check_temperature(recipe, method)
    _check_tensor_parallel(recipe, method, world)
    for number in range(1, len(recipe.stage) + 1):
        check(recipe.in_stage(number), world, device)


def check_finetune(recipe: FinetuneRecipe) -> None:
    """Refuses a supervised recipe that cannot work here. Raises: ConfigError."""
    method = check_adapter(recipe.adapter)
    _check_start(recipe.adapter)
    check_optimizer(method, recipe.optim)
    _check_revision(recipe.model)
    if recipe.train.activation_checkpointing and not method.checkpointing:
        raise ConfigError(
            f"train.activation_checkpointing = true: transformers would drop what {method.name}"
            " trains; set it to false"
        )
    if recipe.train.packing and not method.packing:
        raise ConfigError(
            f"train.packing = true: the trained positions of {method.name} stand before a whole"
            " sequence, not before every example in it; set it to false"
        )
    if torch.cuda.device_count() > 1:
        raise ConfigError(
            f"rlvr sft: {torch.cuda.device_count()} GPUs are visible and it trains on one; set"
            " CUDA_VISIBLE_DEVICES=0"
        )
    if "lm_head" in recipe.adapter.target_modules:
        raise ConfigError(
            "adapter.target_modules: trl's trainer reads the head's weight past an adapter; remove"
            " 'lm_head'"
        )
    if recipe.run.merge and not (method.merges and method.keeps_base):
        why = "cannot be merged" if not method.merges else "has whole models as checkpoints"
        raise ConfigError(f"run.merge = true: {method.name} {why}; set it to false")


def check_reachable(recipe: TrainRecipe) -> None:
    """Refuses vLLM servers that answer and cannot serve the recipe, and a teacher's that cannot
    score or do not answer. Raises: ConfigError."""
    if recipe.teacher.servers:
        meet_servers(recipe)
    if recipe.rollout.engine == "vllm_server" and recipe.train.replay is None:
        on_cpu = not torch.cuda.is_available()
        mode = mode_of(recipe.rollout, get_method(recipe.adapter), on_cpu)
        check_servers(recipe.model, recipe.rollout, Path(recipe.run.dir), mode)


def check_optimizer(method: Method, config: OptimConfig) -> None:
    """Raises: ConfigError for an optimizer that cannot run here or that the method does not use."""
    name = config.name
    if method.own_optimizer and name != "adamw":
        raise ConfigError(
            f'optim.name = "{name}": {method.name} brings its own optimizer; remove it'
        )
    if name != "adamw" and importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            f'optim.name = "{name}": comes with bitsandbytes, which is not installed; pip install'
            " 'rlvr[quantized]' or set it to \"adamw\""
        )
    if name.startswith("paged") and not torch.cuda.is_available():
        raise ConfigError(
            f'optim.name = "{name}": pages its state between GPU and CPU memory and needs a GPU;'
            ' set it to "adamw" or "adamw_8bit"'
        )


def _check_start(adapter: AdapterConfig) -> None:
    """Raises: ConfigError where adapter.start_from is of other settings, as far as the folder says
    before the base is read."""
    if adapter.start_from is not None:
        saved = read_saved(find_checkpoint(Path(adapter.start_from)))
        if saved is not None:
            check_settings(saved, adapter)


def _check_revision(model: ModelConfig) -> None:
    """Raises: ConfigError for a revision of a folder, of which transformers reads what is there."""
    if model.revision is not None and model.path is not None and Path(model.path).is_dir():
        raise ConfigError(
            f'model.revision = "{model.revision}": would be ignored, model.path = "{model.path}" is'
            " a folder; remove it"
        )


def _check_sync(recipe: TrainRecipe, method: Method) -> None:
    """Raises: ConfigError where the method's weights do not reach the engine that is asked for."""
    if not method.syncs and not _shares_model(recipe, method):
        raise ConfigError(
            f"rollout.engine = {recipe.rollout.engine!r}: {method.name} cannot be merged into"
            " weights or served by vLLM; set it to 'transformers'"
        )
    wanted = recipe.rollout.sync
    if wanted != "auto" and wanted not in method.syncs:
        others = " or ".join(f'"{mode}"' for mode in ("auto", *method.syncs))
        raise ConfigError(
            f'rollout.sync = "{wanted}": {method.name} cannot be handed over so; take {others}'
        )


def _check_async(recipe: TrainRecipe, method: Method, device: torch.device) -> None:
    """Raises: ConfigError where rollouts cannot be made while the policy is updated on `device`."""
    if recipe.rollout.mode != "async":
        return
    if _shares_model(recipe, method):
        raise ConfigError(
            'rollout.mode = "async": the transformers engine generates with the model that is being'
            ' updated; generate with vLLM, or set it to "sync"'
        )
    # a thread has CUDA's device 0 until it chooses, and vLLM orders its copies after the stream of
    # the thread that started it
    if device.type == "cuda" and recipe.rollout.engine != "vllm_server":
        raise ConfigError(
            'rollout.mode = "async": vLLM in this process would generate in a second thread, whose'
            " work on the GPU is not ordered with the update's; start servers with rlvr serve and"
            ' set rollout.engine = "vllm_server", or set it to "sync"'
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


def _check_temperature(recipe: TrainRecipe, method: Method) -> None:
    """Raises: ConfigError for a temperature that vLLM refuses once it is asked."""
    values = {
        "rollout.temperature": recipe.rollout.temperature,
        "eval.temperature": recipe.eval.temperature,
    }
    for name, value in values.items():
        if value > VLLM_TEMPERATURE and not _shares_model(recipe, method):
            raise ConfigError(
                f"{name} = {value:g}: vLLM samples at {VLLM_TEMPERATURE:g} at most; lower it, or"
                ' set rollout.engine = "transformers"'
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
    check_launcher(way)
    if recipe.model.dtype == "float16" and not way.SCALES_LOSS:
        raise ConfigError(
            'model.dtype = "float16": DeepSpeed clips before our loss scale could be taken out; set'
            ' it to "bfloat16" or "float32", or launch with recipes/accelerate/fsdp2.yaml'
        )
    engine, reference = recipe.rollout.engine, recipe.algorithm.reference
    # transformers generates on each rank at its own pace, and a pass of a sharded policy needs all
    # ranks at once
    without_vllm = " without vLLM" if engine == "auto" else ""
    conflicts = {
        f'adapter.method = "{method.name}"': not method.can_shard,
        f'rollout.engine = "{engine}"{without_vllm}': _shares_model(recipe, method),
        "train.compile = true": recipe.train.compile,
        "stage.reset_reference or reset_optimizer": any(
            one.reset_reference or one.reset_optimizer for one in recipe.stage
        ),
        "adapter.start_from with algorithm.kl_beta": method.keeps_base
        and recipe.algorithm.kl_beta > 0
        and recipe.adapter.start_from is not None,
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
    # what inductor generates for a CPU is C++
    if not torch.cuda.is_available() and shutil.which("c++") is None:
        raise ConfigError(
            "train.compile = true: on CPU torch.compile needs a C++ compiler (c++); install one, or"
            " set it to false"
        )
