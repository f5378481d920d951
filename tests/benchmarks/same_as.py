"""Runs this checkout and another revision on the same work and says what came out different.

    python -m tests.benchmarks.same_as REV [--only lora two_ranks verify] [--keep FOLDER]

For a change that should change no number, such as moving code. Compared bit for bit: every metric
of six steps of the quickstart but times and memory, the evaluation, the tensors of the last
checkpoint (LoRA, full fine-tuning, DoRA, PiSSA; asynchronous; stopped by SIGINT and resumed; two
ranks), the verdicts of `rlvr verify` on --pairs, and the scores of `rlvr eval --generations`.
Exit code 0 when all are equal. Only the command line is used, so that any revision can be asked.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CLI = [sys.executable, "-m", "rlvr.cli"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
STEPS = 6
SETTINGS = {
    "train.steps": STEPS,
    "train.checkpoint_every": 2,
    "eval.every": 3,
    "eval.limit": 100,
    "rollout.prompts_per_step": 8,
    "track.wandb": "disabled",
    "run.name": "run",
}
RUNS: dict[str, list[str]] = {
    "lora": [],
    "full": ["--adapter.method", "full"],
    "dora": ["--adapter.method", "dora", "--optim.lr", "2e-3"],
    "pissa": ["--adapter.method", "pissa", "--optim.lr", "2e-4"],
    "async": ["--rollout.mode", "async"],
    "resumed": [],
    "two_ranks": [],
}
"""Each run's settings beside SETTINGS; the last two are also started or stopped in another way."""

CLOCK = ("time/", "memory/", "verify/p", "rollout/tokens_per_s", "train/tokens_per_s", "timestamp")
"""Starts of the names of what a clock or the machine decides."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rev", help="the revision to compare with")
    parser.add_argument("--only", nargs="+", choices=[*RUNS, "verify", "generations"])
    parser.add_argument("--pairs", type=Path, default=ROOT.parent / "shared/verifier/cases.jsonl")
    parser.add_argument("--keep", type=Path, help="leave the runs of both revisions here")
    args = parser.parse_args()
    wanted = args.only or [*RUNS, "verify", "generations"]
    num_different = 0
    with tempfile.TemporaryDirectory(prefix="rlvr-same-") as scratch, checkout(args.rev) as other:
        work = args.keep or Path(scratch)
        for name in wanted:
            results = [
                outcome(name, tree, work / label / name, args.pairs)
                for label, tree in (("other", other), ("this", ROOT))
            ]
            rows = list(differences(*results))
            num_different += bool(rows)
            print(f"{name}: {'equal' if not rows else f'{len(rows)} differences'}", flush=True)
            for row in rows[:10]:
                print(f"    {row}", flush=True)
    return int(num_different > 0)


@contextmanager
def checkout(rev: str) -> Iterator[Path]:
    """A worktree of the revision that shares this checkout's cached warm start."""
    with tempfile.TemporaryDirectory(prefix="rlvr-rev-") as folder:
        tree = Path(folder) / "tree"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", "--quiet", str(tree), rev], check=True)
        try:
            cache = ROOT / ".cache"
            cache.mkdir(exist_ok=True)
            (tree / ".cache").symlink_to(cache)
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def outcome(name: str, tree: Path, folder: Path, pairs: Path) -> dict[str, Any]:
    """Everything about one piece of work that must not change, by a name for each."""
    folder.mkdir(parents=True)
    special: dict[str, Callable[..., dict[str, Any]]] = {
        "verify": verdicts,
        "generations": scores,
    }
    if name in special:
        return special[name](tree, folder, pairs)
    settings = [word for k, v in SETTINGS.items() for word in (f"--{k}", str(v))]
    train = ["train", "recipes/quickstart.toml", *settings, "--run.dir", str(folder), *RUNS[name]]
    if name == "two_ranks":
        run([*TORCHRUN, "-m", "rlvr.cli", *train], tree, folder)
    elif name == "resumed":
        interrupt([*CLI, *train], tree, folder)
        run([*CLI, "train", "--resume", str(folder / "run")], tree, folder)
    else:
        run([*CLI, *train], tree, folder)
    return run_results(folder / "run")


def environment(tree: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}


def run(command: list[str], tree: Path, folder: Path, stdin: bytes | None = None) -> bytes:
    """The command's standard output. Raises: SystemExit with the end of its log."""
    with (folder / "log.txt").open("ab") as log:
        done = subprocess.run(
            command,
            cwd=tree,
            env=environment(tree),
            stdout=subprocess.PIPE,
            stderr=log,
            input=stdin,
        )
    if done.returncode:
        log_text = (folder / "log.txt").read_text(errors="replace")[-2000:]
        sys.exit(f"{' '.join(command)} in {tree}: exit code {done.returncode}\n{log_text}")
    return done.stdout


def interrupt(command: list[str], tree: Path, folder: Path) -> None:
    """Starts the run and stops it by SIGINT once it has logged two steps."""
    metrics = folder / "run/metrics.jsonl"
    with (folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(command, cwd=tree, env=environment(tree), stdout=log, stderr=log)
        while process.poll() is None:
            if metrics.exists() and metrics.read_bytes().count(b"\n") >= 2:
                process.send_signal(signal.SIGINT)
                process.wait()
            time.sleep(0.05)
    if process.returncode != 128 + signal.SIGINT:
        sys.exit(f"{folder}: the run was to be stopped, and ended with {process.returncode}")


def run_results(folder: Path) -> dict[str, Any]:
    """Metrics by step and name, evaluations by file, a hash of every tensor that was trained."""
    found: dict[str, Any] = {}
    for line in (folder / "metrics.jsonl").read_bytes().split(b"\n"):
        if line:
            row = json.loads(line)
            step = row.get("step")
            found |= {f"step {step} {k}": v for k, v in row.items() if not k.startswith(CLOCK)}
    for file in sorted((folder / "eval").glob("*.json")):
        found[f"eval {file.name}"] = without_clock(json.loads(file.read_bytes()))
    return found | tensor_hashes(folder / "checkpoints" / f"step_{STEPS}")


def without_clock(value: Any) -> Any:
    """The value without times, and without the path that a benchmark's file was found at."""
    if isinstance(value, dict):
        left_out = {"seconds", "found"}
        kept = {k: v for k, v in value.items() if "time" not in k and k not in left_out}
        return {k: without_clock(v) for k, v in kept.items()}
    return [without_clock(v) for v in value] if isinstance(value, list) else value


def tensor_hashes(checkpoint: Path) -> dict[str, Any]:
    import torch
    from safetensors import safe_open

    hashes = {}
    for file in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a dict)
                value = tensors.get_tensor(name)
                data = value.contiguous().flatten().view(torch.uint8)
                hashes[f"tensor {name}"] = hashlib.sha256(data.numpy().tobytes()).hexdigest()
    if not hashes:
        sys.exit(f"{checkpoint}: no tensors")
    return hashes


def verdicts(tree: Path, folder: Path, pairs: Path) -> dict[str, Any]:
    """The output of `rlvr verify` by line, without the milliseconds."""
    if not pairs.exists():
        sys.exit(f"{pairs}: no such file; give --pairs")
    output = run([*CLI, "verify"], tree, folder, pairs.read_bytes())
    lines = [json.loads(line) for line in output.split(b"\n") if line]
    return {f"line {i}": {k: v for k, v in row.items() if k != "ms"} for i, row in enumerate(lines)}


def scores(tree: Path, folder: Path, pairs: Path) -> dict[str, Any]:
    """What `rlvr eval --generations` makes of the given responses, as a benchmark of their own."""
    rows = [json.loads(line) for line in pairs.read_bytes().split(b"\n") if line]
    rows = [
        row for row in rows if row["gold"].strip() and row.get("answer_mode", "boxed") == "boxed"
    ]
    benchmark, generations = folder / "pairs.jsonl", folder / "generations.jsonl"
    benchmark.write_text(
        "".join(
            json.dumps({"id": str(i), "problem": f"problem {i}", "answer": row["gold"]}) + "\n"
            for i, row in enumerate(rows)
        )
    )
    generations.write_text(
        "".join(
            json.dumps({"benchmark": "pairs", "id": str(i), "response": row["response"]}) + "\n"
            for i, row in enumerate(rows)
        )
    )
    out = folder / "scores"
    command = ["eval", "--generations", str(generations), "--benchmarks", f"pairs={benchmark}"]
    run([*CLI, *command, "--out", str(out)], tree, folder)
    return {"results": without_clock(json.loads((out / "results.json").read_bytes()))}


def differences(other: dict[str, Any], this: dict[str, Any]) -> Iterator[str]:
    for name in sorted(other.keys() | this.keys()):
        before, after = other.get(name, "nothing"), this.get(name, "nothing")
        if before != after:
            yield f"{name}: {str(before)[:80]} -> {str(after)[:80]}"


if __name__ == "__main__":
    sys.exit(main())
