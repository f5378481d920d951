"""A recipe small enough to be killed many times: a random policy, made-up problems."""

import json
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

VAGUE = ("time/", "memory/", "verify/", "rollout/tokens_per_s", "train/tokens_per_s")
"""Metrics that a clock or the machine decides."""


def write_recipe(folder: Path, steps: int, checkpoint_every: int, eval_every: int) -> Path:
    """A recipe, with its policy and its problems, in `folder`; runs go to `folder`/runs.

    No benchmark file is at hand then: runs do not compare their problems with them.
    """
    os.environ["RLVR_DATA"] = str(folder)
    from rlvr import tiny, word_problems
    from rlvr.config import TrainRecipe
    from rlvr.recipe import dump_toml, validate

    policy = folder / "policy"
    texts = [row["problem"] for row in word_problems.generate("sft", 300, seed=0)]
    tokenizer = tiny.build_tokenizer(texts)
    tiny.build_model(tokenizer, seed=0).save_pretrained(policy)
    tokenizer.save_pretrained(policy)
    problems = folder / "digits.jsonl"
    rows = [
        {"id": f"d{i}", "problem": f"Tom has {i} apples. What is 7?", "answer": str(i % 10)}
        for i in range(60)
    ]
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tree = {
        "model": {"path": str(policy), "dtype": "float32", "max_len": 160},
        "data": {"path": str(problems), "id_field": "id"},
        "rollout": {
            "engine": "transformers",
            "prompts_per_step": 2,
            "group_size": 8,
            "max_response_len": 32,
        },
        "sampling": {"max_refills": 40},
        "reward": {"answer_mode": "last_number", "num_workers": 1},
        "adapter": {"method": "lora", "rank": 4},
        "optim": {"lr": 1e-4},
        "train": {"steps": steps, "checkpoint_every": checkpoint_every, "num_threads": 1},
        "eval": {"path": str(problems), "limit": 10, "every": eval_every},
        "track": {"wandb": "disabled", "rollouts_per_step": 8},
        "run": {"dir": str(folder / "runs")},
    }
    path = folder / "recipe.toml"
    path.write_text(dump_toml(validate(tree, TrainRecipe)))
    return path


def read_metrics(run: Path) -> list[dict]:
    """metrics.jsonl, line by line, without what a clock or the machine decides."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(VAGUE)} for row in rows]
