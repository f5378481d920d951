"""Run, comparison, lr-find and analysis folders of constructed numbers, in the agreed formats."""

import gzip
import json
import math
import random
from pathlib import Path
from typing import Any

from rlvr.config.needs import resolved
from rlvr.config.toml import dump_toml, validate
from rlvr.config.train import TrainRecipe
from rlvr.runs.metrics import METRICS
from rlvr.sampling.trace import COLUMNS

WORDS = """we first note that the sum of both sides is therefore equal to half of what remains so
multiply by three and subtract seven which gives the area hence each term divides evenly""".split()


def recipe(**sections: dict[str, Any]) -> dict[str, Any]:
    """A whole resolved recipe as nested dicts; keyword arguments change sections."""
    tree: dict[str, Any] = {
        "model": {"path": "models/tiny", "dtype": "float32", "max_len": 256},
        "data": {"path": "train.jsonl"},
        "optim": {"lr": 1e-4},
        "train": {"steps": 100},
        "rollout": {"max_response_len": 128},
        "adapter": {"method": "lora", "rank": 8},
        "eval": {"path": "test.jsonl"},
    }
    for name, values in sections.items():
        tree[name] = tree.get(name, {}) | values
    return resolved(validate(tree, TrainRecipe))


def healthy_rows(num_steps: int = 100, seed: int = 0, gain: float = 0.3) -> list[dict[str, Any]]:
    """metrics.jsonl of a run that learns: reward 0.4 to 0.4 + gain, calm everywhere else."""
    rng = random.Random(seed)
    rows = []
    for step in range(1, num_steps + 1):
        t = step / num_steps
        reward = 0.4 + gain * (1 - math.exp(-3 * t)) + rng.gauss(0, 0.03)
        leftover = rng.random() < 0.5
        rows.append(
            {
                "step": step,
                "reward/mean": reward,
                "reward/correct_frac": reward,
                "reward/wrong_frac": 0.98 - reward,
                "reward/no_answer_frac": 0.02,
                "reward/timeout_frac": 0.0,
                "reward/worker_died_frac": 0.0,
                "reward/gold_invalid_frac": 0.0,
                "verify/failure_frac": 0.0,
                "verify/kills": 0.0,
                "rollout/response_len_mean": 60 + 5 * t + rng.gauss(0, 2),
                "rollout/truncated_frac": abs(rng.gauss(0, 0.004)),
                "rollout/tokens_per_s": 9000 + rng.gauss(0, 500),
                "sampler/informative_frac": 0.8 - 0.25 * t + rng.gauss(0, 0.05),
                "sampler/rollouts_per_informative_group": 10 + 4 * t + rng.gauss(0, 0.5),
                "policy/loss": rng.gauss(0, 0.012),
                "policy/entropy": 0.5 - 0.15 * t + rng.gauss(0, 0.01),
                "policy/kl_ref": 0.02 * t,
                "policy/kl_engine": 1e-3 * rng.random() if leftover else 1e-9,
                "policy/clip_frac": 0.004 * rng.random() if leftover else 0.0,
                "policy/ratio_max": 1 + 2 * rng.random() if leftover else 1.00001,
                "optim/grad_norm": 0.15 + 0.03 * rng.random(),
                "optim/lr": 1e-4,
                "sync/logprob_error": 1e-5 * (1 + rng.random()),
                "time/rollout_s": 1 + 0.1 * rng.random(),
                "time/verify_s": 0.01,
                "time/train_s": 1.2,
                "time/sync_s": 0.05,
                "time/step_s": 2.3,
                "train/tokens_per_s": 7000.0,
                "memory/peak_gib": 3 + 0.2 * t,
            }
        )
    assert rows[0].keys() - {"step"} <= METRICS.keys()
    return rows


def rollout(rng: random.Random, problem: int, sample: int, num_words: int = 60) -> dict[str, Any]:
    """One rollout of plausible prose; sample decides the verdict."""
    reason = ("correct", "wrong", "no_answer")[(problem + sample) % 3]
    words = " ".join(rng.choice(WORDS) for _ in range(num_words))
    return {
        "problem_id": str(problem),
        "prompt": f"<|user|>Problem {problem}: what is half of {2 * problem}?<|assistant|>",
        "response": f"{words} {rng.random():.6f}\n\\boxed{{{problem + sample % 2}}}",
        "reward": float(reason == "correct"),
        "advantage": 1.2 if reason == "correct" else -0.6,
        "reason": reason,
        "response_len": num_words + 8,
        "truncated": False,
    }


def write_rollouts(folder: Path, step: int, rollouts: list[dict[str, Any]]) -> None:
    (folder / "rollouts").mkdir(exist_ok=True)
    with gzip.open(folder / "rollouts" / f"step_{step}.jsonl.gz", "wt", 1) as file:
        file.writelines(json.dumps(one) + "\n" for one in rollouts)


def write_trace(
    folder: Path, step: int, num_rows: int = 24, state: str = "paused"
) -> dict[str, Any]:
    """The trace of a step of 10 s: rows that end every second, the last third in `state`."""
    rng = random.Random(step)
    rows = []
    for i in rng.sample(range(num_rows), num_rows):
        seconds = -2.0 if i < 3 else 0.0, 1 + 4 * i / num_rows
        became = state if 3 * i >= 2 * num_rows else "ended"
        rows.append([i // 8, i % 8, *seconds, 0, 10 * i, 5 * (i < 3), 10, became])
    tree = {
        "seconds": 10.0,
        "phases": [["update", 6.0, 9.0], ["sync", 9.2, 9.9]],
        "ticks": [[1.0, 16], [2.0, 32]],
        "columns": list(COLUMNS),
        "rows": rows,
    }
    (folder / "trace").mkdir(exist_ok=True)
    (folder / "trace" / f"step_{step}.json").write_text(json.dumps(tree))
    return tree


def interval(value: float, half: float) -> dict[str, Any]:
    return {"value": value, "ci95": [value - half, value + half]}


def write_run(
    folder: Path,
    *,
    rows: list[dict[str, Any]] | None = None,
    rollouts_per_step: int = 16,
    steps_with_rollouts: int = 5,
    num_words: int = 60,
    seed: int = 0,
    **sections: dict[str, Any],
) -> Path:
    """A finished run; rows: its metrics."""
    rng = random.Random(seed)
    rows = healthy_rows(seed=seed) if rows is None else rows
    tree = recipe(**sections | {"train": {"steps": len(rows), "seed": seed}})
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(dump_toml(validate(tree, TrainRecipe)))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    facts = {
        "method": tree["adapter"]["method"],
        "modules": {
            f"model.layers.{i}.q_proj": {"shape": [64, 64], "dtype": "torch.float32", "rank": 8}
            for i in range(2)
        },
        "trainable_parameters": 123456,
        "trainable_frac": 0.05,
        "versions": {"torch": "2.13.0"},
        "data": {"source": "train.jsonl", "sha256": "0" * 64},
        "update_norms": {"model.layers.0.q_proj.weight": 0.12},
    }
    (folder / "manifest.json").write_text(json.dumps(facts))
    (folder / "eval").mkdir()
    for step, value in ((0, 0.41), (len(rows), 0.41 + 0.28)):
        fractions = [float(i < 200 * value) for i in range(200)]
        accuracy = {"value": value, "lo": value - 0.06, "hi": value + 0.06}
        (folder / "eval" / f"step_{step}.json").write_text(
            json.dumps({"accuracy": accuracy, "fractions": fractions, "texts": []})
        )
    summary = {
        "seconds": 230.0,
        "steps": len(rows),
        "accuracy_before": 0.41,
        "accuracy_before_ci95": [0.35, 0.47],
        "accuracy_after": 0.69,
        "accuracy_after_ci95": [0.63, 0.75],
        "difference": 0.28,
        "difference_ci95": [0.21, 0.35],
        "num_problems": 200,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    for row in rows[:2] + rows[-1:]:
        write_trace(folder, row["step"])
    for row in rows[-steps_with_rollouts:] if steps_with_rollouts else []:
        rollouts = [
            rollout(rng, 8 * row["step"] + i // 8, i % 8, num_words)
            for i in range(rollouts_per_step)
        ]
        write_rollouts(folder, row["step"], rollouts)
    return folder


def lr_find(method: str, best: float, noise: float = 0.01) -> dict[str, Any]:
    """A find whose parabola has its vertex at `best`; the highest rate was stopped."""
    rng = random.Random(method)
    u = math.log(best)
    c2, peak = -0.03, 0.7
    points = [
        {
            "lr": lr,
            "seed": seed,
            "value": peak + c2 * (math.log(lr) - u) ** 2 + rng.gauss(0, noise),
            "steps": 20,
            "stopped": None,
        }
        for lr in (best * 1.778**k for k in range(-4, 4))
        for seed in (0, 1)
    ]
    points.append(
        {"lr": best * 1.778**4, "seed": 0, "value": 0.2, "steps": 6, "stopped": "grad_norm"}
    )
    coefficients = [peak + c2 * u * u, -2 * c2 * u, c2]
    return {
        "method": method,
        "rank": 8,
        "prior": {"lr": best * 1.3, "ratio_to_lora": 1.3, "eigenvalue": 2, "eigenvalue_lora": 2.6},
        "points": points,
        "fit": {
            "vertex_lr": best,
            "ci95": [best / 1.3, best * 1.3],
            "curvature": c2,
            "peak": peak,
            "r2": 0.97,
            "coefficients": coefficients,
        },
        "best_measured_lr": best,
        "chosen_lr": best,
        "chosen_by": "fit",
        "warnings": [],
    }


METHODS = {"lora": 2e-3, "dora": 1.1e-3, "pissa": 2e-4, "full": 2e-4}


def write_comparison(folder: Path, num_seeds: int = 3, num_steps: int = 40) -> Path:
    """Four methods by three seeds, with learning-rate finds and an analysis of one run."""
    for i, (label, lr) in enumerate(METHODS.items()):
        for seed in range(num_seeds):
            write_run(
                folder / "runs" / f"{label}-{seed}",
                rows=healthy_rows(num_steps, seed=10 * i + seed, gain=0.2 + 0.05 * i),
                steps_with_rollouts=2,
                seed=seed,
                adapter={"method": label} | ({"rank": 8} if label != "full" else {}),
                optim={"lr": lr},
            )
    tree = {
        "name": "adapters on sums",
        "created": "2026-01-05 10:00:00",
        "rlvr_commit": "abc1234",
        "recipe": 'base = "base.toml"\nmethods = ["lora", "dora", "pissa", "full"]\n',
        "metric": "eval/accuracy",
        "budget": {"steps": num_steps},
        "matched": ["data order", "prompts", "generation seeds", "modules"],
        "unmatched": ["parameters: 123,456 to 493,824"],
        "allow_unmatched": True,
        "methods": [
            compared_method(i, label, lr, num_seeds, num_steps)
            for i, (label, lr) in enumerate(METHODS.items())
        ],
        "pairs": [
            compared_pair(i, j) for i in range(len(METHODS)) for j in range(len(METHODS)) if i > j
        ],
        "lr_finds": [lr_find(label, lr) for label, lr in METHODS.items()],
        "pruned": [{"label": "pissa", "seed": 3, "rung": 1, "steps": 10, "value": 0.31}],
        "sentences": ["dora and lora are not distinguishable here: +3.0 [-1.0, 7.0] points."],
    }
    (folder / "comparison.json").write_text(json.dumps(tree))
    write_analysis(folder / "runs" / "lora-0")
    write_analysis(folder / "runs" / "full-0", tail=0.97)
    return folder


def compared_method(
    i: int, label: str, lr: float, num_seeds: int, num_steps: int
) -> dict[str, Any]:
    """The i-th method in comparison.json, three points better than the one before."""
    cost = {"peak_gib": 3.1, "sync_bytes": 2_362_368}
    runs = [
        {
            "seed": seed,
            "run": f"runs/{label}-{seed}",
            "accuracy": 0.65 + 0.03 * i,
            "accuracy_before": 0.41,
            "reward_last": 0.7,
            "tokens": 900_000,
            "seconds": 120.0,
            "status": "finished",
            "steps": num_steps,
        }
        | cost
        for seed in range(num_seeds)
    ]
    return cost | {
        "label": label,
        "method": label,
        "rank": 8,
        "lr": lr,
        "lr_source": "find",
        "num_params": 123_456 * (i + 1),
        "accuracy": interval(0.65 + 0.03 * i, 0.04),
        "gain": interval(0.24 + 0.03 * i, 0.035),
        "tokens": 2_700_000,
        "seconds": 360.0,
        "forgetting": None,
        "runs": runs,
    }


def compared_pair(i: int, j: int) -> dict[str, Any]:
    """The difference of the i-th and the j-th method, i above j."""
    labels = list(METHODS)
    return {
        "a": labels[i],
        "b": labels[j],
        "difference": interval(0.03 * (i - j), 0.04),
        "p": 0.3 / (i - j) ** 3,
        "p_holm": min(1.0, 0.9 / (i - j) ** 3),
        "text": f"{labels[i]} and {labels[j]}: {3 * (i - j):+.1f} points.",
    }


def write_analysis(folder: Path, tail: float = 0.8) -> Path:
    """analysis.json of 4 layers x 3 kinds; tail: how slowly the singular values fall."""
    folder.mkdir(parents=True, exist_ok=True)
    modules, profiles = [], []
    for layer in range(4):
        for i, kind in enumerate(("q_proj", "v_proj", "down_proj")):
            values = [0.3 * tail ** (k * (1 + 0.1 * i + 0.05 * layer)) for k in range(64)]
            modules.append(
                {
                    "name": f"model.layers.{layer}.{kind}",
                    "layer": layer,
                    "kind": kind,
                    "shape": [64, 64],
                    "norm": math.sqrt(sum(v * v for v in values)),
                    "relative_norm": 0.01 * (1 + i),
                    "rank90": 6 + i,
                    "stable_rank": 3.0 + i,
                    "energy": [[k / 32, (k / 32) ** (1.2 + 0.3 * i)] for k in range(33)],
                    "energy_top10": 0.05,
                    "principal_angles_deg": [60 + 3 * k for k in range(8)],
                    "changed_bf16_frac": 0.2,
                    "sparsity": 0.01,
                    "singular_values": values,
                }
            )
        for what in ("update q_proj", "update v_proj", "attention"):
            cuts = list(range(1, 12))
            entropy = [0.3 * min(c, 12 - c) + 0.05 * layer for c in cuts]
            profiles.append(
                {"name": f"{what} {layer}", "what": what, "layer": layer}
                | {"cuts": cuts, "entropy": entropy}
            )
    tree = {
        "checkpoint": "checkpoints/step_40",
        "base": "models/tiny",
        "method": "lora",
        "modules": modules,
        "by_layer": [{"layer": layer, "norm": 0.5 + 0.1 * layer} for layer in range(4)],
        "curvature": {"whole": 12.5, "modules": {m["name"]: 1.5 for m in modules}},
        "entanglement": profiles,
        "forgetting": {
            "hellaswag": interval(0.41, 0.02),
            "mean": interval(0.4, 0.015),
            "before": {"hellaswag": interval(0.43, 0.02), "mean": interval(0.42, 0.015)},
        },
        "diversity": {"unique_answers": 3.2, "unique_outputs": 7.6},
    }
    (folder / "analysis.json").write_text(json.dumps(tree))
    return folder
