"""Reads a run folder without changing it, while the run is still going or after it was killed.

Whatever is missing, half written or damaged reads as absent: nothing here raises on a broken file.
"""

from __future__ import annotations

import gzip
import json
import math
import tomllib
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.formats.jsonl import whole_objects


@dataclass(frozen=True)
class RunData:
    """One run. rows: the lines of metrics.jsonl, by step; evals: eval/step_N.json by N."""

    name: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)
    evals: dict[int, dict[str, Any]] = field(default_factory=dict)
    summary: dict[str, Any] | None = None
    folder: Path | None = None

    def setting(self, name: str, default: Any = None) -> Any:
        """The value of `section.key` in the resolved recipe, in force at the last logged step."""
        value: Any = self.config
        for stage in self.config.get("stage", []):
            # a stage at step N begins with the line of step N + 1
            if self.rows and stage["at_step"] < self.rows[-1]["step"]:
                changes = {k: v for k, v in stage.items() if isinstance(v, dict)}
                value = value | {k: value.get(k, {}) | v for k, v in changes.items()}
        for key in name.split("."):
            if not isinstance(value, dict) or key not in value:
                return default
            value = value[key]
        return value

    @property
    def data_paths(self) -> list[str]:
        """data.path, or the path of every [[data.source]]."""
        sources = self.setting("data.source") or [{"path": self.setting("data.path")}]
        return [one["path"] for one in sources if one.get("path")]

    def points(self, metric: str) -> list[tuple[int, float]]:
        """(step, value) wherever the metric is a finite number."""
        return [(row["step"], float(row[metric])) for row in self.rows if is_number(row, metric)]

    def values(self, metric: str) -> list[float]:
        return [value for _, value in self.points(metric)]


def read_run(folder: Path) -> RunData:
    """Everything but the rollouts of the run in `folder`."""
    return RunData(
        folder.resolve().name,
        read_metrics(folder),
        read_config(folder),
        read_manifest(folder),
        read_evaluations(folder),
        read_summary(folder),
        folder,
    )


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
    """The file of the evaluation after `step` steps; its generations are beside it."""
    return run_dir / "eval" / f"step_{step}.json"


def read_evaluation(run_dir: Path, step: int) -> dict[str, Any] | None:
    """The evaluation after `step` steps; None where there was none."""
    return read_json(evaluation_path(run_dir, step))


def read_evaluations(run_dir: Path) -> dict[int, dict[str, Any]]:
    """Every evaluation by its step, in order."""
    trees = {n: read_json(p) for n, p in _numbered(run_dir / "eval", "step_", ".json").items()}
    return {step: tree for step, tree in trees.items() if tree is not None}


def top_answers(evaluation: dict[str, Any]) -> dict[str, dict[str, Any] | None]:
    """`top_answer_frac` of every set of an evaluation; None in those from before it was kept."""
    sets = evaluation.get("results", {}).get("benchmarks", {})
    return {name: result.get("top_answer_frac") for name, result in sets.items()}


def rollout_files(run_dir: Path) -> dict[int, Path]:
    """rollouts/step_N.jsonl.gz by N, in order."""
    return _numbered(run_dir / "rollouts", "step_", ".jsonl.gz")


def trace_files(run_dir: Path) -> dict[int, Path]:
    """trace/step_N.json by N, in order."""
    return _numbered(run_dir / "trace", "step_", ".json")


def read_rollouts(path: Path) -> list[dict[str, Any]]:
    """The rollouts of one file, up to the place where it is damaged."""
    parts = []
    try:
        with gzip.open(path) as file:
            # read1 hands over what it has decompressed; read would lose it at a truncated end
            while part := file.read1():
                parts.append(part)
    except (OSError, EOFError, zlib.error):
        pass
    return list(whole_objects(b"".join(parts).split(b"\n")))


def _numbered(folder: Path, start: str, end: str) -> dict[int, Path]:
    files = {
        path.name.removeprefix(start).removesuffix(end): path
        for path in folder.glob(f"{start}*{end}")
    }
    return dict(sorted((int(number), path) for number, path in files.items() if number.isdigit()))


def is_number(row: dict[str, Any], key: str) -> bool:
    """Whether row[key] is a finite number."""
    value = row.get(key)
    # bool is a subclass of int in Python
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in the file; None where there is none, or it is still being written."""
    if not path.is_file():
        return None
    try:
        tree = json.loads(path.read_bytes())
    except ValueError:
        return None
    return tree if isinstance(tree, dict) else None


def read_toml(path: Path) -> dict[str, Any]:
    """The tables in the file; {} where there is none, or it is still being written."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        return {}
