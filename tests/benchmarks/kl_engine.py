"""Engine against trainer by rounding alone: policy/kl_engine of real runs in bfloat16.

    python -m tests.benchmarks.kl_engine [--json FILE]

A random policy whose head is scaled so that logits reach 15 to 30, as a pretrained model's, makes a
few steps at a learning rate that moves nothing. Prints a row per engine and policy.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.rlvr.small import read_lines, recipe_tree, write_problems

LOGIT_STD = 6.0
POLICIES = {"2 layers of 128": (2, 128, 4, 2), "12 layers of 512": (12, 512, 8, 2)}
"""num_layers, hidden_size, num_heads, num_kv_heads."""
ENGINES = ("vllm", "transformers")
"""The second, slow, runs the first policy only."""
METRICS = ("policy/kl_engine", "policy/ratio_max", "sync/logprob_error_mean")


def write_policy(folder: Path, shape: tuple[int, int, int, int]) -> Path:
    """A random Qwen2 of this shape with logits of a pretrained model's size."""
    import torch

    from rlvr.data import word_problems
    from rlvr.warm_start import tiny_model as tiny

    texts = [row["problem"] for row in word_problems.generate("sft", 300, seed=0)]
    tokenizer = tiny.build_tokenizer(texts)
    names = ("num_layers", "hidden_size", "num_heads", "num_kv_heads")
    sizes = dict(zip(names, shape, strict=True))
    model = tiny.build_model(tokenizer, seed=0, intermediate_size=3 * shape[1], **sizes)
    ids = torch.arange(len(tokenizer)).unsqueeze(0)[:, :256]
    with torch.no_grad():
        model.lm_head.weight *= LOGIT_STD / float(model(ids).logits.std())
        print(f"largest logit {float(model(ids).logits.abs().max()):.1f}", flush=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def run(policy: Path, engine: str, folder: Path) -> dict[str, float]:
    """Means of METRICS over the steps of a run, policy/ratio_max the largest."""
    from rlvr.config.toml import dump_toml, validate
    from rlvr.config.train import TrainRecipe
    from rlvr.training.loop import train

    tree: dict[str, Any] = recipe_tree(
        policy,
        write_problems(folder / "problems.jsonl"),
        model={"dtype": "bfloat16"},
        run={"dir": str(folder), "name": engine},
        rollout={"engine": engine, "prompts_per_step": 8, "group_size": 8, "max_response_len": 96},
        sampling={"dynamic": False, "max_refills": 0},
        optim={"lr": 1e-12},
        algorithm={"kl_beta": 0.01},  # else only groups with unlike rewards are trained on
        train={"steps": 4, "checkpoint_every": 0},
    )
    recipe = validate(tree, TrainRecipe)
    path = folder / "recipe.toml"
    path.write_text(dump_toml(recipe))
    rows = read_lines(train(recipe, path, Console(quiet=True)))
    found = {name: sum(row[name] for row in rows) / len(rows) for name in METRICS}
    return found | {METRICS[1]: max(row[METRICS[1]] for row in rows)}


def main() -> None:
    parser = argparse.ArgumentParser(description="engine against trainer, by rounding alone")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for number, (policy, shape) in enumerate(POLICIES.items()):
            path = write_policy(Path(name) / f"policy{number}", shape)
            for engine in ENGINES[: 2 - number]:
                folder = Path(name) / f"{number}-{engine}"
                folder.mkdir()
                rows.append({"policy": policy, "engine": engine} | run(path, engine, folder))
    print(f"| policy | engine | {' | '.join(METRICS)} |")
    print(f"|---|---|{'---:|' * len(METRICS)}")
    for row in rows:
        numbers = " | ".join(f"{row[name]:.3g}" for name in METRICS)
        print(f"| {row['policy']} | {row['engine']} | {numbers} |")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
