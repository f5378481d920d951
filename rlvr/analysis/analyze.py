"""analysis.json: everything about one checkpoint, and two of them side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlvr.analysis.diversity import diversity, read_groups
from rlvr.analysis.entanglement import profile
from rlvr.analysis.spectrum import (
    TOP,
    entry_facts,
    module_facts,
    principal_angles,
    svd,
    svd_of_update,
)
from rlvr.analysis.stream import find_base, find_checkpoint, find_manifest, updates

ENTANGLED = ("q_proj", "v_proj")
"""Modules whose update's entanglement is profiled."""
COMPARED = (
    "norm",
    "relative_norm",
    "rank90",
    "stable_rank",
    "energy_top10",
    "changed_bf16_frac",
    "sparsity",
)


@dataclass(frozen=True)
class Options:
    """The parts of an analysis. layers: None for all; a path that is given asks for its part."""

    base: str | None = None
    layers: tuple[int, ...] | None = None
    data: Path | None = None
    curvature: bool = False
    attention: bool = False
    max_rows: int = 64
    multiple_choice: Sequence[Path] = ()
    harness: bool = False
    samples: Sequence[Path] = ()
    answer_mode: str = "boxed"


@dataclass(frozen=True)
class Analysis:
    """facts: as in analysis.json. tops: each module's first left singular vectors of dW."""

    facts: dict[str, Any]
    tops: dict[str, Tensor]


@torch.no_grad()
def analyze(path: Path, options: Options) -> Analysis:
    """Analyses one checkpoint or the newest of a run. Raises: ConfigError."""
    checkpoint = find_checkpoint(path)
    base = find_base(checkpoint, options.base)
    spread = (
        diversity(read_groups(options.samples), options.answer_mode) if options.samples else None
    )
    modules, others, profiles = [], [], []
    tops: dict[str, Tensor] = {}
    for update in updates(checkpoint, base, options.layers):
        if not update.is_matrix:
            others.append(entry_facts(update))
            continue
        found = svd_of_update(update)
        # torch decomposes no bfloat16
        modules.append(module_facts(update, svd(update.before.float()), found))
        # a copy: a view would keep every module's full decomposition in memory
        tops[update.name] = found.u[:, :TOP].clone()
        if update.kind in ENTANGLED:
            what = {"what": f"update {update.kind}", "layer": update.layer}
            profiles.append({"name": update.name} | what | asdict(profile(update.delta())))
    facts = {
        "checkpoint": str(checkpoint),
        "base": str(base),
        "method": find_manifest(checkpoint).get("method"),
        "modules": modules,
        "others": others,
        "by_layer": _by_layer(modules + others),
        "curvature": None,
        "entanglement": profiles,
        "forgetting": None,
        "diversity": spread,
    }
    if options.curvature or options.attention or options.multiple_choice or options.harness:
        _with_model(facts, checkpoint, base, options)
    return Analysis(facts, tops)


def _by_layer(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Frobenius norm of all that changed in each transformer block."""
    layers = sorted({e["layer"] for e in entries if e["layer"] is not None})
    return [
        {
            "layer": layer,
            "norm": sum(e["norm"] ** 2 for e in entries if e["layer"] == layer) ** 0.5,
        }
        for layer in layers
    ]


@torch.enable_grad()
def _with_model(facts: dict[str, Any], checkpoint: Path, base: Path, options: Options) -> None:
    """Adds curvature, attention and forgetting, which need the loaded model."""
    from rlvr.analysis import forgetting
    from rlvr.analysis.trained import attention_profiles, curvature, load_trained, read_token_rows

    policy = load_trained(checkpoint, base)
    if options.data is not None:
        rows = read_token_rows(options.data, policy.tokenizer, options.max_rows)
        if options.curvature:
            facts["curvature"] = curvature(policy, rows, options.layers)
        if options.attention:
            facts["entanglement"] += attention_profiles(policy, rows, options.layers)
    if options.multiple_choice or options.harness:
        after = forgetting.accuracies(policy, options.multiple_choice, options.harness)
        # before the base is loaded: two models at once may not fit
        del policy
        before = forgetting.accuracies(
            load_trained(base, base), options.multiple_choice, options.harness
        )
        facts["forgetting"] = after | {"before": before}


def side_by_side(a: Analysis, b: Analysis) -> dict[str, Any]:
    """The first analysis, with the second as "other" and "difference": b - a per module.

    shared_angles_deg: principal angles between the two updates' top left subspaces, 0 where they
    write into the same directions.
    """
    theirs = {module["name"]: module for module in b.facts["modules"]}
    difference = [
        {"name": m["name"], "layer": m["layer"], "kind": m["kind"]}
        | {key: theirs[m["name"]][key] - m[key] for key in COMPARED}
        | {"shared_angles_deg": _shared_angles(a.tops[m["name"]], b.tops[m["name"]])}
        for m in a.facts["modules"]
        # two methods may train different modules
        if m["name"] in theirs
    ]
    return a.facts | {"other": b.facts, "difference": {"modules": difference}}


def _shared_angles(a: Tensor, b: Tensor) -> list[float]:
    # two bases of other widths have no directions in common
    if a.shape[0] != b.shape[0]:
        return []
    size = min(a.shape[1], b.shape[1])
    return principal_angles(a[:, :size], b[:, :size]).tolist()
