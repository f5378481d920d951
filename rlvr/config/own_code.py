"""Which settings of a recipe name functions of the user's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlvr.config.train import TrainRecipe


def own_functions(recipe: TrainRecipe) -> dict[str, str]:
    """The import path of every such setting, by its key."""
    return {f"reward.extra.{one.label}": one.function for one in recipe.reward.extra}
