"""manifest.json: what was really trained, read off the live objects and not off the recipe."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft import PeftModel

from rlvr.adapters.base import Setup
from rlvr.adapters.facts import (
    module_facts,
    optimizer_facts,
    peft_facts,
    tensor_norms,
    update_norms,
)
from rlvr.adapters.state import adapter_state
from rlvr.common.checkout import git_commit
from rlvr.common.errors import ConfigError
from rlvr.common.files import write_whole
from rlvr.common.machine import gpu_facts, versions
from rlvr.data.sft_examples import Examples
from rlvr.distributed.sharded_tensors import num_elements
from rlvr.policy.language_model import load_base
from rlvr.policy.loading import fingerprint
from rlvr.policy.policy import Policy

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from rlvr.config.sft import FinetuneRecipe
    from rlvr.config.train import ModelConfig, TrainRecipe
    from rlvr.data.problems import Dataset


def manifest(
    recipe: TrainRecipe | FinetuneRecipe,
    policy: Policy,
    optimizer: Optimizer,
    data: Dataset | Examples,
    engine: str,
    sync: str,
) -> dict:
    """JSON-ready facts about the run: modules, counts, types, data, versions."""
    total = sum(num_elements(p) for p in policy.causal_lm.parameters())
    trained = {n: p for n, p in policy.model.named_parameters() if p.requires_grad}
    count = sum(num_elements(p) for p in trained.values())
    # the rank that a parameter budget chose: the recipe says only the budget
    match = {"match": policy.adapter.match, "rank": policy.adapter.rank}
    return {
        "method": policy.method.name,
        "paper": policy.method.paper,
        "modules": module_facts(policy.model),
        "peft": peft_facts(policy.model),
        "optimizer": optimizer_facts(optimizer),
        "trainable_parameters": count,
        "total_parameters": total,
        "trainable_frac": count / total,
        "matched": match if policy.adapter.match else None,
        "trainable_dtypes": sorted({str(p.dtype) for p in trained.values()}),
        "compute_dtype": str(policy.dtype),
        "logits_check": policy.logits_check,
        "device": str(policy.device),
        "engine": engine,
        "sync": sync,
        "seed": recipe.train.seed,
        "adapter_seed": policy.adapter.seed,
        "model": policy.path,
        "model_weights": policy.base_weights,
        "start_from": start_facts(recipe.adapter.start_from),
        "data": data_facts(data),
        "versions": versions(),
        "gpu": gpu_facts(),
        "git_commit": git_commit(),
    }


def data_facts(data: Dataset | Examples) -> dict[str, Any]:
    """Source, sha256 and counts; where there are several sources, of each of them too."""
    facts = {
        "source": data.source,
        "sha256": data.sha256,
        "num_problems": len(data.rows if isinstance(data, Examples) else data.problems),
        "num_skipped": data.num_skipped,
    }
    if isinstance(data, Examples) or not data.sources:
        return facts
    used = Counter(problem.source for problem in data.problems)
    return facts | {
        "sources": [
            {
                "source": one.source,
                "sha256": one.sha256,
                "num_problems": used[number],
                "num_skipped": one.num_skipped + len(one.problems) - used[number],
            }
            for number, one in enumerate(data.sources)
        ]
    }


def start_facts(folder: str | None) -> dict[str, str | None] | None:
    """The folder of adapter.start_from with a fingerprint of its files; None without one."""
    return None if folder is None else {"folder": folder, "weights": fingerprint(folder)}


def check_same_start(folder: str | None, recorded: dict[str, str | None] | None) -> None:
    """Raises: ConfigError where adapter.start_from is not what the run began with."""
    then, now = (recorded or {}).get("weights"), (start_facts(folder) or {}).get("weights")
    if now != then:
        raise ConfigError(
            f"adapter.start_from = {folder!r}: has changed since the run began (weights {now}, was"
            f" {then}); put the old folder back, or start a new run"
        )


def finish_manifest(
    path: Path, policy: Policy, model: ModelConfig, num_bytes: int | None = None
) -> None:
    """Adds to the manifest at `path` what is known at the end: update norms, bytes of a sync.

    update_norms: by weight of the base where the update merges into weights, else by trained
    tensor. model: where the policy came from. num_bytes: None where there is no engine.
    """
    facts = json.loads(path.read_text())
    if policy.method.merges and isinstance(policy.model, PeftModel):
        facts["update_norms"] = update_norms(policy.model)
    else:
        base, _ = load_base(model, policy.path)
        if policy.method.merges:
            facts["update_norms"] = update_norms(policy.model, base.state_dict())
        else:
            base.to(policy.device)  # draws depend on the device
            start = policy.method.apply(base, Setup(policy.adapter, policy.adapter.seed or 0))
            facts["update_norms"] = tensor_norms(adapter_state(policy.model), adapter_state(start))
    if num_bytes is not None:
        facts["sync_bytes"] = num_bytes
    if policy.strategy.world.is_main:
        write_whole(path, json.dumps(facts, indent=1))
