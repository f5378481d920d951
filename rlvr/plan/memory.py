"""Memory of one device and of its host, part by part."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rlvr.adapters import get_method
from rlvr.engines.weights.sync import mode_of
from rlvr.plan.activations import kept_bytes
from rlvr.plan.hardware import Gpu, Shape
from rlvr.policy.logprob_head import CHUNK_ELEMENTS, MIN_CHUNK_LEN

if TYPE_CHECKING:
    from rlvr.config.sft import FinetuneRecipe
    from rlvr.config.train import TrainRecipe

GIB = 2**30
RUNTIME_GIB = 1.5
"""CUDA context, NCCL buffers and the allocator's slack, per device."""
TIGHT = 0.92
"""Fraction of a device's memory above which a plan is too tight: fragments, and what is not
counted."""
GRAPH_GIB = 0.75
"""vLLM's CUDA graphs; with adapters it captures them twice. An assumption."""
PROCESS_GIB, VERIFIER_GIB = 6.0, 0.3
"""Host memory of a rank's process with torch, CUDA and vLLM, and of a verifier's worker."""


def bytes_per_value(recipe: TrainRecipe | FinetuneRecipe) -> int:
    """Of model.dtype."""
    return 4 if recipe.model.dtype == "float32" else 2


def trainer_memory(
    recipe: TrainRecipe | FinetuneRecipe, shape: Shape, num_shards: int = 1
) -> dict[str, float]:
    """GiB of the trainer on one device by part; num_shards: devices that share the weights.

    Methods that train the base keep all of it in float32 and, under autocast, 16-bit copies of the
    matrices; an adapter keeps the base in the compute type. Gradients are float32, AdamW's state is
    two numbers per trained parameter (one byte each in 8 bits; GaLore's and APOLLO's is smaller).
    A reference under full fine-tuning comes to the device while it scores, as does a teacher, of
    which every device takes the whole.
    """
    width, all_weights = bytes_per_value(recipe), not get_method(recipe.adapter).keeps_base
    matrices = shape.dims.layer_weights + shape.dims.head_weights
    has_reference = all_weights and _kl_beta(recipe) > 0
    weights = shape.num_params * 4 if all_weights else shape.num_params * width
    parts = {
        "weights": weights + (0 if all_weights else shape.trainable * 4),
        "16-bit copies": matrices * 2 if all_weights and width == 2 else 0,
        "reference": shape.num_params * width if has_reference else 0,
        "gradients": shape.trainable * 4,
        "optimizer": shape.trainable * (2 if recipe.optim.name.endswith("8bit") else 8),
    }
    sharded = {name: size / num_shards / GIB for name, size in parts.items() if size}
    if shape.teacher_params:
        sharded["teacher"] = shape.teacher_params * width / GIB
    return sharded | {"activations": activation_bytes(recipe, shape) / GIB}


def _kl_beta(recipe: TrainRecipe | FinetuneRecipe) -> float:
    from rlvr.config.train import TrainRecipe

    return recipe.algorithm.kl_beta if isinstance(recipe, TrainRecipe) else 0.0


def micro_batch_tokens(recipe: TrainRecipe | FinetuneRecipe) -> int:
    """Tokens of the largest forward pass: a row that is longer than a micro-batch is one alone."""
    from rlvr.config.train import TrainRecipe

    if not isinstance(recipe, TrainRecipe):
        return recipe.train.micro * recipe.model.max_len
    room = recipe.model.max_len - recipe.rollout.max_response_len
    longest = recipe.rollout.max_response_len + min(recipe.data.max_prompt_len or room, room)
    return max(recipe.train.tokens_per_microbatch, longest)


def activation_bytes(recipe: TrainRecipe | FinetuneRecipe, shape: Shape) -> float:
    """The most bytes that the passes of one micro-batch hold at a time: what layers keep, the
    gradients at hand in one layer's backward pass, and the head's chunk."""
    tokens, dims, width = micro_batch_tokens(recipe), shape.dims, bytes_per_value(recipe)
    kept = kept_bytes(shape.config, shape.adapter, recipe.model.dtype)
    # 16-bit copies of trained weights are counted by themselves
    fixed = kept.layer if get_method(recipe.adapter).keeps_base else 0.0
    layer = tokens * kept.layer_token + fixed
    every = int(recipe.train.activation_checkpointing)
    recomputed = math.ceil(dims.num_layers / every) if every else 0
    layers = (dims.num_layers - recomputed) * layer + recomputed * tokens * kept.stream_token
    layers += layer if recomputed else 0.0  # one at a time is there again
    # of the two products and the activation of a gated MLP, and one more for a sum
    gradients = 4 * dims.intermediate * width * tokens
    # the head never makes all logits at once; three float32 tensors of a chunk live together
    chunk = max(CHUNK_ELEMENTS["cuda"], MIN_CHUNK_LEN * dims.vocab)
    head = min(chunk, tokens * dims.vocab) * 4 * 3 + 2 * width * dims.hidden * tokens
    return layers + tokens * kept.rest_token + max(gradients, head)


def engine_memory(
    recipe: TrainRecipe, shape: Shape, gpu: Gpu | None, colocated: bool
) -> dict[str, float]:
    """GiB of vLLM on one device: weights, what a pass of its own needs, CUDA graphs, and the
    key-value cache in what is left of its share."""
    width = bytes_per_value(recipe)
    shared = recipe.rollout.tensor_parallel_size
    weights = shape.num_params * width / GIB / shared
    if gpu is None:
        return {"engine weights": weights, "key-value cache": float(recipe.rollout.kv_cache_gib)}
    share = (recipe.rollout.gpu_memory_utilization if colocated else 0.9) * gpu.memory_gib
    parts = {
        "engine weights": weights,
        "engine activations": _engine_pass_bytes(recipe, shape, gpu) / GIB,
        "CUDA graphs": GRAPH_GIB * (2 if serves_adapter(recipe) else 1),
    }
    return parts | {"key-value cache": max(0.0, share - sum(parts.values()))}


def _engine_pass_bytes(recipe: TrainRecipe, shape: Shape, gpu: Gpu) -> float:
    """Of the largest pass that vLLM plans for: a full batch of prompts, and sampling for every
    sequence. Source of the batch: vLLM, the defaults of its LLM class (engine/arg_utils.py)."""
    dims, width = shape.dims, bytes_per_value(recipe)
    is_large = gpu.memory_gib >= 70 and not gpu.name.startswith("A100")
    tokens = 16384 if is_large else 8192
    layer = 3 * dims.intermediate + dims.query_width + 2 * dims.kv_width
    per_token = (4 * dims.hidden + layer / recipe.rollout.tensor_parallel_size) * width
    # float32 logits, their log-probabilities, and the noise that a token is drawn with
    return tokens * per_token + 3 * 4 * dims.vocab * recipe.rollout.max_num_seqs


def serves_adapter(recipe: TrainRecipe) -> bool:
    """Whether vLLM on a GPU applies the adapter beside the base while it generates."""
    return mode_of(recipe.rollout, get_method(recipe.adapter), on_cpu=False) == "adapter"


def peak_memory(trainer: dict[str, float], engine: dict[str, float], sleeps: bool) -> float:
    """GiB of both on one device; sleeps: the engine gives up weights and cache while the policy is
    trained, not its graphs."""
    training, generating = sum(trainer.values()), sum(engine.values())
    if not sleeps:
        return training + generating
    # weights and the optimizer's state stay on the device
    at_rest = training - trainer["gradients"] - trainer["activations"]
    return max(training + engine.get("CUDA graphs", 0.0), at_rest + generating)


def device_memory(
    recipe: TrainRecipe,
    shape: Shape,
    gpu: Gpu | None,
    num_shards: int = 1,
    runtime_gib: float = RUNTIME_GIB,
) -> dict[str, float]:
    """GiB of trainer, engine and libraries on one device by part, and "total", their peak."""
    trainer = trainer_memory(recipe, shape, num_shards)
    engine = engine_memory(recipe, shape, gpu, colocated=True)
    peak = peak_memory(trainer, engine, recipe.rollout.sleep) + runtime_gib
    return trainer | engine | {"runtime": runtime_gib, "total": peak}


def host_memory(recipe: TrainRecipe, shape: Shape, num_ranks: int) -> dict[str, float]:
    """GiB of CPU memory of a machine with so many ranks, by part, and "total".

    Weights are read straight to the device; sleeping vLLMs keep theirs in pinned memory; a
    reference under full fine-tuning and a teacher wait there.
    """
    weights = shape.num_params * bytes_per_value(recipe) / GIB
    rollout, all_weights = recipe.rollout, not get_method(recipe.adapter).keeps_base
    waits = all_weights and recipe.algorithm.kl_beta > 0
    parts = {
        "processes": num_ranks * PROCESS_GIB,
        # each function of [[reward.extra]] has as many workers of its own
        "verifier": num_ranks
        * recipe.reward.num_workers
        * VERIFIER_GIB
        * (1 + len(recipe.reward.extra)),
        "sleeping engines": num_ranks * weights / rollout.tensor_parallel_size * rollout.sleep,
        "reference": num_ranks * weights * waits,
        "teacher": num_ranks * shape.teacher_params * bytes_per_value(recipe) / GIB,
    }
    return {name: size for name, size in parts.items() if size} | {"total": sum(parts.values())}


def num_sequences(recipe: TrainRecipe, shape: Shape, cache_gib: float, mean_len: float) -> int:
    """Sequences that an engine generates at a time: max_num_seqs, or as many as its cache holds.

    cache_gib: on each of its devices.
    """
    cache = cache_gib * GIB * recipe.rollout.tensor_parallel_size
    held = cache / (shape.kv_bytes(bytes_per_value(recipe)) * mean_len)
    return max(1, min(recipe.rollout.max_num_seqs, int(held)))
