"""Runs of `rlvr train` for the benchmarks that compare what whole runs reach."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from rlvr.runs.reader import read_summary

RECIPES = Path(__file__).parents[2] / "recipes"


def train(recipe: str, folder: Path, name: str, settings: Mapping[str, object]) -> Path:
    """The folder of one run, in a process of its own; one that has finished is not run again."""
    run = folder / name
    if read_summary(run) is not None:
        return run
    given = {"run.dir": folder, "run.name": name, "track.wandb": "disabled", **settings}
    command = [sys.executable, "-m", "rlvr.cli", "train", str(RECIPES / recipe), *words(given)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return run


def words(settings: Mapping[str, object]) -> list[str]:
    """The settings as they are written behind a command."""
    return [word for key, value in settings.items() for word in (f"--{key}", str(value))]
