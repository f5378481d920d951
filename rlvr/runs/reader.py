"""Reads a run folder without changing it, while the run is still going or after it was killed.

Whatever is missing, half written or damaged reads as absent: nothing here raises on a broken file.
"""

from __future__ import annotations

import gzip
import json
import tomllib
import zlib
from pathlib import Path
from typing import Any

from eval.formats.jsonl import whole_objects


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """metrics.jsonl, one object per step, in order; [] where there is no file."""
    path = run_dir / "metrics.jsonl"
    rows: dict[int, dict[str, Any]] = {}
    for row in whole_objects(path.read_bytes().split(b"\n") if path.is_file() else ()):
        if isinstance(row.get("step"), int):
            rows[row["step"]] = row  # a run resumed after a kill writes the same step again
    return [rows[step] for step in sorted(rows)]


def read_config(run_dir: Path) -> dict[str, Any]:
    """config.toml as nested tables; {} where there is none."""
    return read_toml(run_dir / "config.toml")


def read_manifest(run_dir: Path) -> dict[str, Any]:
    """manifest.json; {} where there is none."""
    return read_json(run_dir / "manifest.json") or {}


def read_summary(run_dir: Path) -> dict[str, Any] | None:
    """summary.json; None while the run has not finished."""
    return read_json(run_dir / "summary.json")


def evaluation_path(run_dir: Path, step: int) -> Path:
    """Where the evaluation after `step` steps lies; its generations lie beside it."""
    return run_dir / "eval" / f"step_{step}.json"


def read_evaluation(run_dir: Path, step: int) -> dict[str, Any] | None:
    """The evaluation after `step` steps; None where there was none."""
    return read_json(evaluation_path(run_dir, step))


def read_evaluations(run_dir: Path) -> dict[int, dict[str, Any]]:
    """Every evaluation by its step, in order."""
    files = _by_step(run_dir / "eval", ".json")
    return {step: tree for step, path in files.items() if (tree := read_json(path)) is not None}


def rollout_files(run_dir: Path) -> dict[int, Path]:
    """rollouts/step_N.jsonl.gz by N, in order."""
    return _by_step(run_dir / "rollouts", ".jsonl.gz")


def read_rollouts(path: Path) -> list[dict[str, Any]]:
    """The rollouts of one file, up to the place where it is damaged."""
    parts = []
    try:
        with gzip.open(path) as file:
            while part := file.read1():  # read() would lose all that comes before the damage
                parts.append(part)
    except (OSError, EOFError, zlib.error):
        pass
    return list(whole_objects(b"".join(parts).split(b"\n")))


def _by_step(folder: Path, suffix: str) -> dict[int, Path]:
    """The folder's files step_N<suffix> by N, in order."""
    names = {
        path: path.name.removesuffix(suffix).removeprefix("step_")
        for path in folder.glob(f"step_*{suffix}")
    }
    return dict(sorted((int(name), path) for path, name in names.items() if name.isdigit()))


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in the file; None where there is none, or it is still being written."""
    if not path.is_file():
        return None
    try:
        tree = json.loads(path.read_bytes())  # bytes: what is not UTF-8 is a ValueError too
    except ValueError:
        return None
    return tree if isinstance(tree, dict) else None


def read_toml(path: Path) -> dict[str, Any]:
    """The tables in the file; {} where there is none, or it is still being written."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        return {}
