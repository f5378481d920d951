"""Reads the folder of a run, a comparison or an analysis, finished or not, without changing it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.common.errors import ConfigError
from rlvr.runs.reader import RunData, read_json, read_run, rollout_files


@dataclass(frozen=True)
class Source:
    """Everything a page is made of. runs, analyses: by label. lr_finds: trees of lr_find.json."""

    folder: Path
    runs: dict[str, RunData]
    comparison: dict[str, Any] | None
    lr_finds: list[dict[str, Any]]
    analyses: dict[str, dict[str, Any]]

    def rollout_files(self) -> list[dict[int, Path]]:
        """Each run's rollout files by step, in the order of `runs`."""
        return [rollout_files(run.folder) if run.folder else {} for run in self.runs.values()]


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
    # config.toml is there before the first step, metrics.jsonl after it
    elif (folder / "config.toml").is_file() or (folder / "metrics.jsonl").is_file():
        runs = {folder.resolve().name: read_run(folder)}
    lr_finds = _lr_finds(folder, comparison)
    if comparison is None and not runs and not lr_finds and not analyses:
        raise ConfigError(
            f"{folder}: neither a run (config.toml, metrics.jsonl) nor a comparison"
            " (comparison.json), lr-find (lr_find.json) or analysis (analysis.json)"
        )
    return Source(folder, runs, comparison, lr_finds, analyses)


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
        # any other tool may write a file of this name
        if tree is not None and isinstance(tree.get("modules"), list):
            inner = path.parent.resolve().name
            name = label if label and path.parent == folder else f"{label}, {inner}"
            found[name if label else inner] = tree
            # of two checkpoints rlvr analyze puts the second inside the first
            if isinstance(tree.get("other"), dict):
                found[f"{name if label else inner}, second"] = tree["other"]
    return found
