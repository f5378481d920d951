"""Small networks behind the attention and MLP outputs: Houlsby adapters and Compacter."""

from __future__ import annotations

from typing import Any

from rlvr.adapters.base import Method, Setup, wrap
from rlvr.common.errors import ConfigError

PLACES = ["o_proj", "down_proj"]
"""The last linear layer of both sublayers: what it gives, the bottleneck adds to."""


def _check_places(model: Any, setup: Setup) -> None:
    """Raises: ConfigError for a model whose sublayers end in modules of other names."""
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    missing = [place for place in PLACES if place not in names]
    if missing:
        raise ConfigError(
            f"adapter.method = {setup.config.method!r}: stands after {' and '.join(PLACES)}, and"
            f" {type(model).__name__} has no {' and no '.join(missing)}; take lora"
        )


def _houlsby(model: Any, setup: Setup) -> Any:
    """x + up(gelu(down(x))) after both sublayers, up = 0 at the start. Source: 1902.00751."""
    from rlvr.adapters.methods.custom_peft_layers import bottleneck_config

    _check_places(model, setup)
    return wrap(model, bottleneck_config(PLACES, setup.rank), setup.seed)


def _compacter(model: Any, setup: Setup) -> Any:
    """Houlsby's places with weights from Kronecker products. Source: 2106.04647."""
    from rlvr.adapters.methods.custom_peft_layers import bottleneck_config

    _check_places(model, setup)
    config = bottleneck_config(PLACES, setup.rank, setup.config.compacter.n)
    return wrap(model, config, setup.seed)


METHODS = (
    Method(
        name="houlsby",
        paper="1902.00751",
        trains="a bottleneck of width r after attention and MLP",
        merges=False,
        syncs=(),
        options=frozenset({"rank", "seed", "match"}),  # no targets: PLACES are given
        apply=_houlsby,
    ),
    Method(
        name="compacter",
        paper="2106.04647",
        trains="the same bottleneck from Kronecker products",
        merges=False,
        syncs=(),
        options=frozenset({"rank", "seed", "match", "compacter"}),
        rank_multiple=lambda config: config.compacter.n,  # n blocks share the width
        apply=_compacter,
    ),
)
