"""JSONL files that a user names for an analysis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eval.formats.jsonl import read_objects
from rlvr.common.errors import ConfigError


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of every line. Raises: ConfigError with file and line."""
    try:
        yield from read_objects(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not a readable JSONL file ({error})") from error
