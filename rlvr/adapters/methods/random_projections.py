"""Few trained numbers on frozen random projections: VeRA, RandLoRA, TinyLoRA, FourierFT."""

from __future__ import annotations

from typing import Any

from rlvr.adapters.base import Method, Setup, peft_targets, wrap

_OPTIONS = frozenset({"target_modules", "seed"})


def _vera(model: Any, setup: Setup) -> Any:
    """Two scaling vectors around one pair of random matrices shared by all modules.

    Source: 2310.11454.
    """
    import peft

    config = peft.VeraConfig(
        r=setup.rank,
        d_initial=setup.config.vera.d_initial,
        projection_prng_key=setup.seed,
        vera_dropout=setup.config.dropout,
        **peft_targets(setup),
    )
    return wrap(model, config, setup.seed)


def _randlora(model: Any, setup: Setup) -> Any:
    """A full-rank update from diagonal mixtures of random bases of rank r. Source: 2502.00987.

    Scaling is alpha / r; alpha defaults to 20 r, as in peft.
    """
    import peft

    config = peft.RandLoraConfig(
        r=setup.rank,
        randlora_alpha=setup.config.alpha or 20 * setup.rank,  # pyright: ignore[reportArgumentType]
        projection_prng_key=setup.seed,
        randlora_dropout=setup.config.dropout,
        **peft_targets(setup),
    )
    return wrap(model, config, setup.seed)


def _tinylora(model: Any, setup: Setup) -> Any:
    """A vector of `vector_len` numbers mixed into the top singular directions of W.

    Source: 2602.04118. Rank defaults to 2.
    """
    import peft

    config = peft.TinyLoraConfig(
        r=setup.config.rank or 2,
        u=setup.config.tinylora.vector_len,
        weight_tying=setup.config.tinylora.tying,
        projection_seed=setup.seed,
        tinylora_dropout=setup.config.dropout,
        **peft_targets(setup),
    )
    return wrap(model, config, setup.seed)


def _fourierft(model: Any, setup: Setup) -> Any:
    """`num_frequencies` entries of the spectrum of the update. Source: 2405.03003."""
    import peft

    config = peft.FourierFTConfig(
        n_frequency=setup.config.fourierft.num_frequencies,
        scaling=setup.config.fourierft.scale,
        random_loc_seed=setup.seed,
        init_weights=True,  # zeros; by default peft draws the spectrum, and step 0 is not the base
        **peft_targets(setup),
    )
    return wrap(model, config, setup.seed)


METHODS = (
    Method(
        name="vera",
        paper="2310.11454",
        trains="two vectors (r and out) per target module around shared random matrices",
        options=_OPTIONS | {"rank", "match", "dropout", "vera"},
        apply=_vera,
        syncs=("adapter", "merged"),
    ),
    Method(
        name="randlora",
        paper="2502.00987",
        trains="diagonal mixtures of shared random bases per target module, full rank",
        options=_OPTIONS | {"rank", "alpha", "match", "dropout"},
        apply=_randlora,
    ),
    Method(
        name="tinylora",
        paper="2602.04118",
        trains="one short vector per target module inside the top singular space of W",
        options=_OPTIONS | {"rank", "dropout", "tinylora"},
        apply=_tinylora,
        shared=True,  # under tinylora.tying one vector serves several modules
    ),
    Method(
        name="fourierft",
        paper="2405.03003",
        trains="a few spectral coefficients of each target module's update",
        options=_OPTIONS | {"fourierft"},
        apply=_fourierft,
    ),
)
