"""`rlvr lr-find` for LoRA on the quickstart with runs that share an engine, against one after
another in the sync mode that it has then on a CPU: seconds, and the rates found.

Both are processes of their own, started one after the other.
Run: python -m tests.benchmarks.shared_find [--steps 20] [--json FILE]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rlvr.compare.learning_rate.search import read_finds
from rlvr.compare.resolve import open_comparison
from tests.benchmarks.runs import RECIPES

RECIPE = """
[compare]
name = "{kind}"
base = "{base}"
dir = "{folder}"
[budget]
steps = {steps}
[settings.track]
wandb = "disabled"
[methods.lora]
[find]
reference_lr = 1e-3
[executor]
kind = "{kind}"
"""
SHARED = 'runs_per_engine = 5\n[settings.rollout]\nengine = "vllm"\nsync = "adapter"\n'


def find(kind: str, steps: int, folder: Path) -> dict[str, float]:
    """Seconds of the command, the rate that it found, and the runs that it made."""
    path = folder / f"{kind}.toml"
    text = RECIPE.format(kind=kind, base=RECIPES / "quickstart.toml", folder=folder, steps=steps)
    path.write_text(text + (SHARED if kind == "shared" else ""))
    start = time.perf_counter()
    command = [sys.executable, "-m", "rlvr.cli", "lr-find", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    found = read_finds(open_comparison(path, []), ["lora"])["lora"]
    return {"seconds": seconds, "lr": found["chosen_lr"], "steps": found["cost"]["steps"]}


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a line per way and the ratio of their seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20, help="of a short run")
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for kind in ("shared", "local"):
            found[kind] = find(kind, args.steps, Path(folder))
            print(f"{kind:6} {found[kind]}", flush=True)
    found["wall_ratio"] = found["shared"]["seconds"] / found["local"]["seconds"]
    print(json.dumps(found, indent=1))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
