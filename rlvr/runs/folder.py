"""A run folder is one run's alone: made whole, held by a lock, continued as it was begun."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.common.errors import ConfigError
from rlvr.common.files import write_whole
from rlvr.common.log import get_logger
from rlvr.config.toml import dump_toml, load_recipe
from rlvr.data.absolute_paths import absolute_tree

if TYPE_CHECKING:
    from rlvr.config.train import TrainRecipe

logger = get_logger(__name__)

LOCK_FILE = ".lock"


@dataclass
class Run:
    """A run folder and where the run stands.

    next_step: steps whose update is done. pending: metrics, as far as they are known, of a step
    whose update is done but which is not in the log. sampler_state: the sampler's after the last
    logged step. num_skipped: logged steps in a row, up to the last, with an update skipped because
    it was not finite.
    """

    folder: Path
    run_id: str
    next_step: int = 0
    seconds: float = 0.0
    sampler_state: dict[str, Any] = field(default_factory=dict)
    pending: dict[str, float] | None = None
    num_skipped: int = 0

    def update_done(self, metrics: dict[str, float]) -> None:
        """Counts a step whose update is done: a checkpoint from here on has its weights, and a
        resumed run finishes it instead of training on its rollouts twice."""
        self.next_step += 1
        self.pending = metrics


@contextmanager
def claimed(recipe: TrainRecipe, recipe_path: Path) -> Iterator[Path]:
    """The run's folder, not yet made, whose name no other process can take inside the block.

    A second run of a default name within one second gets a number behind it.
    Raises: ConfigError when a folder of that name exists, or another process is about to make it.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    default = f"{recipe_path.stem}-{recipe.adapter.method}-seed{recipe.train.seed}-{stamp}"
    base = Path(recipe.run.dir)
    if shutil.disk_usage(_existing(base)).free < 2**28:
        raise ConfigError(f"run.dir = {recipe.run.dir!r}: less than 0.25 GiB free; make room")
    names = [recipe.run.name] if recipe.run.name else [default, *_numbered(default)]
    made = [path for path in (base, *base.parents) if not path.exists()]
    with ExitStack() as stack:
        stack.callback(_remove_empty, made)
        yield stack.enter_context(_first_free([base / name for name in names]))


def _numbered(name: str) -> list[str]:
    return [f"{name}-{number}" for number in range(2, 100)]


@contextmanager
def _first_free(folders: list[Path]) -> Iterator[Path]:
    """The first of the folders that can be claimed. Raises: ConfigError, about the last."""
    with ExitStack() as stack:
        for folder in folders[:-1]:
            with suppress(ConfigError):
                stack.enter_context(_claim(folder))
                break
        else:
            folder = folders[-1]
            stack.enter_context(_claim(folder))
        yield folder


@contextmanager
def _claim(folder: Path) -> Iterator[None]:
    """Holds the folder by that from which `make_folder` makes it. Raises: ConfigError."""
    taken = ConfigError(
        f"run.name = {folder.name!r}: {folder} exists; continue it with rlvr train --resume"
        f" {folder}, or take another name"
    )
    if folder.exists():
        raise taken
    partial = _partial(folder)
    partial.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(held(partial))
        except FileNotFoundError:  # its holder has just named or removed it
            raise taken from None
        except ConfigError as error:
            raise ConfigError(f"run.name = {folder.name!r}: {error}") from None
        if folder.exists():  # made and left between our look and our lock
            raise taken
        stack.callback(shutil.rmtree, partial, ignore_errors=True)
        yield


def _remove_empty(folders: list[Path]) -> None:
    for path in folders:
        with suppress(OSError):
            path.rmdir()


def _partial(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.partial")


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.absolute().parent)


def make_folder(folder: Path, recipe: TrainRecipe, facts: dict[str, Any]) -> None:
    """Makes the folder with config.toml and manifest.json inside: it appears when they are whole.

    Raises: ConfigError when a run has taken the name meanwhile.
    """
    partial = _partial(folder)
    partial.mkdir(parents=True, exist_ok=True)
    write_whole(partial / "config.toml", dump_toml(recipe))
    write_whole(partial / "manifest.json", json.dumps(facts, indent=1))
    try:
        partial.rename(folder)
    except OSError as error:
        shutil.rmtree(partial)
        raise ConfigError(f"run.name = {folder.name!r}: {folder}: {error.strerror}") from error


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keeps every other process from training in the folder. The lock ends with this process,
    however that ends: there are no stale ones. Raises: ConfigError when it is taken."""
    handle = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 32).decode().strip()
            raise ConfigError(
                f"{folder}: process {holder or 'unknown'} is training in it; wait for its end, or"
                " end it with SIGTERM"
            ) from None
        except OSError as error:  # some cluster file systems are mounted without locks
            logger.warning(f"{folder}: no lock ({error}); let no other run use it")
        os.truncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(handle)


def check_same_recipe(folder: Path, recipe: TrainRecipe) -> None:
    """Raises: ConfigError that lists the settings in which `recipe` differs from the run's own.

    The section `run` may differ: it only names the folder.
    """
    then = load_recipe(folder / "config.toml", [], type(recipe))
    before, now = (_flat(absolute_tree(one.model_dump(mode="json"))) for one in (then, recipe))
    changed = [
        f"{key} = {now.get(key)!r} (the run has {before.get(key)!r})"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not key.startswith("run.")
    ]
    if changed:
        raise ConfigError(
            f"{folder}: was begun with other settings: {'; '.join(changed)}; resume it without a"
            " recipe, or start a new run"
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names to values; tables are opened, lists are values."""
    flat = {}
    for key, value in tree.items():
        inner = _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else None
        flat |= {f"{prefix}{key}": value} if inner is None else inner
    return flat


def check_same_data(path: str, found: str, recorded: str) -> None:
    """Raises: ConfigError when the problems are not those that the run began with (sha256)."""
    if found != recorded:
        raise ConfigError(
            f"data.path = {path!r}: its problems have changed since the run began (sha256"
            f" {found[:12]}, was {recorded[:12]}); put the old ones back, or start a new run"
        )
