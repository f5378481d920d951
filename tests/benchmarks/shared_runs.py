"""Four LoRA runs at four rates on one base and one vLLM, against one after another.

Each side in a process of its own, which counts the decoding steps of its vLLM. `tests.benchmarks.
stream` calls it. Run one side: python -m tests.benchmarks.shared_runs shared|local|one STEPS
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from rlvr.compare.execution.executors import open_executor
from rlvr.compare.resolve import open_comparison
from rlvr.engines.vllm_local import VllmEngine

RATES = (5.623e-4, 1e-3, 1.778e-3, 3.162e-3)
"""Of the grid of `rlvr lr-find`, around the recipe's own rate."""
BASE = Path(__file__).parents[2] / "recipes" / "quickstart.toml"


def run_side(kind: str, num_steps: int) -> dict[str, float]:
    """Decoding steps, seconds and peak memory (GiB) of this process for the runs of a side."""
    count = [0]
    step = VllmEngine.step

    def counted(engine: VllmEngine) -> float:
        count[0] += 1
        return step(engine)

    VllmEngine.step = counted
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "compare.toml"
        executor = '[executor]\nkind = "shared"\nruns_per_engine = 4\n' if kind == "shared" else ""
        recipe.write_text(
            f'[compare]\nname = "cmp"\nbase = "{BASE}"\ndir = "{folder}"\nseeds = [0]\n'
            f"[budget]\nsteps = {num_steps}\n[methods.lora]\nlr = 1e-3\n"
            f'[settings.rollout]\nengine = "vllm"\nsync = "adapter"\n{executor}'
        )
        comparison = open_comparison(recipe, [])
        rates = RATES[:1] if kind == "one" else RATES
        tasks = [comparison.task("lora", 0, lr, evaluated=False) for lr in rates]
        start = time.perf_counter()
        with open_executor(comparison.recipe.executor, comparison.folder, Console()) as run:
            outcomes = run(tasks)
        seconds = time.perf_counter() - start
    assert all(one.status == "finished" for one in outcomes), outcomes
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"decoding_steps": count[0], "seconds": seconds, "gib": memory}


def ratios(num_steps: int) -> dict[str, float]:
    """shared4_steps_ratio, shared4_wall_ratio and shared4_memory_ratio (against one run)."""
    found = {}
    for kind in ("shared", "local", "one"):
        command = [sys.executable, "-m", "tests.benchmarks.shared_runs", kind, str(num_steps)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found[kind] = json.loads(done.stdout.splitlines()[-1])
        print(f"{kind:8} {found[kind]}", flush=True)
    return {
        "shared4_steps_ratio": found["shared"]["decoding_steps"] / found["local"]["decoding_steps"],
        "shared4_wall_ratio": found["shared"]["seconds"] / found["local"]["seconds"],
        "shared4_memory_ratio": found["shared"]["gib"] / found["one"]["gib"],
    }


if __name__ == "__main__":
    print(json.dumps(run_side(sys.argv[1], int(sys.argv[2]))))
