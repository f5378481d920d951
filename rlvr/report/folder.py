"""Reads the folder of a run, a comparison or an analysis, finished or not, without changing it."""

from __future__ import annotations

import json
import math
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlvr.common.errors import ConfigError
from rlvr.report.series import start_and_end
from rlvr.runs.reader import read_metrics


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
        """The value of `section.key` in the resolved recipe."""
        value: Any = self.config
        for key in name.split("."):
            if not isinstance(value, dict) or key not in value:
                return default
            value = value[key]
        return value

    def points(self, metric: str) -> list[tuple[int, float]]:
        """(step, value) wherever the metric is a finite number."""
        return [(row["step"], float(row[metric])) for row in self.rows if is_number(row, metric)]

    def values(self, metric: str) -> list[float]:
        return [value for _, value in self.points(metric)]

    def ends(self, metric: str, min_steps: int) -> tuple[float, float] | None:
        """Medians of the metric's first and last tenth; None with fewer steps than min_steps."""
        values = self.values(metric)
        return start_and_end(values) if len(values) >= min_steps else None


@dataclass(frozen=True)
class Source:
    """Everything a page is made of. runs, analyses: by label. lr_finds: trees of lr_find.json."""

    folder: Path
    runs: dict[str, RunData]
    comparison: dict[str, Any] | None
    lr_finds: list[dict[str, Any]]
    analyses: dict[str, dict[str, Any]]


def is_number(row: dict[str, Any], key: str) -> bool:
    """Whether row[key] is a finite number."""
    value = row.get(key)
    # JSON's true is an int in Python
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def read_source(folder: Path, analysis_folders: list[Path] | None = None) -> Source:
    """Everything in `folder` that the report knows. Raises: ConfigError when that is nothing."""
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; give the folder of a run or a comparison")
    comparison = read_json(folder / "comparison.json")
    analyses = _analyses(folder, None)
    for extra in analysis_folders or []:
        found = _analyses(extra, extra.name)
        if not found:
            raise ConfigError(f"{extra}: has no analysis.json; write one with rlvr analyze")
        analyses |= found
    runs: dict[str, RunData] = {}
    if comparison is not None:
        runs = _runs_of(folder, comparison)
        for label, run in runs.items():
            assert run.folder is not None
            analyses |= _analyses(run.folder, label)
    elif (folder / "config.toml").is_file() or (folder / "metrics.jsonl").is_file():
        runs = {folder.resolve().name: read_run(folder)}
    lr_finds = _lr_finds(folder, comparison)
    if comparison is None and not runs and not lr_finds and not analyses:
        raise ConfigError(
            f"{folder}: neither a run (config.toml, metrics.jsonl) nor a comparison"
            " (comparison.json), lr-find (lr_find.json) or analysis (analysis.json)"
        )
    return Source(folder, runs, comparison, lr_finds, analyses)


def read_run(folder: Path) -> RunData:
    """The run in `folder`, finished or not."""
    files = by_step(folder / "eval", ".json")
    return RunData(
        folder.resolve().name,
        read_metrics(folder),
        read_toml(folder / "config.toml"),
        read_json(folder / "manifest.json") or {},
        {step: tree for step, path in files.items() if (tree := read_json(path)) is not None},
        read_json(folder / "summary.json"),
        folder,
    )


def by_step(folder: Path, suffix: str) -> dict[int, Path]:
    """The folder's files step_N<suffix> by N, in order."""
    names = {path: path.name.removesuffix(suffix).removeprefix("step_")
             for path in folder.glob(f"step_*{suffix}")}  # fmt: skip
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


def _runs_of(folder: Path, comparison: dict[str, Any]) -> dict[str, RunData]:
    """The comparison's runs whose folders exist inside it, by 'label, seed N'."""
    runs = {}
    for method in comparison.get("methods", []):
        for entry in method.get("runs", []):
            path = (folder / str(entry.get("run"))).resolve()
            # a comparison.json from elsewhere must not put other files on the page
            if entry.get("run") and path.is_relative_to(folder.resolve()) and path.is_dir():
                runs[f"{method['label']}, seed {entry.get('seed')}"] = read_run(path)
    return runs


def _lr_finds(folder: Path, comparison: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The comparison's own finds, else those of lr_find*.json in the folder."""
    if comparison and comparison.get("lr_finds"):
        return comparison["lr_finds"]
    trees = [read_json(path) for path in sorted(folder.glob("lr_find*.json"))]
    return [tree for tree in trees if tree is not None and "points" in tree]


def _analyses(folder: Path, label: str | None) -> dict[str, dict[str, Any]]:
    """analysis.json in the folder and one level down, labelled by `label` or where it lies."""
    found = {}
    for path in sorted([*folder.glob("analysis.json"), *folder.glob("*/analysis.json")]):
        tree = read_json(path)
        if tree is not None and isinstance(tree.get("modules"), list):
            inner = path.parent.resolve().name
            name = label if label and path.parent == folder else f"{label}, {inner}"
            found[name if label else inner] = tree
            if isinstance(tree.get("other"), dict):
                found[f"{name if label else inner}, second"] = tree["other"]
    return found
