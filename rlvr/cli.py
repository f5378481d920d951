"""The command line: every command imports what it needs only when it runs."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

SUBCOMMANDS = {
    "verify": ("rewards.cli:main", "judge lines of {response, gold} from standard input"),
    "eval": ("rlvr.evaluation.cli:main", "sample and score benchmarks, compare scored folders"),
    "analyze": ("rlvr.analysis.cli:main", "what training did to the weights"),
    "data": ("rlvr.data.check:main", "look for evaluation problems in a training set"),
    "merge": ("rlvr.runs.merge:main", "write a checkpoint as one whole model"),
    "report": ("rlvr.report.cli:report_main", "one HTML page about a run or a comparison"),
    "push": ("rlvr.sharing.push:main", "upload a run's checkpoint to the hub, with a model card"),
    "compare": ("rlvr.compare.cli:compare_main", "compare methods on equal terms"),
    "lr-find": ("rlvr.compare.cli:lr_find_main", "find the learning rate of each method"),
    "plan": ("rlvr.compare.study:main", "memory, time and cost of a recipe on a cluster"),
    "serve": ("rlvr.training.serve:main", "start the vLLM server of a recipe"),
    "init": ("rlvr.starting.init:main", "write a first recipe of your own"),
    "recipes": ("rlvr.config.recipes:main", "list the recipes that come with rlvr"),
    "doctor": ("rlvr.doctor.cli:main", "check this machine, and what a recipe needs of it"),
}
"""Commands that parse their own arguments: module:function, and the line of help."""

PRINTING = ("verify", "adapters", "data", "plan", "recipes", "doctor")
"""Commands whose product is their standard output: when its reader ends, as in `| head`, they end.
All others write files and run on without a reader."""

EPILOG = "Any setting of a recipe can be given as --section.key value, e.g. --optim.lr 1e-5."


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0 done, 1 the run could not continue, 2 a user's
    error, 128 + n stopped by signal n."""
    words = list(sys.argv[1:] if argv is None else argv)
    from rlvr.common.files import lenient_output
    from rlvr.common.log import to_stderr
    from rlvr.common.signals import StickyInterrupt

    output = nullcontext() if words and words[0] in PRINTING else lenient_output()
    with output, to_stderr(), StickyInterrupt() as interrupt:
        try:
            code = _main(words)
        except Exception:
            if not interrupt.came:  # libraries turn a KeyboardInterrupt into errors of their own
                raise
            code = 130
        return 130 if interrupt.came and code in (1, 2) else code


def _main(words: list[str]) -> int:
    from rlvr.common.errors import ConfigError, RunError
    from rlvr.common.files import DISK_ERRORS

    try:
        code = _run(words)
        sys.stdout.flush()  # a reader that is gone is noticed here, not while Python exits
        return code
    except ConfigError as error:
        print(f"rlvr: error: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"rlvr: stopped: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # head or less has read enough; Python flushes once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        print(f"rlvr: stopped: {error}; make room, then resume the run", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _run(words: list[str]) -> int:
    if words and words[0] in SUBCOMMANDS:
        module, function = SUBCOMMANDS[words[0]][0].split(":")
        return getattr(importlib.import_module(module), function)(words[1:])
    parser = _parser()
    args, rest = parser.parse_known_args(words)
    if rest and not getattr(args, "takes_settings", False):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return args.run(args, rest)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rlvr", description="Reinforcement learning with verifiable rewards on math."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="train a policy by a recipe", epilog=EPILOG)
    train.add_argument("recipe", nargs="?", help="a TOML recipe, see recipes/")
    train.add_argument(
        "--resume",
        metavar="RUN",
        help="continue the run in this folder; with a recipe, only if the run has its settings",
    )
    train.add_argument(
        "--replay",
        metavar="RUN",
        help="train on the rollouts of this run, which kept them (track.save_all_rollouts), without"
        " an engine: train.replay",
    )
    train.add_argument(
        "--rollouts-only",
        action="store_true",
        help="generate and score, without training: train.rollouts_only",
    )
    train.set_defaults(run=_train, takes_settings=True)

    sft = commands.add_parser("sft", help="supervised training by a recipe", epilog=EPILOG)
    sft.add_argument("recipe", help="a TOML recipe, see recipes/*_sft.toml")
    sft.set_defaults(run=_sft, takes_settings=True)

    adapters = commands.add_parser("adapters", help="list the adapter methods")
    adapters.add_argument("--json", action="store_true", help="as a JSON list of objects")
    adapters.set_defaults(run=_adapters)
    for name, (_, text) in SUBCOMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    return parser


def _train(args: argparse.Namespace, settings: list[str]) -> int:
    from rlvr.common.errors import ConfigError
    from rlvr.config.recipes import find_recipe
    from rlvr.config.toml import load_recipe

    if args.recipe is None and args.resume is None:
        raise ConfigError("train: give a recipe, or --resume RUN")
    recipe, path = None, find_recipe(args.recipe or "")
    if args.replay is not None:
        settings = [*settings, "--train.replay", args.replay]
    if args.rollouts_only:
        settings = [*settings, "--train.rollouts_only", "true"]
    if args.resume is not None and settings and not path.is_file():
        raise ConfigError(f"{settings[0]}: a resumed run keeps its settings; leave this out")
    if args.recipe is not None:
        from rlvr.config.train import TrainRecipe

        recipe = load_recipe(path, settings, TrainRecipe)
    from rlvr.common.environment import set_environment

    set_environment()
    from rlvr.common.signals import StickyInterrupt, Stopped

    with StickyInterrupt() as interrupt:  # packages drop what is raised while they are imported
        from rich.console import Console

        from rlvr.distributed.world import join_world
        from rlvr.report.page import page_of
        from rlvr.training import loop as train

        world = join_world()
        interrupt.check()
    console, code = partial(Console, quiet=not world.is_main), 0
    try:
        if args.resume is not None:
            given = Path(args.resume), console()
            train.resume(*given, same_as=recipe, world=world, page_of=page_of)
        else:
            assert recipe is not None
            train.train(recipe, path, console(), world=world, page_of=page_of)
    except Stopped as stopped:
        code = 128 + stopped.signum
    world.shutdown()
    return code


def _sft(args: argparse.Namespace, settings: list[str]) -> int:
    from rlvr.config.recipes import find_recipe
    from rlvr.config.sft import FinetuneRecipe
    from rlvr.config.toml import read_tree, validate
    from rlvr.config.warm_start import WarmStartRecipe

    path = find_recipe(args.recipe)
    tree = read_tree(path, settings, FinetuneRecipe)
    from rlvr.common.environment import set_environment

    set_environment()
    if {"path", "sft_recipe"} & set(tree.get("model", {})):
        recipe = validate(tree, FinetuneRecipe)
        from rich.console import Console

        from rlvr.sft.finetune import finetune

        print(finetune(recipe, path, Console(stderr=True)))
    else:
        from rlvr.warm_start.warm_start import run_warm_start

        print(run_warm_start(validate(tree, WarmStartRecipe)))
    return 0


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def _adapters(args: argparse.Namespace, _rest: list[str]) -> int:
    from rlvr.adapters import describe

    methods = describe()
    if args.json:
        print(json.dumps(methods, indent=1))
        return 0
    from eval.reports.tables import Table, render

    rows = tuple(tuple(map(_cell, method.values())) for method in methods)
    print(render([Table("", tuple(methods[0]), rows)], "text"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
