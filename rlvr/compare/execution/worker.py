"""The process behind parallel runs and job arrays: `python -m rlvr.compare.execution.worker`.

Without arguments: a task per line of standard input as JSON, its outcome per line of standard
output. With a file and a number: that line of the file, once.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from rlvr.common.environment import set_environment
from rlvr.common.files import lenient_output
from rlvr.common.log import to_stderr


def main(argv: list[str]) -> int:
    """Serves tasks; the exit code."""
    set_environment()
    from rlvr.common.signals import Stopped
    from rlvr.compare.execution.execute import execute_logged
    from rlvr.compare.execution.task import RunTask
    from rlvr.compare.execution.warm_engine import WarmEngine

    folder = Path(argv[0])
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not look like an answer
    # split: splitlines would also end a line at U+2028 inside a string
    lines = [Path(argv[1]).read_text().split("\n")[int(argv[2])]] if argv[1:] else sys.stdin
    try:
        with contextlib.closing(WarmEngine()) as warm:
            for line in lines:
                outcome = execute_logged(RunTask.from_json(json.loads(line)), warm, folder)
                print(json.dumps(asdict(outcome)), file=answers, flush=True)
    except Stopped as stopped:
        return 128 + stopped.signum
    return 0


if __name__ == "__main__":
    with lenient_output(), to_stderr():
        sys.exit(main(sys.argv[1:]))
