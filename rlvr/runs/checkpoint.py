"""Checkpoints: folders that transformers, peft and vLLM load as they are, with the trainer's state.

Written to a folder beside it, flushed to disk, then renamed: a checkpoint is complete or absent. A
list of hashes inside tells when a disk lost something later; it is made while the disk writes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors import SafetensorError

from rlvr.common.errors import ConfigError, RunError
from rlvr.common.files import write_whole
from rlvr.common.log import get_logger
from rlvr.config.sft import FinetuneRecipe
from rlvr.config.train import TrainRecipe
from rlvr.policy.policy import Policy
from rlvr.runs.reader import read_evaluations

if TYPE_CHECKING:
    from torch.optim import Optimizer

R = TypeVar("R", TrainRecipe, FinetuneRecipe)

logger = get_logger(__name__)

STATE_FOLDER = "trainer_state"
HASHES = "sha256.json"


class NotWrittenError(RunError):
    """A checkpoint could not be written; those before it are as they were."""


def save_checkpoint(
    run_dir: Path,
    step: int,
    policy: Policy,
    optimizer: Optimizer,
    state: dict[str, Any],
    save_more: Callable[[Path], None] | None = None,
) -> Path:
    """Writes checkpoints/step_N after N finished steps. state: JSON-ready, with the sampler's.

    save_more: writes further files into the folder of the trainer's state. An intact checkpoint of
    that step and state stays as it is. Raises: NotWrittenError.
    """
    final = run_dir / "checkpoints" / f"step_{step}"
    if final.exists() and damage(final) is None and _same_state(final, state):
        return final
    # a name with a dot: neither listed as a checkpoint nor matched by step_*
    partial = final.with_name(f".{final.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        _write(partial, step, policy, optimizer, state, save_more)
        _seal(partial)
        # rename does not replace a folder that has content
        if final.exists():
            _delete(final)
        partial.rename(final)
        _flush_folder(final.parent)
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise NotWrittenError(f"{final} could not be written: {error}; make room") from error
    return final


def _same_state(checkpoint: Path, state: dict[str, Any]) -> bool:
    """Whether the checkpoint was written with this state, but for the time it took."""
    saved = json.loads((checkpoint / STATE_FOLDER / "state.json").read_text())
    now = json.loads(json.dumps(state))
    return all(saved.get(key) == value for key, value in now.items() if key != "seconds")


def _write(
    partial: Path,
    step: int,
    policy: Policy,
    optimizer: Optimizer,
    state: dict[str, Any],
    save_more: Callable[[Path], None] | None,
) -> None:
    """Everything that a checkpoint holds, into the folder `partial`."""
    policy.save(partial)
    inner = partial / STATE_FOLDER
    inner.mkdir()
    torch.save(
        {
            "optimizer": optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            "policy": policy.training_state(),
        },
        inner / "optimizer.pt",
    )
    (inner / "state.json").write_text(json.dumps({"step": step, **state}))
    if save_more is not None:
        save_more(inner)


def _seal(partial: Path) -> None:
    """Brings everything below the folder to the disk, then the list of hashes."""
    with ThreadPoolExecutor(1) as pool:
        # the processor hashes while the disk writes: a scheduler's grace is short
        flushed = pool.submit(_flush, partial)
        hashes = _hashes(partial)
        flushed.result()
    listed = partial / STATE_FOLDER / HASHES
    write_whole(listed, json.dumps(hashes, indent=1))
    _flush_folder(listed.parent)


def list_checkpoints(run_dir: Path) -> list[Path]:
    """The run's checkpoints, oldest first."""
    found = (run_dir / "checkpoints").glob("step_*")
    return sorted(found, key=checkpoint_step)


def checkpoint_step(checkpoint: Path) -> int:
    """The number of finished steps in the checkpoint's name."""
    return int(checkpoint.name.removeprefix("step_"))


def intact_checkpoints(run_dir: Path) -> list[Path]:
    """The checkpoints that are as they were written, oldest first; says which are not.

    A complete one whose writer was killed before renaming it gets its name.
    """
    # killed between the last byte and the rename: everything is there but the name
    for partial in (run_dir / "checkpoints").glob(".step_*.partial"):
        final = partial.with_name(partial.name.removeprefix(".").removesuffix(".partial"))
        if not final.exists() and damage(partial) is None:
            partial.rename(final)
    intact = []
    for path in list_checkpoints(run_dir):
        harm = damage(path)
        if harm:
            logger.warning(f"{path} is damaged ({harm}) and is left out")
        else:
            intact.append(path)
    return intact


def damage(checkpoint: Path) -> str | None:
    """What differs from what was written, or None."""
    listed = checkpoint / STATE_FOLDER / HASHES
    if not listed.is_file():
        return f"{HASHES} is missing"
    try:
        written = json.loads(listed.read_text())
    except ValueError:
        return f"{HASHES} is not readable"
    found = _hashes(checkpoint)
    wrong = sorted(name for name in written if found.get(name) != written[name])
    return f"{wrong[0]} is {'changed' if wrong[0] in found else 'missing'}" if wrong else None


def _hashes(folder: Path) -> dict[str, str]:
    """sha256 of every file below the folder but the list itself, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != HASHES)
    with ThreadPoolExecutor(min(4, len(files) or 1)) as pool:  # hashlib lets other threads run
        digests = pool.map(_sha256, files)
        return {str(path.relative_to(folder)): d for path, d in zip(files, digests, strict=True)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def best_checkpoint(run_dir: Path) -> Path:
    """The checkpoint that eval.best_metric puts highest; the newest where none was evaluated."""
    scores = {step: tree["score"] for step, tree in read_evaluations(run_dir).items()}
    # reversed, because max keeps the first of equals: the newest checkpoint wins a tie
    newest_first = reversed(list_checkpoints(run_dir))
    return max(newest_first, key=lambda path: scores.get(checkpoint_step(path), -1.0))


def find_checkpoint(folder: Path) -> Path:
    """The folder of weights that a user's folder stands for: a run's best checkpoint, or itself.

    Raises: ConfigError where there is none.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; give that of a run or of a checkpoint")
    if (folder / "manifest.json").is_file():
        if not list_checkpoints(folder):
            raise ConfigError(f"{folder}: this run has no checkpoint yet; wait for its first")
        folder = best_checkpoint(folder)
    return folder.absolute()


def refuse_damaged(checkpoint: Path) -> None:
    """Raises: ConfigError for a checkpoint that is not as it was written. Reads all of it."""
    # supervised runs keep no trainer's state, and no hashes in it
    harm = damage(checkpoint) if (checkpoint / STATE_FOLDER).is_dir() else None
    if harm:
        raise ConfigError(f"{checkpoint} is damaged ({harm}); give another checkpoint")


def with_found_start(recipe: R) -> R:
    """The recipe with the checkpoint that adapter.start_from stands for. Raises: ConfigError."""
    start = recipe.adapter.start_from
    if start is None:
        return recipe
    found = {"start_from": str(find_checkpoint(Path(start)))}
    return recipe.model_copy(update={"adapter": recipe.adapter.model_copy(update=found)})


def prune_checkpoints(run_dir: Path, keep: int) -> None:
    """Deletes all but the newest `keep` and the best."""
    best = best_checkpoint(run_dir)
    for path in list_checkpoints(run_dir)[:-keep]:
        if path != best:
            _delete(path)
    for path in (run_dir / "checkpoints").glob(".step_*"):  # of a process that was killed
        shutil.rmtree(path, ignore_errors=True)


def _delete(checkpoint: Path) -> None:
    """Deletes the checkpoint; no half of it is ever listed."""
    # renamed first: half a checkpoint is never listed
    doomed = checkpoint.with_name(f".{checkpoint.name}.deleted")
    shutil.rmtree(doomed, ignore_errors=True)
    checkpoint.rename(doomed)
    shutil.rmtree(doomed)


def load_checkpoint(folder: Path, policy: Policy, optimizer: Optimizer) -> dict[str, Any]:
    """Restores weights, optimizer and random state; the saved `state`, with its step."""
    saved = torch.load(
        folder / STATE_FOLDER / "optimizer.pt",
        map_location="cpu",
        weights_only=True,  # a pickle could run code
        mmap=policy.strategy.is_sharded,  # else every rank would read all of it into memory
    )
    policy.load_training_state(folder, saved["policy"])
    policy.strategy.load_state(optimizer, saved["optimizer"])
    torch.set_rng_state(saved["rng"])
    return json.loads((folder / STATE_FOLDER / "state.json").read_text())


def _flush(folder: Path) -> None:
    # without fsync a rename may reach the disk before the content, and a crash leaves it empty
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        else:
            _flush_folder(path)
    _flush_folder(folder)


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
