"""The recipes that come with the package, and `rlvr recipes`, which lists and copies them."""

from __future__ import annotations

import argparse
import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from rlvr.common.errors import ConfigError

FOLDER = Path(__file__).parents[1] / "recipes"
"""In a checkout a link to recipes/, in a wheel a folder of its own."""
_NAME = "recipes"


def find_recipe(given: str | Path) -> Path:
    """The path as it is where something is there, else the package's own recipe of that path.

    `recipes/quickstart.toml` so names the same recipe in a checkout and in any other folder.
    """
    path = Path(given)
    if path.exists() or path.parts[:1] != (_NAME,):
        return path
    own = FOLDER.joinpath(*path.parts[1:])
    return own if own.is_file() else path


def shipped() -> Iterator[tuple[str, str]]:
    """(path as commands take it, first sentence of its header) of every recipe of the package."""
    # not rglob on the link itself, which Python 3.13 would not follow
    folder = FOLDER.resolve()
    for path in sorted(folder.rglob("*.toml")):
        comment = re.match(r"(?:#.*\n)+", path.read_text())
        header = " ".join((comment[0] if comment else "").replace("#", " ").split())
        yield f"{_NAME}/{path.relative_to(folder)}", re.split(r"(?<=\.) ", header)[0]


def main(words: Sequence[str]) -> int:
    """Runs `rlvr recipes`; the exit code. Raises: ConfigError where the copy would overwrite."""
    parser = argparse.ArgumentParser(
        prog="rlvr recipes",
        description="List the recipes that come with rlvr; their paths work in any folder.",
    )
    parser.add_argument(
        "--copy",
        action="store_true",
        help=f"copy them to {_NAME}/ in this folder, the files for accelerate and the scripts to"
        " launch with them",
    )
    if parser.parse_args(list(words)).copy:
        if Path(_NAME).exists():
            raise ConfigError(f"{_NAME}: is there already; rename it, or copy in another folder")
        shutil.copytree(FOLDER.resolve(), _NAME)
        print(f"{_NAME}/")
        return 0
    width = shutil.get_terminal_size().columns
    for name, text in shipped():
        print(f"{name}\n{textwrap.fill(text, width, initial_indent='  ', subsequent_indent='  ')}")
    return 0
