"""A cluster by its name, and the shape of a model: what memory and time are computed from."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from rlvr.common.errors import ConfigError, first_line
from rlvr.common.gpus import GPUS, Gpu
from rlvr.policy.attention import PLAIN_CAUSAL
from rlvr.policy.flops import ModelDims

if TYPE_CHECKING:
    from rlvr.config.adapter import AdapterConfig
    from rlvr.config.sft import FinetuneRecipe
    from rlvr.config.train import TrainRecipe

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
    """A policy's size. trainable: parameters with a gradient. config: transformers'. adapter: with
    its rank. teacher_params: parameters of a teacher that is loaded beside it; 0 without one."""

    num_params: int
    trainable: int
    dims: ModelDims
    config: Any
    adapter: AdapterConfig
    teacher_params: int = 0

    def kv_bytes(self, bytes_per_value: int) -> int:
        """Of the key-value cache, per token."""
        return 2 * self.dims.num_layers * self.dims.kv_width * bytes_per_value


QWEN2 = {
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": (1536, 8960, 28, 12, 2, 151936, False),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": (3584, 18944, 28, 28, 4, 152064, False),
    "Qwen/Qwen2.5-0.5B-Instruct": (896, 4864, 24, 14, 2, 151936, True),
}
"""hidden, intermediate, layers, heads, key-value heads, vocabulary, tied: known without the hub."""


def model_config(path: str, key: str = "model.path") -> Any:
    """The transformers configuration of a folder or hub id. key: the setting that names it.
    Raises: ConfigError."""
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
        reason = first_line(error)
        raise ConfigError(
            f"{key} = {path!r}: its configuration cannot be read ({reason}); give a folder"
        ) from None


def with_depth(config: Any, num_layers: int) -> Any:
    """A transformers configuration of the same layers, so many of them."""
    from transformers import AutoConfig

    tree = config.to_dict() | {"num_hidden_layers": num_layers}
    if tree.get("layer_types"):
        # transformers refuses a list that does not have one type per layer
        tree["layer_types"] = tree["layer_types"][:num_layers]
    return AutoConfig.for_model(**tree)


def shape_of(recipe: TrainRecipe | FinetuneRecipe, path: str) -> Shape:
    """The policy's sizes, counted on a model without weights."""
    from rlvr.adapters import check_adapter
    from rlvr.adapters.budget import count_parameters, match_rank

    config = model_config(path)
    method = check_adapter(recipe.adapter)
    adapter = match_rank(method, recipe.adapter, config)
    trainable = partial(count_parameters, method, adapter)
    # a tensor that serves several layers is not one more with every layer
    count = trainable(config) if method.shared else _from_two_layers(trainable, config)
    num_params = _from_two_layers(_num_params, config)
    return Shape(num_params, count, ModelDims.of(config), config, adapter, _teacher_params(recipe))


def _teacher_params(recipe: TrainRecipe | FinetuneRecipe) -> int:
    from rlvr.config.train import TrainRecipe
    from rlvr.evaluation.targets import resolve

    if not isinstance(recipe, TrainRecipe) or recipe.teacher.path is None:
        return 0
    base, _ = resolve(recipe.teacher.path, [])  # of an adapter's folder
    return _from_two_layers(_num_params, model_config(base, "teacher.path"))


def _from_two_layers(count: Callable[[Any], int], config: Any) -> int:
    """count(config); where all layers are alike, by the second layer's share: in a tenth of the
    time."""
    if config.model_type not in PLAIN_CAUSAL:
        return count(config)
    one, two = (count(with_depth(config, depth)) for depth in (1, 2))
    return one + (config.num_hidden_layers - 1) * (two - one)


def _num_params(config: Any) -> int:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):  # shapes alone, without memory
        return sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
