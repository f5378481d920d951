"""The smallest things that train: a random policy, made-up problems, a recipe over both."""

import json
from pathlib import Path
from typing import Any


def write_policy(folder: Path, logit_std: float | None = None) -> Path:
    """A random Qwen2 of 0.6 M parameters with the quickstart's tokenizer, as a plain folder.

    logit_std: scales the head so that logits have this standard deviation. Pretrained models have
    logits of 15 to 30 (logit_std 6), where bfloat16 rounds by up to 0.06; the head as initialised
    gives 0.2, where rounding is invisible.
    """
    import torch

    from rlvr.data import word_problems
    from rlvr.warm_start import tiny_model as tiny

    texts = [row["problem"] for row in word_problems.generate("sft", 300, seed=0)]
    tokenizer = tiny.build_tokenizer(texts)
    model = tiny.build_model(tokenizer, seed=0)
    if logit_std is not None:
        ids = torch.arange(len(tokenizer)).unsqueeze(0)[:, :256]
        with torch.no_grad():
            model.lm_head.weight *= logit_std / float(model(ids).logits.std())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_problems(path: Path) -> Path:
    """Problems with one-digit answers: a random policy hits one now and then as its last number."""
    rows = [
        {"id": f"d{i}", "problem": f"Tom has {i} apples. What is 7?", "answer": str(i % 10)}
        for i in range(60)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def recipe_tree(policy: Path, problems: Path, **sections: Any) -> dict[str, Any]:
    """Nested dicts of a small recipe; keyword arguments replace or add keys of sections. stage: the
    tables of [[stage]]."""
    base: dict[str, Any] = {
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
        "optim": {"lr": 1e-3},
        "train": {"steps": 3, "checkpoint_every": 1},
        "track": {"wandb": "disabled"},
    }
    for name, values in sections.items():
        base[name] = values if name == "stage" else base.get(name, {}) | values
    return base


VAGUE = (
    "time/",
    "memory/",
    "perf/",
    "verify/p",
    "rollout/tokens_per_s",
    "rollout/cache_peak_frac",
    "train/tokens_per_s",
)
"""Starts of the names of metrics that a clock or the machine decides."""


def read_lines(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl as it is, line by line: a line too many or cut off is not mended."""
    return [json.loads(line) for line in (run / "metrics.jsonl").open()]


def steady(metrics: dict[str, Any], *vague: str) -> dict[str, Any]:
    """Those of the metrics that neither a clock nor the machine decides; vague: leaves out more."""
    return {k: v for k, v in metrics.items() if not k.startswith(VAGUE + vague)}


def steady_metrics(run: Path, *vague: str) -> list[dict[str, Any]]:
    """What every line of metrics.jsonl has that is `steady`."""
    return [steady(row, *vague) for row in read_lines(run)]
