"""Makes, locks and checks run folders: one process at a time, with the settings it began with."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rlvr.common.errors import ConfigError
from rlvr.common.files import write_whole
from rlvr.common.log import get_logger
from rlvr.common.nested import flatten
from rlvr.common.own_code import own_facts
from rlvr.config.toml import dump_toml, load_recipe
from rlvr.config.train import own_functions
from rlvr.data.absolute_paths import absolute_tree

if TYPE_CHECKING:
    from rlvr.config.sft import FinetuneRecipe
    from rlvr.config.train import TrainRecipe

logger = get_logger(__name__)

LOCK_FILE = ".lock"
MIN_FREE_BYTES = 2**28


class StateToSave(Protocol):
    """What a checkpoint holds, part of which may still be under way."""

    def wait(self, seconds: float) -> None:
        """Waits for that, at most so long."""
        ...

    def to_tree(self) -> dict[str, Any]:
        """JSON-ready, as far as it is there."""
        ...


@dataclass
class Run:
    """A run folder and where the run stands.

    next_step: steps whose update is done. pending: metrics, as far as they are known, of a step
    whose update is done but which is not in the log. sampler_state: the sampler's after the last
    logged step. num_skipped: logged steps in a row, up to the last, with an update skipped because
    it was not finite. saved_s: `seconds` when a checkpoint was last tried.
    """

    folder: Path
    run_id: str
    next_step: int = 0
    seconds: float = 0.0
    sampler_state: StateToSave | None = None
    pending: dict[str, float] | None = None
    num_skipped: int = 0
    saved_s: float = 0.0

    def update_done(self, metrics: dict[str, float]) -> None:
        """Counts a step whose update is done: a checkpoint from here on has its weights, and a
        resumed run finishes it instead of training on its rollouts twice."""
        self.next_step += 1
        self.pending = metrics


@contextmanager
def reserve_run_folder(
    recipe: TrainRecipe | FinetuneRecipe, recipe_path: Path, can_resume: bool = True
) -> Iterator[Path]:
    """The run's folder, not yet made, whose name no other process can take inside the block.

    A second run of a default name within one second gets a number behind it. can_resume: whether
    to tell how a run of that name is continued.
    Raises: ConfigError when a folder of that name exists, or another process is about to make it.
    """
    # seconds are enough: two runs within one get a number
    stamp = time.strftime("%Y%m%d-%H%M%S")
    default = f"{recipe_path.stem}-{recipe.adapter.method}-seed{recipe.train.seed}-{stamp}"
    base = Path(recipe.run.dir)
    above = (base.absolute(), *base.absolute().parents)
    if shutil.disk_usage(next(path for path in above if path.exists())).free < MIN_FREE_BYTES:
        raise ConfigError(f"run.dir = {recipe.run.dir!r}: less than 0.25 GiB free; make room")
    numbered = [f"{default}-{number}" for number in range(2, 100)]
    names = [recipe.run.name] if recipe.run.name else [default, *numbered]
    with ExitStack() as stack:
        # a run that fails before it has a folder leaves no empty run.dir behind
        stack.callback(_remove_empty, [path for path in (base, *base.parents) if not path.exists()])
        for name in names[:-1]:
            with suppress(ConfigError):
                stack.enter_context(_reserve(base / name, can_resume))
                break
        else:
            name = names[-1]
            stack.enter_context(_reserve(base / name, can_resume))
        yield base / name


@contextmanager
def _reserve(folder: Path, can_resume: bool) -> Iterator[None]:
    """Locks the folder that `create_run_folder` will rename to `folder`. Raises: ConfigError."""
    resume = f"continue it with rlvr train --resume {folder}, or " if can_resume else ""
    taken = ConfigError(f"run.name = {folder.name!r}: {folder} exists; {resume}take another name")
    if folder.exists():
        raise taken
    partial = _partial(folder)
    partial.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(lock_run_folder(partial))
        except FileNotFoundError:  # another process has just renamed or removed it
            raise taken from None
        except ConfigError as error:
            raise ConfigError(f"run.name = {folder.name!r}: {error}") from None
        if folder.exists():  # made and finished between our look and our lock
            raise taken
        stack.callback(shutil.rmtree, partial, ignore_errors=True)
        yield


def _remove_empty(folders: list[Path]) -> None:
    for path in folders:
        with suppress(OSError):
            path.rmdir()


def _partial(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.partial")


def create_run_folder(
    folder: Path, recipe: TrainRecipe | FinetuneRecipe, facts: dict[str, Any]
) -> None:
    """Makes the folder with config.toml and manifest.json: it appears when both are written.

    Raises: ConfigError when a run has taken the name meanwhile.
    """
    partial = _partial(folder)
    partial.mkdir(parents=True, exist_ok=True)
    write_whole(partial / "config.toml", dump_toml(recipe))
    write_whole(partial / "manifest.json", json.dumps(facts, indent=1))
    try:
        # atomic on one file system: a folder without a manifest is never seen
        partial.rename(folder)
    except OSError as error:
        shutil.rmtree(partial)
        raise ConfigError(f"run.name = {folder.name!r}: {folder}: {error.strerror}") from error


@contextmanager
def lock_run_folder(folder: Path) -> Iterator[None]:
    """Locks the folder against every other process that would train in it.

    Raises: ConfigError when another process has the lock.
    """
    # the kernel frees a flock when its process ends in any way; a file with a PID would go stale
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
        # better an unlocked run than none
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
    before, now = (flatten(absolute_tree(one.model_dump(mode="json"))) for one in (then, recipe))
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


def own_code(recipe: TrainRecipe) -> dict[str, dict[str, Any]]:
    """By setting what the manifest says of the user's own functions: path, files, sha256."""
    return {key: own_facts(name) for key, name in own_functions(recipe).items()}


def check_same_code(recipe: TrainRecipe, recorded: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises: ConfigError where the file of one of the user's own functions is not that with which
    the run began (sha256)."""
    for key, facts in own_code(recipe).items():
        then, now = recorded.get(key, {}).get("sha256", "none"), facts["sha256"]
        if now != then:
            raise ConfigError(
                f"{key} = {facts['function']!r}: {', '.join(facts['files'])} has changed since the"
                f" run began (sha256 {now[:12]}, was {then[:12]}); put the old one back, or start a"
                " new run"
            )


def check_same_data(path: str, found: str, recorded: str) -> None:
    """Raises: ConfigError when the problems are not those that the run began with (sha256)."""
    if found != recorded:
        raise ConfigError(
            f"data.path = {path!r}: its problems have changed since the run began (sha256"
            f" {found[:12]}, was {recorded[:12]}); put the old ones back, or start a new run"
        )
