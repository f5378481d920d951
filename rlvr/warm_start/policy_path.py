"""Where the policy of a recipe lies: the folder or hub id it names, or its warm start."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rlvr.common.errors import ConfigError
from rlvr.config.toml import load_recipe
from rlvr.distributed.world import World

if TYPE_CHECKING:
    from rlvr.config.sft import FinetuneRecipe
    from rlvr.config.train import TrainRecipe


def model_path(
    recipe: TrainRecipe | FinetuneRecipe, recipe_path: Path, world: World = World.alone()
) -> str:
    """The policy's folder, absolute so that the run is found from elsewhere too, or its hub id;
    runs the warm start first when the recipe names one."""
    given = recipe.model.path
    if given is not None:
        return str(Path(given).absolute()) if Path(given).is_dir() else given
    from rlvr.config.warm_start import WarmStartRecipe
    from rlvr.warm_start.warm_start import run_warm_start, warm_start_path

    assert recipe.model.sft_recipe is not None
    path = Path(recipe.model.sft_recipe)
    if not path.is_absolute() and not path.exists():
        path = recipe_path.parent / path
    config = load_recipe(path, [], WarmStartRecipe)
    if world.size > 1 and not warm_start_path(config).is_dir():
        raise ConfigError(
            f"model.sft_recipe = {str(path)!r}: its warm start is made in one process; run rlvr sft"
            f" {path} first"
        )
    return str(run_warm_start(config))
