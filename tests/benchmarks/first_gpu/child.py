"""The process of one part: `python -m tests.benchmarks.first_gpu.child PART --result FILE`."""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import importlib.util
import json
from pathlib import Path
from typing import Any

from rlvr.common.files import write_whole
from tests.benchmarks.first_gpu.parts import PARTS, PLANTED


class Skip(Exception):
    """This machine lacks what the part needs."""


class Report:
    """What a part has found so far: in its file after every call, so that an end loses nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.values: dict[str, Any] = {}

    def __call__(self, **values: Any) -> None:
        """Adds or replaces values, JSON-ready. headline: the part's line in the table."""
        self.values |= values
        write_whole(self._path, json.dumps(self.values))


def need(*modules: str) -> None:
    """Raises: Skip, with the first of the modules that is not installed."""
    for name in modules:
        if importlib.util.find_spec(name) is None:
            raise Skip(f"{name} is not installed")


def main() -> None:
    """Runs the part; its exit code is not 0 when it failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("part")
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--limit", type=float, default=3600.0)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    # where a part hangs, the log's last lines say at which line of Python
    faulthandler.dump_traceback_later(max(1.0, args.limit - 2), exit=False)
    part = next(one for one in (*PARTS, *PLANTED) if one.name == args.part)
    module, _, function = part.work.partition(":")
    report = Report(args.result)
    try:
        work = getattr(importlib.import_module(f"tests.benchmarks.first_gpu.{module}"), function)
        work(report, args.tiny, **dict(part.options))
    except Skip as reason:
        report(skipped=str(reason))


if __name__ == "__main__":
    main()
