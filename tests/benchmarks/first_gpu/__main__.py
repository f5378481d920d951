"""What only a GPU can answer, in one call: python -m tests.benchmarks.first_gpu --minutes 9

Every part is a process of its own with a time limit, killed with all that it has started when it
is over; the next one runs whatever became of it. Needs no network: models and data are random. The
JSON file is written after every part. docs/benchmarks.md says what each part answers.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.common.checkout import git_commit
from rlvr.common.files import write_whole
from tests.benchmarks.first_gpu.parts import PARTS, PLANTED, Part

ROOT = Path(__file__).parents[3]
TAIL = 15
"""Lines of a failed part's output that are kept."""
LEAST_S = 10.0
"""With less time left than this no part is started."""
WHEELS = Part("wheels", "carried wheels are installed", "", 180)
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "WANDB_MODE": "disabled",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_WAIT_POLICY": "PASSIVE",
    "PYTHONUNBUFFERED": "1",
    # micro-batches of every length fragment the pool otherwise
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
}


@dataclass
class Run:
    """One call of this script. folder: of results and logs of parts. site: of carried wheels.
    deadline: of the clock. slack: factor of the parts' limits."""

    folder: Path
    site: Path
    deadline: float
    slack: float
    is_tiny: bool

    def command(self, part: Part, limit_s: float) -> list[str]:
        words = [sys.executable, "-m", "tests.benchmarks.first_gpu.child", part.name]
        words += ["--result", str(self.result_of(part)), "--limit", f"{limit_s:.1f}"]
        return words + ["--tiny"] * self.is_tiny

    def result_of(self, part: Part) -> Path:
        return self.folder / f"{part.name}.json"

    def environment(self, part: Part) -> dict[str, str]:
        """Ours, with the carried wheels before what is installed."""
        gpus = {} if part.all_gpus else {"CUDA_VISIBLE_DEVICES": "0"}
        paths = [str(self.site), str(ROOT), os.environ.get("PYTHONPATH", "")]
        return (
            ENVIRONMENT | gpus | os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        )


def main(words: Sequence[str] | None = None) -> int:
    """Runs the parts; exit code 1 when one failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything (default: 9)")
    parser.add_argument(
        "--slack", type=float, default=1.0, help="factor of the parts' limits, for a slower GPU"
    )
    parser.add_argument("--parts", nargs="+", help="only these, in this order")
    parser.add_argument("--without", nargs="+", default=[], help="all but these")
    parser.add_argument("--json", type=Path, default=Path("first_gpu.json"), help="the results")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to install for the parts")
    parser.add_argument("--tiny", action="store_true", help="small sizes, on any machine")
    args = parser.parse_args(words)
    known = {part.name: part for part in (*PARTS, *PLANTED)}
    wanted = args.parts or [part.name for part in PARTS if part.name not in args.without]
    if unknown := [name for name in [*wanted, *args.without] if name not in known]:
        parser.error(f"no part {unknown[0]!r}; there are {', '.join(known)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the part is killed with us
    with tempfile.TemporaryDirectory(prefix="first-gpu-") as folder:
        deadline = time.monotonic() + 60 * args.minutes
        run = Run(Path(folder), Path(folder) / "site", deadline, args.slack, args.tiny)
        rows: list[dict[str, Any]] = []
        facts = {"date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), "commit": git_commit()}
        facts |= {"tiny": args.tiny, "minutes": args.minutes}
        if args.wheels:
            words = ["tests.benchmarks.first_gpu.wheels", str(args.wheels), str(run.site)]
            rows.append(execute(WHEELS, [sys.executable, "-m", *words], run, WHEELS.limit_s))
            print(line(rows[-1]), flush=True)
        for name in wanted:
            rows.append(execute_in_time(known[name], run))
            print(line(rows[-1]), flush=True)
            write_whole(args.json, json.dumps(facts | {"parts": rows}, indent=1))
    return int(any(row["status"] in ("failed", "timed out") for row in rows))


def execute_in_time(part: Part, run: Run) -> dict[str, Any]:
    """The part's row; skipped where too little time is left."""
    left_s = run.deadline - time.monotonic()
    if left_s < LEAST_S:
        row = {"name": part.name, "question": part.question, "status": "skipped", "seconds": 0.0}
        return row | {"result": {"why_not": "no time left"}}
    limit_s = min(run.slack * part.limit_s, left_s)
    return execute(part, run.command(part, limit_s), run, limit_s)


def execute(part: Part, command: list[str], run: Run, limit_s: float) -> dict[str, Any]:
    """Runs the command in a process group of its own and kills what is left of it.

    status: ok, skipped, failed or "timed out". result: what the part had reported by then. tail:
    the last lines of its output, unless all went well.
    """
    log, start = run.folder / f"{part.name}.log", time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=run.environment(part),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    seconds, path = time.monotonic() - start, run.result_of(part)
    result = json.loads(path.read_text()) if path.exists() else {}
    status = "timed out" if code is None else "failed" if code else "ok"
    if status == "ok" and "why_not" in result:
        status = "skipped"
    row = {"name": part.name, "question": part.question, "status": status, "seconds": seconds}
    row["result"] = result
    if status in ("failed", "timed out"):
        row["tail"] = log.read_text(errors="replace").splitlines()[-TAIL:]
    return row


def line(row: dict[str, Any]) -> str:
    """The row of the table; a failed part's reason is in its last lines, which follow."""
    result = row["result"]
    said = result.get("why_not") or result.get("headline") or row["question"]
    text = f"{row['name']:20} {row['status']:9} {row['seconds']:6.1f} s  {said}"
    return "\n".join([text, *(f"    | {last}" for last in row.get("tail", ()))])


if __name__ == "__main__":
    sys.exit(main())
