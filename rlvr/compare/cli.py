"""`rlvr compare` and `rlvr lr-find`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from rlvr.compare.executors import open_executor
from rlvr.compare.plan import Comparison, open_comparison
from rlvr.cli import set_environment
from rlvr.recipe import ConfigError


def lr_find_main(words: Sequence[str]) -> int:
    """Runs `rlvr lr-find`; the exit code."""
    parser = argparse.ArgumentParser(prog="rlvr lr-find", description="Find learning rates.")
    parser.add_argument("recipe", type=Path, help="a comparison recipe, see recipes/compare/")
    parser.add_argument("--methods", metavar="A,B", help="only these labels")
    parser.add_argument("--dense", action="store_true", help="sweep the whole grid of [dense]")
    args, rest = parser.parse_known_args(list(words))
    set_environment()
    console = Console()
    comparison = open_comparison(args.recipe, rest, console)
    labels = chosen_labels(comparison, args.methods)
    with open_executor(comparison.recipe.executor, comparison.folder, console) as run:
        if args.dense:
            from rlvr.compare.dense import run_dense

            run_dense(comparison, labels, run)
        else:
            from rlvr.compare.search import search

            search(comparison, labels, run, console)
    return 0


def chosen_labels(comparison: Comparison, methods: str | None) -> list[str]:
    """The labels that the command names, or all. Raises: ConfigError for one that is not there."""
    labels = list(comparison.recipe.methods)
    wanted = methods.split(",") if methods else labels
    for label in wanted:
        if label not in labels:
            raise ConfigError(f"--methods {label}: the recipe has {', '.join(labels)}")
    return wanted
