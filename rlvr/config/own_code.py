"""Which settings of a recipe name functions of the user's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlvr.common.own_code import is_own, is_reader

if TYPE_CHECKING:
    from rlvr.config.train import TrainRecipe

CALLED_WITH = {
    "algorithm.advantage": ("rewards", "lengths"),
    "algorithm.ratio": ("log_ratio_T", "layout"),
    "algorithm.clip": ("inputs", "config"),
    "data.path": (),
    "eval.path": (),
}
"""Settings that take such a function, and what it is called with; reward.extra stands apart."""


def own_functions(recipe: TrainRecipe) -> dict[str, str]:
    """The import path of every such setting, by its key."""
    found = {f"reward.extra.{one.label}": one.function for one in recipe.reward.extra}
    for key in CALLED_WITH:
        section, _, name = key.partition(".")
        value = getattr(getattr(recipe, section), name)
        if is_reader(value) if name == "path" else is_own(value):
            found[key] = value
    return found
