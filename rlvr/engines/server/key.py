"""The API key between a run and its vLLM servers: from the environment, or from a private file."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from rlvr.common.errors import ConfigError

VARIABLE = "RLVR_API_KEY"
"""Environment variable that holds the key; it goes before the file."""


def key_file(run_dir: Path) -> Path:
    """Where `rlvr serve` leaves a key that it made: beside the runs of this recipe."""
    return run_dir / ".api_key"


def find_key(run_dir: Path) -> str | None:
    """The key to send with requests, or None. Raises: ConfigError for a file others can read."""
    if os.environ.get(VARIABLE):
        return os.environ[VARIABLE]
    path = key_file(run_dir)
    if not path.is_file():
        return None
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise ConfigError(f"{path}: others can read this API key; delete it and start rlvr serve")
    return path.read_text().strip()


def make_key(run_dir: Path) -> str:
    """The key that `find_key` gives; where there is none, a new one in a file of mode 600."""
    found = find_key(run_dir)
    if found:
        return found
    path = key_file(run_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    # private from the start: after a chmod somebody may have it open already
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_urlsafe(32))
    try:
        os.link(partial, path)  # of servers started together, one makes the key of all
    except FileExistsError:
        pass
    finally:
        partial.unlink()
    return path.read_text().strip()
