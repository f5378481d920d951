"""Updates from other products than B A: Hadamard, Kronecker, shared rows, gated sums."""

from __future__ import annotations

from typing import Any

from rlvr.adapters.base import Method, Setup, check_divides, peft_targets, wrap

_OPTIONS = frozenset({"rank", "target_modules", "seed", "match"})


def _common(setup: Setup) -> dict[str, Any]:
    return {"r": setup.rank} | peft_targets(setup)


def _miss(model: Any, setup: Setup) -> Any:
    """One r x out matrix whose rows are shared by the shards of the input. Source: 2409.15371."""
    import peft

    config = peft.MissConfig(miss_dropout=setup.config.dropout, **_common(setup))
    return wrap(model, config, setup.seed)


def _loha(model: Any, setup: Setup) -> Any:
    """(B1 A1) * (B2 A2), elementwise. Scaling alpha / r. Source: 2108.06098."""
    import peft

    return wrap(model, peft.LoHaConfig(alpha=setup.alpha, **_common(setup)), setup.seed)  # pyright: ignore[reportArgumentType]


def _lokr(model: Any, setup: Setup) -> Any:
    """Kronecker product of a small and a low-rank matrix (KronA). Scaling alpha / r.

    Source: 2212.10650, 2309.14859.
    """
    import peft

    factor = setup.config.lokr.factor
    if factor is not None:
        check_divides(model, setup, "lokr.factor", factor, outputs=True)
    config = peft.LoKrConfig(
        alpha=setup.alpha,  # pyright: ignore[reportArgumentType]
        decompose_factor=-1 if factor is None else factor,  # -1: nearly square
        decompose_both=setup.config.lokr.decompose_both,
        **_common(setup),
    )
    return wrap(model, config, setup.seed)


def _glora(model: Any, setup: Setup) -> Any:
    """W + W A + B and a trained bias C, D, E by low-rank or vector supports. Source: 2306.07967."""
    import peft

    return wrap(model, peft.GloraConfig(**_common(setup)), setup.seed)


METHODS = (
    Method(
        name="miss",
        paper="2409.15371",
        trains="one r x out matrix per target module, shared by the shards of the input",
        options=(_OPTIONS - {"seed"}) | {"dropout"},
        apply=_miss,
        syncs=("adapter", "merged"),
    ),
    Method(
        name="loha",
        paper="2108.06098",
        trains="two pairs of low-rank factors per target module, multiplied elementwise",
        options=_OPTIONS | {"alpha"},
        apply=_loha,
    ),
    Method(
        name="lokr",
        paper="2212.10650",
        trains="Kronecker factors of each target module's update",
        options=_OPTIONS | {"alpha", "lokr"},
        apply=_lokr,
    ),
    Method(
        name="glora",
        paper="2306.07967",
        trains="low-rank supports for a scaled and a shifted W, and for the bias",
        options=_OPTIONS,
        apply=_glora,
    ),
)
