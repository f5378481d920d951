"""The weights in a folder that servers were given, compared with what a server holds of them.

A server that comes back in the middle of a step is given the folder again. The trainer's policy may
have moved on by then, so that the folder alone says what it has to hold.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from rlvr.engines.weights.fingerprint import Piece


def names(folder: Path) -> list[str]:
    """The names of its tensors, as engines are asked for them."""
    return [name for name, _ in _tensors(folder)]


def differing(folder: Path, found: Mapping[str, Sequence[Piece]]) -> list[str]:
    """The names of the tensors of which a server holds another piece; what it cannot read counts as
    right."""
    scaling = _scaling(folder)
    return [
        name
        for name, value in _tensors(folder)
        if not all(_agree(piece, name, value, scaling) for piece in found.get(name, ()))
    ]


def _agree(piece: Piece, name: str, value: Tensor, scaling: float) -> bool:
    import torch

    if name.endswith(".lora_B.weight"):  # vLLM scales B in the type in which it keeps it
        value = value.to(getattr(torch, piece.dtype)) * scaling
    # GPT-2's layers lie transposed in the files; the trainer's own proof knows which
    return piece.is_of(value) or (value.ndim == 2 and piece.is_of(value.t()))


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    from safetensors import safe_open

    from rlvr.adapters.merge import plain_name

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                yield plain_name(name), opened.get_tensor(name)


def _scaling(folder: Path) -> float:
    """Of an adapter; 1 for merged weights."""
    file = folder / "adapter_config.json"
    if not file.exists():
        return 1.0
    config = json.loads(file.read_text())
    rank = config["r"]
    return config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)
