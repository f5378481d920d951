"""Rates of the machine at hand, fitted to real steps of the recipe, and the error on others."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import nnls

from eval.formats.jsonl import read_objects
from rlvr.common.checkout import cache_dir
from rlvr.common.errors import RunError
from rlvr.common.gpus import gpu_named
from rlvr.plan.generation import decoding_steps
from rlvr.plan.rates import Rates
from rlvr.runs.reader import read_metrics, rollout_files

if TYPE_CHECKING:
    from rlvr.config.train import TrainRecipe

STEPS = 8
"""Steps of each calibration run; the first warms up and is left out."""
ROUNDS = 30
"""Of reweighting; the fit has settled long before."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One step of a run: its metrics and the lengths of all its responses (tokens)."""

    metrics: dict[str, float]
    lengths: list[int]


def device_name() -> str:
    """What rates are stored under: a GPU's name as --gpus takes it, where it has one there."""
    import torch

    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        gpu = gpu_named(name)
        return gpu.name if gpu else name.replace(" ", "-")
    return f"{platform.machine()}-{len(os.sched_getaffinity(0))}-cores"


def rates_path(name: str | None = None) -> Path:
    """Where a device's measured rates are kept."""
    return cache_dir() / "plan" / f"{name or device_name()}.json"


def measured_steps(folder: Path) -> list[Measured]:
    """The steps of a finished run whose rollouts were all recorded, without the first: it warms
    up."""
    files = rollout_files(folder)
    return [Measured(row, _lengths(files[row["step"]])) for row in read_metrics(folder)[1:]]


def _lengths(rollouts: Path) -> list[int]:
    return [rollout["response_len"] for _, rollout in read_objects(rollouts)]


def run_steps(recipe_path: Path, settings: list[str], folder: Path, name: str) -> list[Measured]:
    """Runs a few real steps of the recipe in a process of its own. Raises: RunError."""
    fixed = {
        "train.steps": STEPS,
        "train.checkpoint_every": 0,
        "sampling.dynamic": "false",  # refills would make the work of a step a matter of chance
        "track.to": "[]",
        "track.rollouts_per_step": 10**6,  # the fit needs the length of every response
        "eval.limit": 1,
        "run.dir": folder,
        "run.name": name,
    }
    words = [part for key, value in fixed.items() for part in (f"--{key}", str(value))]
    command = [sys.executable, "-m", "rlvr.cli", "train", str(recipe_path), *words, *settings]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RunError(f"calibration: the recipe's own steps failed: {last}")
    return measured_steps(folder / name)


def calibrate(recipe: TrainRecipe, recipe_path: Path, modelled_gib: float) -> Rates:
    """Fits the rates to steps of two sizes. modelled_gib: memory without the runtime's own."""
    wanted = recipe.rollout.prompts_per_step
    steps: list[Measured] = []
    with tempfile.TemporaryDirectory() as folder:
        # one size could not tell what a step costs from what a token costs
        for prompts in sorted({max(2, wanted // 4), wanted}):
            settings = ["--rollout.prompts_per_step", str(prompts)]
            steps += run_steps(recipe_path, settings, Path(folder), f"prompts-{prompts}")
    return fit(steps, recipe.rollout.max_num_seqs, modelled_gib)


def fit(steps: list[Measured], slots: int, modelled_gib: float) -> Rates:
    """The phases' seconds fitted to what they worked through, with coefficients that are not
    negative. A step that another process has slowed down counts little: absolute errors and
    medians."""
    work = [decoding_steps(step.lengths, slots) for step in steps]
    seconds = _values(steps, "time/rollout_s")
    generation = [[s, tokens, len(m.lengths)] for (s, tokens), m in zip(work, steps, strict=True)]
    decode_step, decode_seq, request = _fit(generation, seconds)
    update, trained = _values(steps, "time/train_s"), [_trained_tokens(s.metrics) for s in steps]
    update_s, token_s = _fit([[1, tokens] for tokens in trained], update)
    total, sync = _values(steps, "time/step_s"), _values(steps, "time/sync_s")
    verify = _values(steps, "time/verify_s")
    pairs = [seconds / len(step.lengths) for seconds, step in zip(verify, steps, strict=True)]
    parts = zip(total, seconds, update, sync, strict=True)
    peak = max(_values(steps, "memory/peak_gib"))
    return Rates(
        decode_step_s=decode_step,
        decode_seq_s=decode_seq,
        request_s=request,
        update_s=update_s,
        update_token_s=token_s,
        sync_s=statistics.median(sync),
        verify_pair_s=statistics.median(pairs),
        other_s=max(0.0, statistics.median(whole - r - u - s for whole, r, u, s in parts)),
        runtime_gib=max(0.0, peak - modelled_gib),
        origin=f"{len(steps)} measured steps on {device_name()}",
    )


def _values(steps: list[Measured], name: str) -> list[float]:
    return [step.metrics[name] for step in steps]


def _trained_tokens(metrics: dict[str, float]) -> float:
    # a step whose update was skipped trained no token
    return metrics.get("train/tokens_per_s", 0.0) * metrics["time/train_s"]


def _fit(rows: Sequence[Sequence[float]], seconds: Sequence[float]) -> list[float]:
    """Coefficients >= 0 of the least sum of absolute relative errors: non-negative least squares,
    reweighted by what is left. Every column is scaled to 1."""
    matrix, wanted = np.array(rows, dtype=float), np.array(seconds)
    scale = matrix.max(axis=0)
    scale[scale == 0] = 1.0
    matrix = matrix / scale / wanted[:, None]
    weights, solution = np.ones(len(wanted)), np.zeros(len(scale))
    for _ in range(ROUNDS):
        solution, _ = nnls(matrix * weights[:, None], weights)
        # weighted by 1 / |residual|, squares add up to absolute values
        weights = 1 / np.sqrt(np.maximum(np.abs(matrix @ solution - 1), 1e-3))
    return [float(x) for x in solution / scale]


def recorded(folder: Path) -> dict[str, Any]:
    """Lengths, groups generated per informative one, and tokens that the update computes for one of
    prompts_per_step x group_size responses, of a run that has been made."""
    rollout = tomllib.loads((folder / "config.toml").read_text())["rollout"]
    rows = read_metrics(folder)
    shares = [r["sampler/informative_frac"] for r in rows if "sampler/informative_frac" in r]
    num_rows = rollout["prompts_per_step"] * rollout["group_size"]
    return {
        "lengths": [n for path in rollout_files(folder).values() for n in _lengths(path)],
        "informative_frac": statistics.mean(shares),
        "tokens_per_row": statistics.mean(map(_trained_tokens, rows)) / num_rows,
    }
