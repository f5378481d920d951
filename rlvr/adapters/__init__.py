"""Adapters by name: one table, METHODS; one file per family. `rlvr adapters` prints it."""

import difflib
from dataclasses import fields

from rlvr.adapters import full, lora
from rlvr.adapters.base import Method
from rlvr.config import AdapterConfig
from rlvr.recipe import ConfigError

METHODS: dict[str, Method] = {method.name: method for method in (*full.METHODS, *lora.METHODS)}


def get_method(config: AdapterConfig) -> Method:
    """The method that `config` names, its settings checked. Loads nothing.

    Raises: ConfigError for an unknown name or a setting that the method would ignore.
    """
    method = METHODS.get(config.method)
    if method is None:
        near = difflib.get_close_matches(config.method, METHODS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it is one of {', '.join(METHODS)}"
        raise ConfigError(f"adapter.method = {config.method!r}: unknown; {hint}")
    for name in config.model_fields_set - {"method", "dropout"} - method.options:
        raise ConfigError(
            f"adapter.{name} = {getattr(config, name)!r}: {method.name} would ignore it; remove it"
        )
    return method


def describe() -> list[dict[str, object]]:
    """Every method as a JSON-ready object: name, paper, what it trains, if it merges, syncs."""
    shown = [f.name for f in fields(Method) if f.name not in ("apply", "options")]
    return [{name: getattr(method, name) for name in shown} for method in METHODS.values()]
