"""`rlvr compare` and `rlvr lr-find`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from rlvr.common.environment import set_environment
from rlvr.common.errors import ConfigError
from rlvr.common.signals import Stopped
from rlvr.compare.estimate import calibration_task, plan_lines
from rlvr.compare.execution.executors import open_executor
from rlvr.compare.fairness import examine, refuse_unfair
from rlvr.compare.resolve import Comparison, open_comparison
from rlvr.config.recipes import find_recipe


def compare_main(words: Sequence[str]) -> int:
    """Runs `rlvr compare`; the exit code."""
    parser = _parser("compare", "Compare methods on equal terms.")
    parser.add_argument("--plan", action="store_true", help="print the plan and stop")
    parser.add_argument(
        "--calibrate", action="store_true", help="measure 2 steps of the first method before"
    )
    args, rest = parser.parse_known_args(list(words))
    set_environment()
    console = _console()
    # a plan makes nothing, not even the policy that it would start from
    comparison = open_comparison(args.recipe, rest, warm_start=not args.plan)
    fairness = examine(comparison)
    executor, folder = comparison.recipe.executor, comparison.folder
    try:
        if args.calibrate:
            with open_executor(executor, folder, console, args.retry_failed) as run:
                run([calibration_task(comparison)])
        for line in plan_lines(comparison, fairness):
            console.print(line, soft_wrap=True, highlight=False, markup=False)
        # after the plan, so that it can be read where the comparison is refused
        refuse_unfair(fairness, comparison)
        if args.plan:
            return 0
        from rlvr.compare.comparison import run_comparison

        with open_executor(executor, folder, console, args.retry_failed) as run:
            run_comparison(comparison, fairness, run, console)
    except Stopped as stopped:
        return _stopped(stopped, args.recipe, console)
    return 0


def lr_find_main(words: Sequence[str]) -> int:
    """Runs `rlvr lr-find`; the exit code."""
    parser = _parser("lr-find", "Find the learning rate of each method.")
    parser.add_argument("--methods", metavar="A,B", help="only these labels of the recipe")
    parser.add_argument("--dense", action="store_true", help="sweep the whole grid of [dense]")
    args, rest = parser.parse_known_args(list(words))
    set_environment()
    console = _console()
    comparison = open_comparison(args.recipe, rest)
    labels = chosen_labels(comparison, args.methods)
    executor = comparison.recipe.executor
    try:
        with open_executor(executor, comparison.folder, console, args.retry_failed) as run:
            if args.dense:
                from rlvr.compare.learning_rate.dense import dense_tasks

                run(dense_tasks(comparison, labels))
            else:
                from rlvr.compare.learning_rate.search import search

                search(comparison, labels, run, console)
    except Stopped as stopped:
        return _stopped(stopped, args.recipe, console)
    return 0


def _parser(command: str, description: str) -> argparse.ArgumentParser:
    epilog = (
        "Any setting of the recipe can be given as --section.key value, e.g. --budget.steps 10."
    )
    parser = argparse.ArgumentParser(prog=f"rlvr {command}", description=description, epilog=epilog)
    parser.add_argument("recipe", type=find_recipe, help="a TOML recipe, see recipes/compare/")
    parser.add_argument("--retry-failed", action="store_true", help="try failed runs again")
    return parser


def _console() -> Console:
    """A log file has room for the whole table."""
    return Console() if sys.stdout.isatty() else Console(width=160)


def _stopped(stopped: Stopped, recipe: Path, console: Console) -> int:
    console.print(f"stopped; the same command with {recipe} goes on from here", soft_wrap=True)
    # as a shell reports a process that a signal ended
    return 128 + stopped.signum


def chosen_labels(comparison: Comparison, methods: str | None) -> list[str]:
    """The labels that the command names, or all. Raises: ConfigError for one that is not there."""
    labels = list(comparison.recipe.methods)
    wanted = methods.split(",") if methods else labels
    for label in wanted:
        if label not in labels:
            raise ConfigError(f"--methods {label}: the recipe has {', '.join(labels)}")
    return wanted
