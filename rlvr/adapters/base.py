"""What an adapter method is: how it is applied to a pristine base and how it reaches the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from rlvr.config import AdapterConfig

Sync = Literal["adapter", "merged"]


@dataclass(frozen=True, slots=True)
class Method:
    """One row of METHODS.

    name: as in adapter.method. paper: arXiv id, or a name where there is none. trains: in words.
    merges: whether W + delta exists as a plain weight. syncs: modes to the engine, the cheapest
    first.
    options: fields of AdapterConfig that it obeys; giving another one is an error.
    apply(model, config, seed): the model to train; an adapter leaves the base bit-identical.
    """

    name: str
    paper: str
    trains: str
    merges: bool
    syncs: tuple[Sync, ...]
    options: frozenset[str]
    apply: Callable[[PreTrainedModel, AdapterConfig, int], nn.Module]
