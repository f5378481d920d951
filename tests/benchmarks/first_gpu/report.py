"""What a part hands to the script that started it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from rlvr.common.files import write_whole


class Skip(Exception):
    """This machine lacks what the part needs."""


class Report:
    """What a part has found so far: in its file after every call, so that an end loses nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._values: dict[str, Any] = {}

    def __call__(self, **values: Any) -> None:
        """Adds or replaces values, JSON-ready. headline: the part's line in the table; why_not: why
        it was skipped."""
        self._values |= values
        write_whole(self._path, json.dumps(self._values))


def need(*modules: str) -> None:
    """Raises: Skip, with the first of the modules that is not installed."""
    for name in modules:
        if importlib.util.find_spec(name) is None:
            raise Skip(f"{name} is not installed")
