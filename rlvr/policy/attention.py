"""Attention over packed rows, registered with transformers' attention interface.

On CUDA in half precision torch's own variable-length kernel runs over the rows; elsewhere
scaled-dot-product attention runs over buckets of rows of nearly the same length. A forward pass
without a packing takes transformers' own scaled-dot-product attention.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rlvr.policy.packing import Packing

NAME = "rlvr_packed"
PLAIN_CAUSAL = frozenset({"granite", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3"})
"""Model types whose layers are causal attention through the interface and functions of one token:
what a packed row needs to be exact. A test holds each of them to it."""


def use_packing(model: Any) -> None:
    """Makes the model's attention take packed rows, where that is exact: see `packs`."""
    config = model.config
    layer_types = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None)
    # packed attention is plain causal attention: it knows no window
    if config.model_type in PLAIN_CAUSAL and layer_types == {"full_attention"} and window is None:
        model.set_attn_implementation(NAME)


def cap_attention(model: Any) -> None:
    """Gives models with a soft cap on attention's scores (Gemma 2) the attention that applies it:
    scaled-dot-product attention, transformers' choice, leaves it out without a word."""
    if getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None:
        model.set_attn_implementation("eager")


def packs(model: Any) -> bool:
    """Whether the model's attention takes packed rows."""
    return model.config._attn_implementation == NAME


def bucketed(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether attention runs over padded buckets: everywhere but on CUDA in half precision."""
    return device.type != "cuda" or dtype == torch.float32


def packed_hidden(causal_lm: Any, packing: Packing) -> Tensor:
    """[T, H] last hidden states at the places that predict the response tokens."""
    # transformers takes a mask of four dimensions as it is, and makes none of its own
    no_mask = torch.empty(1, 1, 1, 1, device=packing.ids_U.device)
    hidden_1UH = causal_lm.base_model(
        input_ids=packing.ids_U[None],
        position_ids=packing.positions_U[None],
        attention_mask=no_mask,
        use_cache=False,
        packing=packing,
    ).last_hidden_state
    return take(hidden_1UH[0], packing.predicts_T)


def take(values: Tensor, index: Tensor) -> Tensor:
    """values[index] along the first of two dimensions.

    An embedding lookup: its gradient is one pass on CPU, and on CUDA deterministic and without a
    wait, which those of the other ways to index are not.
    """
    return functional.embedding(index, values)


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    packing: Packing | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """([1, U, heads, head size], None): the interface's contract for a packed line."""
    if packing is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
    return _packed(query, key, value, scaling, packing), None  # pyright: ignore[reportCallIssue]


# its loop over buckets differs with every line: each would be compiled anew
@torch.compiler.disable
def _packed(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, packing: Packing
) -> Tensor:
    """[1, U, heads, head size] from query, key and value of [1, heads, U, head size]."""
    parts = [x[0].transpose(0, 1) for x in (query, key, value)]
    if torch.is_autocast_enabled(query.device.type):
        # autocast does not know varlen_attn, which takes half precision only
        parts = [x.to(torch.get_autocast_dtype(query.device.type)) for x in parts]
    widths = [x.shape[1] * x.shape[2] for x in parts]
    heads = [x.shape[1] for x in parts]
    # side by side: one lookup for all three
    line = torch.cat([x.reshape(len(x), width) for x, width in zip(parts, widths, strict=True)], 1)
    taken = take(line, packing.take_S).split(widths, dim=1)
    q, k, v = (x.unflatten(1, (n, -1)) for x, n in zip(taken, heads, strict=True))
    run = _buckets if packing.ends_R is None else _varlen
    out_SD = run(q, k, v, scaling, packing).flatten(1)
    return take(out_SD, packing.home_U).unflatten(1, (heads[0], -1))[None]


def _buckets(q: Tensor, k: Tensor, v: Tensor, scaling: float | None, packing: Packing) -> Tensor:
    """[S, heads, head size], bucket by bucket; padding stands after its row, which it never
    reaches."""
    sizes = [rows * length for rows, length in packing.shapes]
    outs = []
    for shape, *parts in zip(packing.shapes, *(x.split(sizes) for x in (q, k, v)), strict=True):
        query, key, value = (x.unflatten(0, shape).transpose(1, 2) for x in parts)
        out = functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
        )
        outs.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(outs)


def _varlen(q: Tensor, k: Tensor, v: Tensor, scaling: float | None, packing: Packing) -> Tensor:
    """[S, heads, head size] by torch's variable-length kernel."""
    from torch.nn.attention.varlen import varlen_attn

    options: dict[str, Any] = {"window_size": (-1, 0)}  # causal
    if q.shape[1] != k.shape[1]:
        if "enable_gqa" in inspect.signature(varlen_attn).parameters:
            options["enable_gqa"] = True
        else:  # before torch 2.12
            k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    longest = max(length for _, length in packing.shapes)
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    ends: Any = packing.ends_R
    out: Any = varlen_attn(q, k, v, ends, ends, longest, longest, scale=scaling, **options)
    return out


AttentionInterface.register(NAME, attention)
# without a mask function transformers makes no mask, and generation would see its left padding
AttentionMaskInterface.register(NAME, sdpa_mask)
