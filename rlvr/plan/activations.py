"""Bytes that the decoder's layers keep for the backward pass, under any adapter method: measured.

The layers are those that train: the transformers model with the method applied, on tensors that
have shapes and types and no memory (torch's FakeTensorMode), by the path that a GPU takes. What
autograd keeps is counted; two lengths and two depths tell a layer's share from the rest.
"""

from __future__ import annotations

import contextlib
import functools
import json
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlvr.config.adapter import AdapterConfig
from rlvr.policy.attention import PLAIN_CAUSAL
from rlvr.policy.flops import ModelDims

if TYPE_CHECKING:
    from torch import Tensor, nn

SHORT, LONG = 64, 192
"""Tokens of the two passes."""
AS_LORA = frozenset({"boft", "tinylora", "qlora", "loftq", "prompt_tuning", "prefix_tuning"})
"""Methods whose layers cannot be made without memory, or that do not take packed rows: counted as
LoRA of their rank."""


@dataclass(frozen=True, slots=True)
class Kept:
    """layer_token: bytes of a layer per token; layer: of a layer, whatever the tokens;
    stream_token: of a layer's input per token, which is all that recomputation keeps; rest_token:
    outside of the layers per token, less what the first layer need not keep."""

    layer_token: float
    layer: float
    stream_token: float
    rest_token: float


def kept_bytes(config: Any, adapter: AdapterConfig, dtype: str) -> Kept:
    """What the layers of a transformers configuration keep. dtype: of the computation.

    Of models whose rows are not packed it is a guess: a gated MLP's and attention's inputs and
    outputs once each, and the norms' in float32.
    """
    if config.model_type not in PLAIN_CAUSAL:
        dims, width = ModelDims.of(config), 4 if dtype == "float32" else 2
        values = 7 * dims.hidden + 2 * dims.kv_width + 4 * dims.intermediate
        return Kept(width * values + 8 * dims.hidden, 0, width * dims.hidden, 0)
    method = "lora" if adapter.method in AS_LORA else adapter.method
    adapter = adapter.model_copy(update={"method": method})
    return _kept(json.dumps(config.to_dict(), default=str), adapter.model_dump_json(), dtype)


# keyed by text, which hashes by what is in it
@functools.lru_cache(maxsize=64)
def _kept(config_text: str, adapter_text: str, dtype: str) -> Kept:
    adapter = AdapterConfig.model_validate_json(adapter_text)
    sizes, stream_token = {}, 0.0
    for depth in (1, 2):
        for tokens in (SHORT, LONG):
            sizes[depth, tokens], stream_token = _pass(config_text, adapter, dtype, depth, tokens)
    # two layers less one: a layer alone, at both lengths
    short, long = (sizes[2, tokens] - sizes[1, tokens] for tokens in (SHORT, LONG))
    layer_token = (long - short) / (LONG - SHORT)
    rest_token = (sizes[1, LONG] - sizes[1, SHORT]) / (LONG - SHORT) - layer_token
    return Kept(layer_token, short - SHORT * layer_token, stream_token, rest_token)


def _pass(
    config_text: str, adapter: AdapterConfig, dtype: str, depth: int, num_tokens: int
) -> tuple[int, float]:
    """(bytes that autograd keeps of a forward pass over `depth` layers, bytes of one token in the
    residual stream)."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from rlvr.policy.attention import packed_hidden
    from rlvr.policy.packing import TokenRow, pack

    device, compute = torch.device("cpu"), getattr(torch, dtype)
    rows = [TokenRow([0], [0] * num_tokens)]
    packing = pack(rows, device, bucketed=False)  # as on a GPU
    model, causal_lm = _layers(config_text, adapter, compute, depth)
    autocast = contextlib.nullcontext()
    if compute != torch.float32:
        autocast = torch.autocast("cpu", compute)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device=device)
        with autocast, kept_for_backward(model) as count:
            _hidden_TH = packed_hidden(causal_lm, packing)  # which the graph hangs on
            row_H = causal_lm.get_input_embeddings().weight[0]
            return count(), row_H.element_size() * len(row_H)


def _layers(config_text: str, adapter: AdapterConfig, compute: Any, depth: int) -> tuple[Any, Any]:
    """(the model with its adapter, the transformers model inside) of so many layers, on torch's
    meta device."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from rlvr.adapters import get_method
    from rlvr.adapters.base import Setup
    from rlvr.plan.hardware import with_depth
    from rlvr.policy.attention import use_packing

    config = with_depth(AutoConfig.for_model(**json.loads(config_text)), depth)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=compute)
        use_packing(model)
        adapted = get_method(adapter).apply(model, Setup(adapter, seed=0))
    return adapted.eval(), model


@contextlib.contextmanager
def kept_for_backward(model: nn.Module) -> Iterator[Callable[[], int]]:
    """Gives a function that says how many bytes autograd keeps of what was computed in the block,
    every storage once, the model's own tensors left out."""
    import torch

    def storage(value: Tensor) -> int:
        # not data_ptr: tensors without memory have none of their own
        return value.untyped_storage()._cdata

    own = {storage(value) for value in (*model.parameters(), *model.buffers())}
    saved: weakref.WeakSet[_Saved] = weakref.WeakSet()

    def pack(value: Tensor) -> _Saved:
        kept = _Saved(value)
        saved.add(kept)
        return kept

    def count() -> int:
        # what belonged to a result that nobody needs any more is gone from the set
        sizes = {storage(kept.value): kept.value.untyped_storage().nbytes() for kept in saved}
        return sum(size for place, size in sizes.items() if place not in own)

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.value):
        yield count


class _Saved:
    """A tensor that autograd keeps, as long as it does."""

    def __init__(self, value: Tensor) -> None:
        self.value = value
