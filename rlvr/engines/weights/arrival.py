"""Whether weights arrived: those read back from the engine, compared with the policy's.

Log-probabilities cannot tell. In bfloat16 two right computations differ by up to 0.5 nats on some
token, and an update at a rate of 1e-5 moves tokens by 0.01.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from rlvr.adapters.export import lora_factors, low_rank_layers
from rlvr.adapters.merge import (
    as_in_files,
    file_names,
    handed_names,
    merged_weights,
    plain_name,
)
from rlvr.distributed.sharded_tensors import Slot, temporarily_gathered
from rlvr.engines.weights.vllm_weights import FACTORS

if TYPE_CHECKING:
    from rlvr.adapters.base import Sync
    from rlvr.engines.engine import Engine
    from rlvr.engines.weights.cast import Cast
    from rlvr.engines.weights.fingerprint import Piece
    from rlvr.policy.language_model import LanguageModel

NUM_TURNS = 50
"""Between two checks of everything, a fiftieth of the modules is read back after every step."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """Names of the modules compared, of those where the engine's weights differ from the policy's,
    and of those that it cannot read back."""

    modules: tuple[str, ...]
    differing: tuple[str, ...]
    unread: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Expected:
    """What the engine should serve. names: of the weights, by module. weights: their values."""

    names: Mapping[str, Sequence[str]]
    weights: Iterable[tuple[str, Tensor]]


def expected(
    policy: LanguageModel,
    mode: Sync,
    step: int | None = None,
    everything: bool = False,
    cast: Cast | None = None,
) -> Expected:
    """What the engine should serve after a sync by `mode`, from the policy as it is while the
    weights are iterated over.

    step: compares only the modules whose turn it is after this step. everything: compares what
    training does not change, too. cast: that of the sync, for merged weights. All ranks of a
    sharded policy iterate together.
    """
    names = sent_names(policy, mode, everything)
    if step is not None:
        names = {module: names[module] for module in whose_turn(list(names), step)}
    return Expected(names, sent_weights(policy, mode, names, everything, cast))


def compare(expected: Expected, engine: Engine) -> Arrival:
    """The comparison of every number that the engine serves with what it should serve, rounded to
    the type in which the engine keeps it."""
    module_of = {name: module for module, own in expected.names.items() for name in own}
    found: Mapping[str, Sequence[Piece]] = {}
    differing: dict[str, None] = {}
    try:
        found = engine.read_back(list(module_of))
    finally:
        # even after an error: the other ranks wait for this one's shard of every weight
        for name, value in expected.weights:
            if not all(piece.is_of(value) for piece in found.get(name, ())):
                differing[module_of[name]] = None
    # `all` of no pieces finds no difference: such a weight is unread
    unread = dict.fromkeys(module for name, module in module_of.items() if not found.get(name))
    return Arrival(tuple(expected.names), tuple(differing), tuple(unread))


def whose_turn(modules: Sequence[str], step: int) -> list[str]:
    """The modules to compare after a step: a fiftieth, at least one, and all of them in turn."""
    # strided, so that every turn takes modules from all depths of the model
    num_turns = max(1, min(NUM_TURNS, len(modules)))
    return list(modules[step % num_turns :: num_turns])


def sent_names(policy: LanguageModel, mode: Sync, everything: bool = False) -> dict[str, list[str]]:
    """The names of what a sync hands over, by module; see `vllm_weights.read`."""
    if mode == "merged":
        rename = file_names(policy.model)
        handed = handed_names(policy.model, everything).items()
        return {module: [rename(name) for name in names] for module, names in handed}
    return {name: [name + factor for factor in FACTORS] for name in _lora_layers(policy)}


def sent_weights(
    policy: LanguageModel,
    mode: Sync,
    modules: Collection[str],
    everything: bool = False,
    cast: Cast | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """What the engine should serve of these modules, from the policy as it is now: linear weights
    [out, in], and low-rank factors with their scaling in B."""
    if mode == "merged":
        weights = merged_weights(policy.model, everything, only=modules)
        weights = as_in_files(policy.model, weights)
        if cast is not None:
            weights = ((name, cast(name, value)) for name, value in weights)
        yield from _as_linear(policy.model, weights)
        return
    for name, layer in _lora_layers(policy).items():
        if name in modules:
            with temporarily_gathered(_own_slots(layer)):
                _, (a, b) = meant_and_served(policy, layer)
            yield name + FACTORS[0], a
            yield name + FACTORS[1], b


def _lora_layers(policy: LanguageModel) -> dict[str, Any]:
    return {plain_name(name): layer for name, layer in low_rank_layers(policy.model).items()}


def _own_slots(layer: Any) -> Iterator[Slot]:
    """Where the layer's parameters are kept, without those of its base."""
    base = set(layer.get_base_layer().modules())
    for module in layer.modules():
        if module not in base:
            yield from ((module._parameters, name) for name in module._parameters)


def meant_and_served(
    policy: LanguageModel, layer: Any
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(A, B) in float32 with B A the update, and (A, B) in the policy's type as vLLM serves them,
    which scales B in that type where a folder does not."""
    if policy.saves_scaled_factors:
        a, b = (value.float() for value in lora_factors(layer))
        return (a, b), (a.to(policy.dtype), b.to(policy.dtype))
    (name,) = [name for name in layer.active_adapters if name in layer.lora_A]
    a, b = (f[name].weight.detach().float() for f in (layer.lora_A, layer.lora_B))
    scaling = layer.scaling[name]
    return (a, b * scaling), (a.to(policy.dtype), b.to(policy.dtype) * scaling)


def _as_linear(
    model: nn.Module, weights: Iterator[tuple[str, Tensor]]
) -> Iterator[tuple[str, Tensor]]:
    """The weights, those of transformers' Conv1D transposed."""
    from transformers.pytorch_utils import Conv1D

    rename = file_names(model)
    turned = {
        rename(f"{plain_name(name)}.weight")
        for name, module in model.named_modules()
        # GPT-2's layers, which keep [in, out]
        if isinstance(module, Conv1D)
    }
    for name, value in weights:
        yield name, value.t() if name in turned else value
