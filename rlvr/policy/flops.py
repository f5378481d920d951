"""Floating-point operations that a forward pass and an update need: for MFU and for plans.

A product of [a, b] and [b, c] takes 2 a b c. Counted are the products with weights, and those of
queries with keys and of probabilities with values, for the pairs that causal attention has:
position i attends to i + 1. A prompt that several responses share counts once. Not counted is what
an implementation adds: padding, recomputed activations, attention's second look at its scores.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from rlvr.common.gpus import gpu_named
from rlvr.distributed.sharded_tensors import num_elements

if TYPE_CHECKING:
    from rlvr.policy.packing import TokenRow
    from rlvr.policy.policy import Policy


@dataclass(frozen=True, slots=True)
class ModelDims:
    """Sizes of a decoder with gated MLPs. query_width, kv_width: heads times head size, of the
    queries and of the keys."""

    num_layers: int
    hidden: int
    intermediate: int
    query_width: int
    kv_width: int
    vocab: int

    @classmethod
    def of(cls, config: Any) -> ModelDims:
        """Those of a transformers configuration."""
        heads = config.num_attention_heads
        # heads times head size may be more than hidden: Qwen 3, Gemma
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        kv_heads = getattr(config, "num_key_value_heads", None) or heads
        return cls(
            config.num_hidden_layers,
            config.hidden_size,
            config.intermediate_size,
            heads * head_dim,
            kv_heads * head_dim,
            config.vocab_size,
        )

    @property
    def layer_weights(self) -> int:
        """Weights that multiply every token: of all layers, without norms and biases."""
        # query and output projections, key and value; the MLP has gate, up and down
        attention = 2 * self.query_width + 2 * self.kv_width
        return self.num_layers * self.hidden * (attention + 3 * self.intermediate)

    @property
    def head_weights(self) -> int:
        """Weights that multiply what predicts a response token."""
        return self.hidden * self.vocab


@dataclass(frozen=True, slots=True)
class Work:
    """What passes through the model: tokens of the layers, response tokens of the head, and pairs
    of attention."""

    tokens: float
    responses: float
    pairs: float

    @classmethod
    def of(cls, rows: Iterable[TokenRow]) -> Work:
        """That of the rows, every prompt once. A row's last token predicts nothing: left out."""
        prompts, tokens, responses, pairs = set[tuple[int, ...]](), 0, 0, 0
        for row in rows:
            start, end = len(row.prompt_ids), len(row) - 1
            prompt = tuple(row.prompt_ids)
            if prompt not in prompts:
                prompts.add(prompt)
                start = 0
            tokens += end - start
            responses += len(row.response_ids)
            # position i attends to i + 1: summed over i from start to end - 1
            pairs += (end * (end + 1) - start * (start + 1)) // 2
        return cls(tokens, responses, pairs)


@dataclass(frozen=True, slots=True)
class Cost:
    """Operations per unit of `Work`."""

    token: float
    response: float
    pair: float

    def __call__(self, work: Work) -> float:
        return self.token * work.tokens + self.response * work.responses + self.pair * work.pairs


def forward_cost(dims: ModelDims, added: float = 0) -> Cost:
    """Of a forward pass. added: an adapter's weights beside the base's."""
    # 2 for queries with keys, 2 for probabilities with values
    pair = 4 * dims.query_width * dims.num_layers
    return Cost(2 * (dims.layer_weights + added), 2 * dims.head_weights, pair)


def update_cost(
    dims: ModelDims, added: float = 0, trains_layers: bool = False, trains_head: bool = False
) -> Cost:
    """Of a forward and a backward pass: again as much for the gradients of activations, and of
    attention's products twice; a third time for the gradients of those weights that are trained.
    added: an adapter's weights, all trained."""
    forward = forward_cost(dims, added)
    trained = added + dims.layer_weights * trains_layers
    return Cost(
        2 * forward.token + 2 * trained,
        2 * forward.response + 2 * dims.head_weights * trains_head,
        3 * forward.pair,
    )


def update_cost_of(policy: Policy) -> Cost | None:
    """That of the policy; None where its layers are not those of `ModelDims`, or where positions
    before the text are trained.

    All that an adapter trains counts as a matrix beside the base's; its frozen matrices do not.
    """
    if not policy.packs_rows:
        return None
    is_adapter = policy.method.keeps_base
    added = sum(map(num_elements, policy.trainable)) if is_adapter else 0
    head = policy.causal_lm.get_output_embeddings().weight
    dims = ModelDims.of(policy.causal_lm.config)
    return update_cost(dims, added, not is_adapter, head.requires_grad)


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """Published operations per second of a GPU in 16 bits; None for other types, and where
    rlvr/common/gpus.py does not have the device."""
    # the table has peaks of 16 bits alone
    if device.type != "cuda" or dtype == torch.float32:
        return None
    gpu = gpu_named(torch.cuda.get_device_name(device))
    return gpu and gpu.flops
