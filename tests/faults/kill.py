"""Kills one run with SIGKILL at random moments and resumes it until it has finished.

The last checkpoint's weights and every metric must be those of a run that nobody disturbed, and no
checkpoint may ever be unreadable. Exit code 0 when that holds. vLLM generates; what follows the
options are settings of the recipe, such as --rollout.engine transformers.

    python -m tests.faults.kill --kills 50
"""

import argparse
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.faults.tiny_run import read_metrics, write_recipe

MAIN = """
import faulthandler, signal, sys
faulthandler.register(signal.SIGUSR1, all_threads=False)
from rlvr.cli import main
sys.exit(main(["train", *sys.argv[1:]]))
"""
"""`rlvr train` that writes on SIGUSR1 where it is, without a change to what it does."""

COMMAND = [sys.executable, "-c", MAIN]

PHASES = {
    "save_checkpoint": "checkpoint",
    "prune_checkpoints": "checkpoint",
    "evaluate_step": "evaluation",
    "result": "verification",
    "advance": "rollout",
    "update": "update",
    "sync": "sync",
    "write_rollouts": "logging",
    "log": "logging",
    "finish": "summary",
    "run_steps": "between two of these",
    "build": "loading",
}
"""Functions on the stack, the first of which that is found says what a run was doing."""


def phase(output: str) -> str:
    """What the run was doing, by the stack that it has written."""
    stack = re.findall(r"^  File .* in (\w+)$", output, re.MULTILINE)
    return next((name for function, name in PHASES.items() if function in stack), "start or end")


def half_made(run: Path) -> list[Path]:
    """What was being written or deleted."""
    return [*run.rglob("*.partial"), *run.rglob(".*.deleted")]


def begun(run: Path) -> int:
    """Changes when the loop begins: the file number of metrics.jsonl, which is then made anew."""
    log = run / "metrics.jsonl"
    return log.stat().st_ino if log.exists() else 0


def num_steps(run: Path) -> int:
    """Steps that are in the log."""
    log = run / "metrics.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def kill_once(words: list[str], run: Path, since: str, wait_s: float, log: Path) -> bool:
    """Starts the run and kills it `wait_s` after its start, its loop or its first step; False when
    it had finished before. What it says goes to `log`: a pipe would stay open as long as a process
    that it had started."""
    before, start = begun(run), time.monotonic()
    with log.open("w") as file:
        process = subprocess.Popen([*COMMAND, *words], stdout=file, stderr=subprocess.STDOUT)

    def wait_for(event: Callable[[], bool]) -> None:
        while not event() and process.poll() is None:
            if time.monotonic() - start > 300:
                process.kill()
                raise SystemExit("the run did not start in 300 s")
            time.sleep(0.005)

    if since != "start":
        wait_for(lambda: begun(run) not in (0, before))
    if since == "step":
        done = num_steps(run)
        wait_for(lambda: num_steps(run) > done)
    try:
        code = process.wait(timeout=wait_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGUSR1)
        time.sleep(0.005)
        process.kill()
        process.wait()
        return True
    if code:
        raise SystemExit(f"the run ended with {code}:\n{log.read_text()[-3000:]}")
    return False


def unreadable(run: Path) -> list[str]:
    """Checkpoints that are not as they were written."""
    from rlvr.runs.checkpoint import damage, list_checkpoints

    return [f"{path.name}: {harm}" for path in list_checkpoints(run) if (harm := damage(path))]


def weights(checkpoint: Path) -> bytes:
    return (checkpoint / "adapter_model.safetensors").read_bytes()


def trainer_state(checkpoint: Path) -> dict:
    import torch

    return torch.load(checkpoint / "trainer_state" / "optimizer.pt", weights_only=True)


def different(one: object, other: object, path: str = "") -> list[str]:
    """Where two trees of dicts, lists and tensors are not equal, bit for bit."""
    import torch

    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [at for key in one for at in different(one[key], other[key], f"{path}/{key}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [at for i, x in enumerate(one) for at in different(x, other[i], f"{path}/{i}")]
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if torch.equal(one, other) else [path]
    return [] if one == other else [path]


def differences(run: Path, calm: Path, steps: int) -> list[str]:
    """What the killed run has otherwise than the calm one."""
    found = []
    last = Path("checkpoints") / f"step_{steps}"
    if weights(run / last) != weights(calm / last):
        found.append("weights")
    found += different(trainer_state(run / last), trainer_state(calm / last))
    if read_metrics(run) != read_metrics(calm):
        found.append("metrics.jsonl")
    for path in [*(calm / "eval").iterdir(), *(calm / "rollouts").iterdir()]:
        again = run / path.relative_to(calm)
        if not again.exists() or again.read_bytes() != path.read_bytes():
            found.append(str(path.relative_to(calm)))
    return found + [f"left over: {path.relative_to(run)}" for path in half_made(run)]


def run_check(kills: int, seed: int, steps: int, folder: Path, settings: list[str]) -> dict:
    """The result of `kills` kills of one run of `steps` steps."""
    recipe = write_recipe(folder, steps, checkpoint_every=1, eval_every=2)
    begin = [str(recipe), "--rollout.engine", "vllm", *settings]
    runs = folder / "runs"
    calm, run = runs / "calm", runs / "killed"
    start = time.monotonic()
    done = subprocess.run([*COMMAND, *begin, "--run.name", "calm"], check=False)
    if done.returncode:
        raise SystemExit(f"the calm run ended with {done.returncode}")
    whole_s = time.monotonic() - start
    seconds = json.loads((calm / "summary.json").read_text())["seconds"]
    draw, hit, damaged = random.Random(seed), Counter(), []
    num_kills, log = 0, folder / "output.log"

    def words() -> list[str]:
        return ["--resume", str(run)] if run.exists() else [*begin, "--run.name", run.name]

    while num_kills < kills:
        since = draw.choices(["step", "loop", "start"], [6, 1, 1])[0]
        longest = whole_s - seconds if since == "start" else 1.5 * seconds / steps
        if not kill_once(words(), run, since, draw.uniform(0, longest), log):
            break
        num_kills += 1
        where, half = phase(log.read_text(errors="replace")), [path.name for path in half_made(run)]
        hit[where] += 1
        damaged += unreadable(run)
        print(f"kill {num_kills}: {where}" + (f", half-made: {half}" if half else ""), flush=True)
    last = subprocess.run([*COMMAND, *words()], check=False, stdout=subprocess.DEVNULL)
    return {
        "kills": num_kills,
        "seed": seed,
        "hit": dict(hit),
        "unreadable": damaged,
        "exit": last.returncode,
        "different": differences(run, calm, steps),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, help="of the run; default: three per kill")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the result to this file")
    args, settings = parser.parse_known_args()
    with tempfile.TemporaryDirectory(prefix="rlvr-kill-") as folder:
        steps = args.steps or 3 * args.kills
        result = run_check(args.kills, args.seed, steps, Path(folder), settings)
    good = not (result["unreadable"] or result["different"] or result["exit"])
    print(json.dumps(result, indent=1))
    print("bit-identical after every kill" if good else "NOT identical")
    if result["kills"] < args.kills:
        print(f"the run was done after {result['kills']} kills: give more --steps")
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
