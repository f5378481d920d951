"""Where the policy of a recipe lies: the folder or hub id it names, or its warm start."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rlvr.common.errors import ConfigError
from rlvr.config.recipes import find_recipe
from rlvr.config.toml import load_recipe
from rlvr.config.warm_start import WarmStartRecipe
from rlvr.distributed.world import World
from rlvr.warm_start.warm_start import run_warm_start, warm_start_path

if TYPE_CHECKING:
    from rlvr.config.sft import FinetuneRecipe
    from rlvr.config.train import TrainRecipe


def model_path(
    recipe: TrainRecipe | FinetuneRecipe, recipe_path: Path, world: World = World.alone()
) -> str:
    """The policy's folder or hub id, as `find_model` gives it; makes the warm start where it is
    missing. Raises: ConfigError where several ranks would make it."""
    found = find_model(recipe, recipe_path)
    if found is not None:
        return found
    path = _warm_start_recipe(recipe, recipe_path)
    if world.size > 1:
        raise ConfigError(
            f"model.sft_recipe = {str(path)!r}: its warm start is made in one process; run rlvr sft"
            f" {path} first"
        )
    return str(run_warm_start(load_recipe(path, [], WarmStartRecipe)))


def find_model(recipe: TrainRecipe | FinetuneRecipe, recipe_path: Path) -> str | None:
    """The policy's folder or hub id; None where its warm start has still to be made.

    A folder is absolute: a run names it, and is resumed from elsewhere too.
    """
    given = recipe.model.path
    if given is not None:
        # no folder here: a hub id, which absolute() would turn into a path
        return str(Path(given).absolute()) if Path(given).is_dir() else given
    path = _warm_start_recipe(recipe, recipe_path)
    folder = warm_start_path(load_recipe(path, [], WarmStartRecipe))
    return str(folder) if folder.is_dir() else None


def _warm_start_recipe(recipe: TrainRecipe | FinetuneRecipe, recipe_path: Path) -> Path:
    """The file that model.sft_recipe names: seen from here, or from beside the recipe."""
    assert recipe.model.sft_recipe is not None
    path = find_recipe(recipe.model.sft_recipe)
    return path if path.is_absolute() or path.exists() else recipe_path.parent / path
