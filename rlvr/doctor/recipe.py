"""The checks of what one recipe needs: settings, memory, disk, shared memory, the hub, data."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rlvr.common.errors import ConfigError, first_line
from rlvr.common.own_code import is_reader
from rlvr.doctor.check import Check
from rlvr.doctor.machine import existing

if TYPE_CHECKING:
    from rlvr.config.train import DataConfig, TrainRecipe
    from rlvr.plan.hardware import Shape

GIB = 2**30


def examine_recipe(recipe: TrainRecipe, path: Path, run_dir: Path) -> list[Check]:
    """Every check of a recipe, whose file lies at `path`, on this machine."""
    checks = [_settings(recipe)]
    shape, why_not = _shape(recipe, path)
    if shape is None:
        checks.append(Check("model", "skip", why_not, "memory and disk are not compared with it"))
    else:
        checks += [_gpu_memory(recipe, shape), _disk(recipe, shape, run_dir)]
        checks += _exchange(recipe, shape)
    checks += [check_hub(name, kind) for name, kind in hub_names(recipe)]
    return checks + list(_data(recipe))


def _settings(recipe: TrainRecipe) -> Check:
    from rlvr.training.preflight import check

    try:
        check(recipe)
    except ConfigError as error:
        return Check("recipe", "fail", str(error), "change the setting")
    return Check("recipe", "ok", "nothing in it is refused here")


def _shape(recipe: TrainRecipe, path: Path) -> tuple[Shape | None, str]:
    """The policy's sizes, or why they are not known."""
    from rlvr.plan.hardware import shape_of
    from rlvr.warm_start.policy_path import find_model

    model = find_model(recipe, path)
    if model is None:
        return None, f"the warm start of {recipe.model.sft_recipe} is not made yet"
    try:
        return shape_of(recipe, model), ""
    except ConfigError as error:
        return None, str(error)


def _gpu_memory(recipe: TrainRecipe, shape: Shape) -> Check:
    """What `rlvr plan` counts, against the smallest of the GPUs."""
    import torch

    from rlvr.common.gpus import gpu_named
    from rlvr.plan.memory import TIGHT, device_memory

    if not torch.cuda.is_available():
        return Check("gpu memory", "skip", "no GPU here", "run it on the machine that trains")
    names = {torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
    gpus = [gpu for name in names if (gpu := gpu_named(name)) is not None]
    if not gpus:
        found = f"{', '.join(sorted(names))}: not in the table of rlvr plan"
        return Check("gpu memory", "skip", found, "plan with the GPU that is nearest to it")
    least = min(gpus, key=lambda gpu: gpu.memory_gib)
    stages = [recipe.in_stage(number) for number in range(len(recipe.stage) + 1)]
    # stages follow each other, so the largest has to fit
    total = max(device_memory(one, shape, least)["total"] for one in stages)
    found = f"{total:.0f} of {least.memory_gib:.0f} GiB by rlvr plan, unsharded"
    if total <= TIGHT * least.memory_gib:
        return Check("gpu memory", "ok", found)
    remedy = "see rlvr plan RECIPE: smaller micro-batches, checkpointing, a smaller share for vLLM"
    return Check("gpu memory", "fail" if total > least.memory_gib else "warn", found, remedy)


def checkpoint_gib(recipe: TrainRecipe, shape: Shape) -> float:
    """Size of a checkpoint: what is loaded elsewhere, the optimizer's state, and an adapter's
    tensors once more as they live."""
    from rlvr.adapters import get_method

    weights = 4 * shape.trainable
    if get_method(recipe.adapter).keeps_base:
        weights *= 2
    # bytes of Adam's two moments, in 8 bits or in float32
    state = 2 if recipe.optim.name.endswith("8bit") else 8
    return (weights + state * shape.trainable) / GIB


def _disk(recipe: TrainRecipe, shape: Shape, run_dir: Path) -> Check:
    """Room for the newest checkpoints, the best one, and the one that is being written."""
    count, each = recipe.train.keep_checkpoints + 2, checkpoint_gib(recipe, shape)
    free = shutil.disk_usage(existing(run_dir)).free / GIB
    found = f"{free:.1f} GiB free for up to {count} checkpoints of {each:.2g} GiB"
    if free < count * each:
        remedy = "make room, set run.dir, or lower train.keep_checkpoints"
        return Check("checkpoints", "fail", found, remedy)
    return Check("checkpoints", "ok", found)


def _exchange(recipe: TrainRecipe, shape: Shape) -> Iterator[Check]:
    """Memory of /dev/shm for two versions of what servers on this machine are handed."""
    from rlvr.engines.server.engine import is_loopback

    servers = recipe.rollout.servers
    if not servers or not all(is_loopback(urlsplit(url).hostname or "") for url in servers):
        return
    need = 2 * handover_gib(recipe, shape)
    memory = Path("/dev/shm")
    free = shutil.disk_usage(memory).free / GIB if memory.is_dir() else 0.0
    found = f"{free:.1f} GiB free in /dev/shm for two versions of the weights, {need:.1f} GiB"
    if free < need:
        remedy = f"start the container with --shm-size={need * 1.5:.0f}g, or mount a larger one"
        yield Check("handover", "fail", found, remedy)
    else:
        yield Check("handover", "ok", found)


def handover_gib(recipe: TrainRecipe, shape: Shape) -> float:
    """Size of one version of the weights as servers are given them."""
    from rlvr.plan.memory import bytes_per_value, serves_adapter

    if serves_adapter(recipe):
        return 4 * shape.trainable / GIB
    return bytes_per_value(recipe) * shape.num_params / GIB


def hub_names(recipe: TrainRecipe) -> list[tuple[str, str]]:
    """(repository, "model" or "dataset") of all that the recipe takes from the hub."""
    models = (recipe.model.path, recipe.teacher.path)
    names = [(path, "model") for path in models if path and not Path(path).is_dir()]
    used = [data for _, data in _sources(recipe) if is_on_hub(data)]
    return names + [(data.path, "dataset") for data in used if data.path is not None]


def _sources(recipe: TrainRecipe) -> list[tuple[str, DataConfig]]:
    """(section, its data settings) of training and evaluation."""
    from rlvr.evaluation.problem_sets import held_out_data

    held_out = held_out_data(recipe)
    data = recipe.data
    places = [f"data.source.{i}" for i in range(len(data.source))] or ["data"]
    train = list(zip(places, data.parts, strict=True))
    return [*train, *([("eval", held_out)] if held_out else [])]


def is_on_hub(data: DataConfig) -> bool:
    """Whether the path is a hub dataset's, not a file's, a folder's or a generator's."""
    from rlvr.data import tables
    from rlvr.data.rows import GENERATED

    path = str(data.path)
    is_here = tables.is_file(path) or is_reader(path) or Path(path).is_dir()
    return not is_here and not tables.is_other_file(path) and GENERATED not in path


def check_hub(name: str, kind: str) -> Check:
    """Whether a repository can be asked for, or is here already."""
    import httpx
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type=kind)
    is_cached = folder.is_dir()
    if constants.HF_HUB_OFFLINE:
        if is_cached:
            return Check(f"hub {name}", "ok", "HF_HUB_OFFLINE is set, and it is in the cache")
        remedy = f"download it first, where there is a network: hf download {name}"
        # hf download looks for a model unless it is told
        remedy += " --repo-type dataset" * (kind == "dataset")
        return Check(f"hub {name}", "fail", "HF_HUB_OFFLINE is set, and it is not cached", remedy)
    try:
        HfApi().repo_info(name, repo_type=kind, timeout=10)
    # before OSError, of which it is a kind
    except HfHubHTTPError as error:
        remedy = "correct the name, or log in: hf auth login"
        return Check(f"hub {name}", "fail", first_line(error), remedy)
    except (OSError, httpx.HTTPError) as error:
        reason = f"not reached ({type(error).__name__})"
        if is_cached:
            return Check(f"hub {name}", "warn", f"{reason}, but cached", "set HF_HUB_OFFLINE=1")
        remedy = "give this machine a network or a proxy, or copy the cache (HF_HOME) here"
        return Check(f"hub {name}", "fail", reason, remedy)
    return Check(f"hub {name}", "ok", "reached")


def _data(recipe: TrainRecipe) -> Iterator[Check]:
    """The recipe's own files, by their first row, and the benchmarks that it evaluates."""
    from eval.benchmarks import find_file, resolve
    from rlvr.data.rows import read_rows

    for section, data in _sources(recipe):
        if is_on_hub(data):
            continue
        name = f"{section}.path"
        try:
            rows, source = read_rows(data, section)
            first = next(rows, None)
        except ConfigError as error:
            yield Check(name, "fail", str(error), "put the file there, or name another source")
            continue
        # a field may lie inside of a column: a.b
        missing = [
            field
            for field in (data.problem_field, data.answer_field)
            if first is not None and field.split(".")[0] not in first and field not in first
        ]
        if first is None or missing:
            found = f"{source} has no {' and no '.join(missing) or 'rows'}"
            yield Check(name, "fail", found, "correct data.problem_field and data.answer_field")
        else:
            yield Check(name, "ok", source)
    for spec in recipe.eval.benchmarks:
        benchmark = resolve(spec)
        if all(find_file(file.name) for file in benchmark.files):
            yield Check(f"benchmark {spec}", "ok", "its files are here")
        elif benchmark.hub is not None and not os.environ.get("HF_HUB_OFFLINE"):
            yield Check(f"benchmark {spec}", "ok", "comes from the hub")
        else:
            remedy = "set RLVR_DATA to the folder that holds its files"
            yield Check(f"benchmark {spec}", "fail", "no file of it here", remedy)
