"""Whether the package runs from its checkout, and what follows: its cache and its commit."""

from __future__ import annotations

import os
import subprocess
import tomllib
from pathlib import Path


def checkout() -> Path | None:
    """The project's root when the package runs from its checkout; None when it is installed."""
    root = Path(__file__).resolve().parents[2]
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    except (OSError, KeyError, ValueError):  # ValueError: not TOML, not UTF-8
        return None
    return root if project.get("name") == "rlvr" else None


def cache_dir() -> Path:
    """Where results are kept that can be made again: $RLVR_CACHE, else .cache/rlvr in a checkout,
    else rlvr in $XDG_CACHE_HOME or ~/.cache."""
    given, shared = os.environ.get("RLVR_CACHE"), os.environ.get("XDG_CACHE_HOME", "")
    if given:
        return Path(given)
    root = checkout()
    if root is not None:
        return root / ".cache" / "rlvr"
    # the XDG specification has a relative path ignored
    return (Path(shared) if Path(shared).is_absolute() else Path.home() / ".cache") / "rlvr"


def git_commit() -> str | None:
    """The checkout's commit; None for an installed package, and inside another repository."""
    root = checkout()
    if root is None:
        return None
    top = _git(root, "--show-toplevel")
    return _git(root, "--verify", "HEAD") if top and Path(top).resolve() == root else None


def _git(folder: Path, *words: str) -> str | None:
    """What `git rev-parse` says of the folder, whatever repository GIT_DIR names."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(folder), "rev-parse", *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    except (OSError, subprocess.CalledProcessError):  # no git, no repository, no commit
        return None
    return done.stdout.strip() or None
