"""GPUs by name, and the shape of a model: what memory and time are computed from."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlvr.common.errors import ConfigError

if TYPE_CHECKING:
    from rlvr.config.train import TrainRecipe


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device. flops: dense bf16 per second; bytes_per_s: memory; link_bytes_per_s: all-reduce
    between devices, per device, inside a node (nodes of 8) and between nodes."""

    name: str
    memory_gib: float
    flops: float
    bytes_per_s: float
    link_bytes_per_s: float
    node_link_bytes_per_s: float


# dense: data sheets print twice as much, for weights with 2:4 sparsity
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("A100-40G", 40, 312e12, 1.55e12, 250e9, 25e9),
        Gpu("A100", 80, 312e12, 2.0e12, 250e9, 25e9),
        Gpu("L40S", 48, 362e12, 0.86e12, 25e9, 25e9),
        Gpu("H100", 80, 989e12, 3.35e12, 400e9, 50e9),
        Gpu("H200", 141, 989e12, 4.8e12, 400e9, 50e9),
        Gpu("B200", 180, 2250e12, 7.7e12, 800e9, 50e9),
    )
}
"""Published peaks of the vendors' data sheets; what is reached of them is in rates.py."""

GPUS_PER_NODE = 8


def parse_cluster(text: str) -> tuple[int, Gpu | None]:
    """(count, device) of "8xH100" or "cpu". Raises: ConfigError."""
    if text == "cpu":
        return 1, None
    found = re.fullmatch(r"(?:(\d+)x)?([A-Za-z0-9-]+)", text)
    if not found or found[2].upper() not in GPUS:
        raise ConfigError(f"--gpus {text!r}: give COUNTxNAME with a name of {', '.join(GPUS)}")
    return int(found[1] or 1), GPUS[found[2].upper()]


@dataclass(frozen=True, slots=True)
class Shape:
    """A policy's size. trainable: parameters with a gradient; kv_width: of one layer's keys."""

    num_params: int
    trainable: int
    num_layers: int
    hidden: int
    intermediate: int
    kv_width: int
    vocab: int

    def kv_bytes(self, bytes_per_value: int) -> int:
        """Of the key-value cache, per token."""
        return 2 * self.num_layers * self.kv_width * bytes_per_value


QWEN2 = {
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": (1536, 8960, 28, 12, 2, 151936, False),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": (3584, 18944, 28, 28, 4, 152064, False),
    "Qwen/Qwen2.5-0.5B-Instruct": (896, 4864, 24, 14, 2, 151936, True),
}
"""hidden, intermediate, layers, heads, key-value heads, vocabulary, tied: known without the hub."""


def model_config(path: str) -> Any:
    """The transformers configuration of a folder or hub id. Raises: ConfigError."""
    from transformers import AutoConfig, Qwen2Config

    if path in QWEN2:
        hidden, intermediate, layers, heads, kv_heads, vocab, tied = QWEN2[path]
        return Qwen2Config(
            vocab_size=vocab,
            hidden_size=hidden,
            intermediate_size=intermediate,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            tie_word_embeddings=tied,
        )
    try:
        return AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"model.path = {path!r}: its configuration cannot be read ({reason}); give a folder"
        ) from None


def shape_of(recipe: TrainRecipe, path: str) -> Shape:
    """The policy's sizes, counted on a model without weights."""
    import torch
    from transformers import AutoModelForCausalLM

    from rlvr.adapters import check_adapter
    from rlvr.adapters.budget import count_parameters, match_rank

    config = model_config(path)
    with torch.device("meta"):  # shapes alone, without memory
        model = AutoModelForCausalLM.from_config(config)
    method = check_adapter(recipe.adapter)
    # some families, as Qwen3 and Gemma, set it apart from hidden size and heads
    heads = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Shape(
        sum(p.numel() for p in model.parameters()),
        count_parameters(method, match_rank(method, recipe.adapter, config), config),
        config.num_hidden_layers,
        config.hidden_size,
        config.intermediate_size,
        config.num_key_value_heads * heads,
        config.vocab_size,
    )
