"""Memory of one device, part by part."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlvr.plan.hardware import Gpu, Shape
from rlvr.policy.logprob_head import CHUNK_ELEMENTS, MIN_CHUNK_LEN

if TYPE_CHECKING:
    from rlvr.config.train import TrainRecipe

GIB = 2**30
RUNTIME_GIB = 1.5
"""CUDA context, NCCL buffers and the allocator's slack, per device."""


def trainer_memory(recipe: TrainRecipe, shape: Shape, num_shards: int = 1) -> dict[str, float]:
    """GiB of the trainer on one device by part; num_shards: devices that share the weights.

    Full fine-tuning keeps float32 master weights and, under autocast, their 16-bit copies; an
    adapter keeps the base in the compute type. Gradients are float32, AdamW's state is two numbers
    per trained parameter (one byte each in 8 bits).
    """
    width = 4 if recipe.model.dtype == "float32" else 2
    full = recipe.adapter.method.startswith("full")
    frozen = shape.num_params - shape.trainable if full else shape.num_params
    # an adapter's own matrices are too small for their copies to count
    copies = shape.trainable * 2 if full and width == 2 else 0
    state = 2 if recipe.optim.name.endswith("8bit") else 8
    parts = {
        "weights": frozen * width + shape.trainable * 4,
        "16-bit copies": copies,
        "gradients": shape.trainable * 4,
        "optimizer": shape.trainable * state,
    }
    sharded = {name: size / num_shards / GIB for name, size in parts.items() if size}
    return sharded | {"activations": activation_bytes(recipe, shape, width) / GIB}


def activation_bytes(recipe: TrainRecipe, shape: Shape, width: int) -> float:
    """Bytes kept for the backward pass of one micro-batch, the head's chunk included."""
    tokens = recipe.train.tokens_per_microbatch
    layer = width * (7 * shape.hidden + 2 * shape.kv_width + 4 * shape.intermediate)
    layer += 8 * shape.hidden  # the norms compute in float32
    kept = layer * shape.num_layers
    every = int(recipe.train.activation_checkpointing)
    if every:
        inputs = width * shape.hidden * shape.num_layers / every
        kept = inputs + layer * every + layer * shape.num_layers * (every > 1) * (1 - 1 / every)
    # the head never makes all logits at once; three float32 tensors of a chunk live together
    chunk = max(CHUNK_ELEMENTS["cuda"], MIN_CHUNK_LEN * shape.vocab)
    head = min(chunk, tokens * shape.vocab) * 4 * 3
    return tokens * kept + head


def engine_memory(
    recipe: TrainRecipe, shape: Shape, gpu: Gpu | None, colocated: bool
) -> dict[str, float]:
    """GiB of vLLM on one device: weights, and the key-value cache in what it may take."""
    width = 4 if recipe.model.dtype == "float32" else 2
    weights = shape.num_params * width / GIB / recipe.rollout.tensor_parallel_size
    if gpu is None:
        return {"engine weights": weights, "key-value cache": float(recipe.rollout.kv_cache_gib)}
    share = recipe.rollout.gpu_memory_utilization if colocated else 0.9
    return {
        "engine weights": weights,
        "key-value cache": max(0.0, share * gpu.memory_gib - weights),
    }


def peak_memory(trainer: dict[str, float], engine: dict[str, float], sleeps: bool) -> float:
    """GiB of both on one device; sleeps: the engine's is given up while the policy is trained."""
    training, generating = sum(trainer.values()), sum(engine.values())
    if not sleeps:
        return training + generating
    # weights and the optimizer's state stay on the device
    at_rest = training - trainer["gradients"] - trainer["activations"]
    return max(training, at_rest + generating)


def num_sequences(recipe: TrainRecipe, shape: Shape, cache_gib: float, mean_len: float) -> int:
    """Sequences that an engine generates at a time: max_num_seqs, or as many as its cache holds.

    cache_gib: on each of its devices.
    """
    width = 4 if recipe.model.dtype == "float32" else 2
    cache = cache_gib * GIB * recipe.rollout.tensor_parallel_size
    held = cache / (shape.kv_bytes(width) * mean_len)
    return max(1, min(recipe.rollout.max_num_seqs, int(held)))
