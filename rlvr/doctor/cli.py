"""`rlvr doctor [RECIPE]`: prints every check."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rlvr.common.errors import ConfigError
from rlvr.config.recipes import find_recipe
from rlvr.config.toml import load_recipe
from rlvr.config.train import TrainRecipe
from rlvr.doctor.machine import examine


def main(words: Sequence[str]) -> int:
    """Prints every check; exit code 1 when one fails. Raises: ConfigError for a recipe that cannot
    be read."""
    parser = argparse.ArgumentParser(
        prog="rlvr doctor",
        description="Check versions, GPUs, disk, ports, tracking and data; with a recipe of rlvr"
        " train, what that one needs.",
        epilog="Any setting of the recipe can be given as --section.key value.",
    )
    parser.add_argument("recipe", nargs="?", type=find_recipe, help="a TOML recipe")
    parser.add_argument("--run-dir", help="folder for runs (default: the recipe's, or runs)")
    parser.add_argument("--json", action="store_true", help="as a JSON list of objects")
    args, settings = parser.parse_known_args(list(words))
    if settings and args.recipe is None:
        raise ConfigError(f"doctor: {settings[0]} is a setting of a recipe; name the recipe")
    recipe = load_recipe(args.recipe, settings, TrainRecipe) if args.recipe else None
    run_dir = Path(args.run_dir or (recipe.run.dir if recipe else "runs"))
    checks = examine(run_dir, recipe.model.dtype if recipe else "bfloat16")
    if recipe is not None:
        from rlvr.doctor.recipe import examine_recipe

        checks += examine_recipe(recipe, args.recipe, run_dir)
    if args.json:
        print(json.dumps([asdict(check) for check in checks], indent=1))
    else:
        for check in checks:
            remedy = f"; {check.remedy}" if check.remedy else ""
            print(f"{check.status:4}  {check.name}: {check.found}{remedy}")
    return int(any(check.status == "fail" for check in checks))
