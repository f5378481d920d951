"""Trains a tiny policy for many steps with the real vLLM and watches memory, files and processes.

What follows the options are settings of the recipe, such as --rollout.engine transformers.

Exit code 0 when memory stays within 5% of what it was after the first tenth of the steps, and
neither files nor processes grow.

    python -m tests.faults.soak --steps 10000
"""

import argparse
import json
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from tests.faults.tiny_run import write_recipe


def num_descendants(pid: int) -> int:
    """How many processes live below `pid`."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(FileNotFoundError, ProcessLookupError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = int(fields[1])
    below = {pid}
    while more := {child for child, parent in parents.items() if parent in below} - below:
        below |= more
    return len(below) - 1


def sample() -> dict[str, float]:
    """Resident memory (MiB), open files, threads and descendants of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    return {
        "rss_mib": int(status["VmRSS"].split()[0]) / 1024,
        "fds": len(list(Path("/proc/self/fd").iterdir())),
        "threads": int(status["Threads"]),
        "processes": num_descendants(os.getpid()),
    }


def soak(steps: int, folder: Path, settings: list[str]) -> list[dict[str, float]]:
    """A sample about every hundredth of the run."""
    from rich.console import Console

    from rlvr.common.environment import set_environment
    from rlvr.config.toml import load_recipe
    from rlvr.config.train import TrainRecipe
    from rlvr.training.loop import train

    set_environment()
    every = max(1, steps // 10)
    recipe = write_recipe(folder, steps, checkpoint_every=every, eval_every=every)
    samples: list[dict[str, float]] = []

    def watch(step: int, _metrics: dict[str, float]) -> bool:
        if step % max(1, steps // 100) == 0:
            samples.append({"step": step, **sample()})
        return False

    with open(os.devnull, "w") as nowhere:
        words = ["--run.name", "soak", "--rollout.engine", "vllm", *settings]
        train(load_recipe(recipe, words, TrainRecipe), recipe, Console(file=nowhere), end=watch)
    return samples


def judge(samples: list[dict[str, float]]) -> dict[str, object]:
    """Growth from the first tenth to the end."""
    settled = samples[len(samples) // 10 :]
    first, last = settled[0], settled[-1]
    growth = last["rss_mib"] / first["rss_mib"] - 1
    grown = {name: last[name] - first[name] for name in ("fds", "threads", "processes")}
    flat = growth <= 0.05 and all(more <= 0 for more in grown.values())
    return {"first": first, "last": last, "rss_growth": growth, "grown": grown, "flat": flat}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--json", type=Path, help="write the result to this file")
    args, settings = parser.parse_known_args()
    with tempfile.TemporaryDirectory(prefix="rlvr-soak-") as folder:
        result = judge(soak(args.steps, Path(folder), settings))
    print(json.dumps(result, indent=1))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))
    return 0 if result["flat"] else 1


if __name__ == "__main__":
    sys.exit(main())
