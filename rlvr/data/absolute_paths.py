"""A recipe whose files are found from every working directory: what a run folder keeps."""

from __future__ import annotations

import glob
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from rlvr.common.errors import ConfigError
from rlvr.common.own_code import absolute_own, is_own, is_reader
from rlvr.config.toml import validate

R = TypeVar("R", bound=BaseModel)


def absolute(recipe: R) -> R:
    """The recipe with an absolute path wherever it names a file or folder that is here.

    Hub ids, names of known benchmarks and what is not here stay as they are.
    """
    # only what was set: defaults written out would count as settings that are ignored
    tree = recipe.model_dump(mode="json", exclude_unset=True)
    return validate(absolute_tree(tree), type(recipe))


def absolute_tree(tree: Mapping[str, Any]) -> dict[str, Any]:
    """As `absolute`, for a recipe as nested dicts."""
    found = dict(tree)
    if found.get("stage"):
        found["stage"] = [absolute_tree(stage) for stage in found["stage"]]
    for section, name, place in _PLACES:
        value = found.get(section, {}).get(name)
        if value is not None:
            found[section] = found[section] | {name: place(value)}
    return found


def _existing(name: str) -> str:
    return str(Path(name).absolute()) if Path(name).exists() else name


def _data(name: str) -> str:
    """A data file where `rlvr.data.rows` finds it: here, in RLVR_DATA or in ../shared/data; a
    pattern that files here match; a folder."""
    if is_reader(name):
        return absolute_own(name)
    from rlvr.data import tables
    from rlvr.data.rows import find_data_file

    if tables.is_pattern(name) and tables.matching(name):
        # escaped: the folder's own name may hold brackets
        return str(Path(glob.escape(str(Path.cwd())), name))
    if tables.kind_of(name) is None:
        return _existing(name)
    try:
        return str(find_data_file(name).absolute())
    except ConfigError:
        return name


def _benchmarks(specs: list[str]) -> list[str]:
    """FILE or NAME=FILE with the file's absolute path."""
    pairs = [spec.rpartition("=") for spec in specs]
    return [f"{name}{equals}{_existing(file)}" for name, equals, file in pairs]


def _own(name: str) -> str:
    return absolute_own(name) if is_own(name) else name


def _extra(tables: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """[[reward.extra]] with the absolute paths of their files."""
    return [table | {"function": absolute_own(table["function"])} for table in tables]


def _sources(tables: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """[[data.source]] with the absolute paths of their files."""
    return [table | {"path": _data(table["path"])} for table in tables]


_PLACES: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("model", "path", _existing),
    ("adapter", "start_from", _existing),
    ("data", "path", _data),
    ("data", "source", _sources),
    ("data", "chat_template", _existing),
    ("train", "replay", _existing),
    ("eval", "path", _data),
    ("reward", "extra", _extra),
    ("teacher", "path", _existing),
    ("algorithm", "advantage", _own),
    ("algorithm", "ratio", _own),
    ("algorithm", "clip", _own),
    ("eval", "benchmarks", _benchmarks),
)
"""(section, setting, what makes it absolute); model.sft_recipe is not asked again after the
start."""

PATH_SETTINGS = (*((section, name) for section, name, _ in _PLACES), ("model", "sft_recipe"))
"""(section, setting) of everything in a recipe that may name a file or folder."""
