"""Adapters by name: one table, METHODS, over one file per family in `methods`.

    full                 full, full_frozen_embeddings, galore, apollo
    lora                 lora, rslora, dora, lora_plus, lora_fa
    nonzero_init         pissa, milora, geora, olora, orthogonal, init_ab
    data_init            eva, corda, lora_ga
    adalora              adalora
    structured_products  miss, loha, lokr, glora
    random_projections   vera, randlora, tinylora, fourierft
    rotations            oft, boft, hra, orthogeolora
    scales_and_biases    ia3, ln_tuning, bitfit
    bottleneck           houlsby, compacter
    prompt               prompt_tuning, prefix_tuning
    quantized            qlora, loftq

`rlvr adapters` prints what each trains; docs/adapters.md says what a new one costs.
"""

import difflib

from rlvr.adapters.base import DEFAULT_RANK, Method
from rlvr.adapters.methods import (
    adalora,
    bottleneck,
    data_init,
    full,
    lora,
    nonzero_init,
    prompt,
    quantized,
    random_projections,
    rotations,
    scales_and_biases,
    structured_products,
)
from rlvr.common.errors import ConfigError
from rlvr.config.base import Section
from rlvr.config.train import AdapterConfig

FAMILIES = (
    full,
    lora,
    nonzero_init,
    data_init,
    adalora,
    structured_products,
    random_projections,
    rotations,
    scales_and_biases,
    bottleneck,
    prompt,
    quantized,
)
METHODS: dict[str, Method] = {m.name: m for family in FAMILIES for m in family.METHODS}


def get_method(config: AdapterConfig) -> Method:
    """The method that `config` names. Raises: ConfigError for an unknown name."""
    method = METHODS.get(config.method)
    if method is None:
        near = difflib.get_close_matches(config.method, METHODS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it is one of {', '.join(METHODS)}"
        raise ConfigError(f"adapter.method = {config.method!r}: unknown; {hint}")
    return method


def check_adapter(config: AdapterConfig, num_updates: int | None = None) -> Method:
    """The method that `config` names, its settings checked. Loads nothing.

    num_updates: optimizer steps of the run, where they are known.
    Raises: ConfigError for an unknown name, a setting that the method would ignore, or one that
    cannot work.
    """
    method = get_method(config)
    # dropout = 0 is what a method without dropout does anyway
    given = config.model_fields_set - {"method", "start_from"}
    given -= set() if config.dropout else {"dropout"}
    for name in sorted(given - method.options):
        value = getattr(config, name)
        shown = f"[adapter.{name}]" if isinstance(value, Section) else f"adapter.{name} = {value!r}"
        raise ConfigError(f"{shown}: {method.name} would ignore it; remove it")
    if config.match is not None and config.rank is not None:
        raise ConfigError(
            f'adapter.rank = {config.rank}: adapter.match = "{config.match}" picks the rank; remove'
            " one of them"
        )
    multiple, rank = method.rank_multiple(config), config.rank or DEFAULT_RANK
    # under match the rank is picked among the multiples
    if config.match is None and rank % multiple:
        raise ConfigError(
            f"adapter.rank = {rank}: {method.name} needs a multiple of {multiple}; take"
            f" {rank + multiple - rank % multiple}"
        )
    if method.check:
        method.check(config, num_updates)
    return method


def describe() -> list[dict[str, object]]:
    """Every method as a JSON-ready object: name, paper, what it trains, if it merges, syncs."""
    shown = ("name", "paper", "trains", "merges", "syncs", "start")
    return [{name: getattr(method, name) for name in shown} for method in METHODS.values()]
