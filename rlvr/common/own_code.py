"""Functions of the user's own, which a recipe names by import path."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from rlvr.common.errors import ConfigError

Part = TypeVar("Part")

PATTERN = r"^[\w./~-]+:[A-Za-z_]\w*$"
"""module:function, the module on Python's path or in the current folder; or FILE.py:function."""


def is_own(name: object) -> bool:
    """Whether the value of a setting names a function of the user's own."""
    return isinstance(name, str) and re.match(PATTERN, name) is not None


@functools.cache
def load_own(name: str) -> Callable[..., Any]:
    """The function of this import path.

    Raises: ConfigError where its module cannot be imported or has no such function.
    """
    place, _, function = name.rpartition(":")
    module = _module(name, place)
    found = getattr(module, function, None)
    if not callable(found):
        own = [key for key, one in vars(module).items() if inspect.isfunction(one)]
        raise ConfigError(
            f"{name!r}: {place} has no function {function}; it has {', '.join(own) or 'none'}"
        )
    return found


def part_of(table: Mapping[str, Part], name: str) -> Part | Callable[..., Any]:
    """The built-in part of this name, or the function of this import path."""
    return table[name] if name in table else load_own(name)


def check_call(name: str, *given: str) -> None:
    """Raises: ConfigError where the function cannot be imported, or not be called with these."""
    try:
        inspect.signature(load_own(name)).bind(*given)
    except TypeError as error:
        raise ConfigError(f"{name!r}: {error}; it is called with ({', '.join(given)})") from error


def is_reader(path: str | None) -> bool:
    """Whether data.path or eval.path names a function that gives the rows."""
    return is_own(path) and not str(path).startswith("generated:")


def _module(name: str, place: str) -> ModuleType:
    """The imported module. A folder is searched last, so that nothing in it hides a package."""
    is_file = place.endswith(".py")
    path = Path(place).expanduser().absolute()
    if is_file and not path.is_file():
        raise ConfigError(f"{name!r}: no such file ({path}); correct the path")
    folder = str(path.parent) if is_file else os.getcwd()
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        return _of_file(path) if is_file else importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name and (place == error.name or place.startswith(f"{error.name}.")):
            raise ConfigError(
                f"{name!r}: no module {error.name} in this folder or on PYTHONPATH; name its file,"
                " FILE.py:function, or install it"
            ) from error
        raise ConfigError(f"{name!r}: importing it fails: {error}") from error
    except Exception as error:  # the boundary: a module of the user's may raise anything
        raise ConfigError(
            f"{name!r}: importing it fails: {type(error).__name__}: {error}"
        ) from error


def _of_file(path: Path) -> ModuleType:
    # a name that no package has: the file may be called like one
    key = f"rlvr_own_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if key not in sys.modules:
        spec = importlib.util.spec_from_file_location(key, path)
        assert spec is not None, path
        assert spec.loader is not None, path
        module = importlib.util.module_from_spec(spec)
        sys.modules[key] = module  # dataclasses look their module up while it runs
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[key]
            raise
    return sys.modules[key]


def own_facts(name: str) -> dict[str, Any]:
    """What the manifest says of the function: its name, its files and their sha256.

    The files are the named module's and, where that imports the function from another, that one's.
    """
    function = load_own(name)
    modules = [_module(name, name.rpartition(":")[0]), inspect.getmodule(function)]
    files = sorted({str(one.__file__) for one in modules if getattr(one, "__file__", None)})
    digest = hashlib.sha256()
    for file in files:
        digest.update(Path(file).read_bytes())
    return {"function": name, "files": files, "sha256": digest.hexdigest()}


def absolute_own(name: str) -> str:
    """The name with its FILE.py made absolute; a module's as it is."""
    place, colon, function = name.rpartition(":")
    if not place.endswith(".py"):
        return name
    return f"{Path(place).expanduser().absolute()}{colon}{function}"
