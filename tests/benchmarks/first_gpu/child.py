"""The process of one part: `python -m tests.benchmarks.first_gpu.child PART --result FILE`."""

from __future__ import annotations

import argparse
import faulthandler
import importlib
from pathlib import Path

from tests.benchmarks.first_gpu.parts import PARTS, PLANTED
from tests.benchmarks.first_gpu.report import Report, Skip


def main() -> None:
    """Runs the part; its exit code is not 0 when it failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("part")
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--limit", type=float, default=3600.0)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    # where a part hangs, the log's last lines say at which line of Python
    faulthandler.dump_traceback_later(args.limit - min(5.0, args.limit / 2), exit=False)
    part = next(one for one in (*PARTS, *PLANTED) if one.name == args.part)
    module, _, function = part.work.partition(":")
    report = Report(args.result)
    try:
        work = getattr(importlib.import_module(f"tests.benchmarks.first_gpu.{module}"), function)
        work(report, args.tiny, **dict(part.options))
    except Skip as reason:
        report(why_not=str(reason))


if __name__ == "__main__":
    main()
