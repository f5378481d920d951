"""Checkpoints: a folder that transformers, peft and vLLM load as it is, beside the trainer's state.

Written to a neighbour folder, flushed to disk, then renamed: a checkpoint is whole or absent.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rlvr.policy import Policy

if TYPE_CHECKING:
    from torch.optim import Optimizer

STATE_FOLDER = "trainer_state"


def save_checkpoint(
    run_dir: Path,
    step: int,
    policy: Policy,
    optimizer: Optimizer,
    state: dict[str, Any],
    save_more: Callable[[Path], None] | None = None,
) -> Path:
    """Writes checkpoints/step_N after N finished steps. state: JSON-ready, with the sampler's.

    save_more: writes further files into the folder of the trainer's state.
    """
    final = run_dir / "checkpoints" / f"step_{step}"
    partial = final.with_name(f".{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
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
    _flush(partial)
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    _flush_folder(final.parent)
    return final


def list_checkpoints(run_dir: Path) -> list[Path]:
    """The run's checkpoints, oldest first."""
    found = (run_dir / "checkpoints").glob("step_*")
    return sorted(found, key=lambda path: int(path.name.removeprefix("step_")))


def best_checkpoint(run_dir: Path) -> Path:
    """The checkpoint that eval.best_metric puts highest; the newest where none was evaluated."""

    def score(checkpoint: Path) -> float:
        scored = run_dir / "eval" / f"{checkpoint.name}.json"
        return json.loads(scored.read_text())["score"] if scored.exists() else -1.0

    return max(reversed(list_checkpoints(run_dir)), key=score)


def prune_checkpoints(run_dir: Path, keep: int) -> None:
    """Deletes all but the newest `keep` and the best."""
    best = best_checkpoint(run_dir)
    for path in list_checkpoints(run_dir)[:-keep]:
        if path != best:
            shutil.rmtree(path)


def load_checkpoint(folder: Path, policy: Policy, optimizer: Optimizer) -> dict[str, Any]:
    """Restores weights, optimizer and random state; the saved `state`, with its step."""
    saved = torch.load(folder / STATE_FOLDER / "optimizer.pt", weights_only=True)
    policy.load_training_state(folder, saved["policy"])
    optimizer.load_state_dict(saved["optimizer"])
    torch.set_rng_state(saved["rng"])
    return json.loads((folder / STATE_FOLDER / "state.json").read_text())


def _flush(folder: Path) -> None:
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
