"""A whole search: LoRA first, the others around their priors, then the law of earlier searches."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlvr.compare.execution.executors import RunTasks
from rlvr.compare.learning_rate.find import LrFind, find_rates
from rlvr.compare.learning_rate.prior import REFERENCE, priors_from
from rlvr.compare.learning_rate.transfer import (
    PastSearch,
    describe_laws,
    recall,
    remember,
    store_path,
)
from rlvr.compare.resolve import Comparison

if TYPE_CHECKING:
    from rich.console import Console

    from rlvr.config.train import TrainRecipe


def search(
    comparison: Comparison, labels: Sequence[str], run: RunTasks, console: Console
) -> dict[str, LrFind]:
    """The rates found, without labels whose every run failed; writes lr_find-LABEL.json files.

    With the curvature prior LoRA is searched first, around its reference_lr; where the recipe has
    no LoRA, find.reference_lr stands for its rate. A label with a reference_lr has no prior.
    """
    found = _find_all(comparison, labels, run, console)
    for label in labels:
        if label not in found:
            console.print(f"{label}: every short run failed; see logs/ for the reasons")
            continue
        comparison.folder.mkdir(parents=True, exist_ok=True)
        tree = found[label].to_json()
        (comparison.folder / f"lr_find-{label}.json").write_text(json.dumps(tree, indent=1))
        report_find(comparison, label, found[label], console)
    return {label: found[label] for label in labels if label in found}


def _find_all(
    comparison: Comparison, labels: Sequence[str], run: RunTasks, console: Console
) -> dict[str, LrFind]:
    config = comparison.recipe.find
    if config.prior == "none":
        return find_rates(comparison, labels, run, {})
    from rlvr.compare.learning_rate.curvature import eigenvalues

    lora = [label for label in labels if comparison.method_name(label) == REFERENCE][:1]
    others = [label for label in labels if label not in lora]
    unknown = [label for label in others if comparison.recipe.methods[label].reference_lr is None]
    values = eigenvalues(comparison, lora + unknown, console) if unknown else {}
    found = find_rates(comparison, lora, run, {})  # before the others: their grids start from it
    lr_lora = found[lora[0]].chosen_lr if found else config.reference_lr
    priors = priors_from(values, lr_lora, config.prior_power) if unknown else {}
    return found | find_rates(comparison, others, run, priors)


def report_find(comparison: Comparison, label: str, find: LrFind, console: Console) -> None:
    """Says what was found and what earlier searches of the method would have said.

    Rates that a parabola gave go into the store; a best measured one is only good to a grid step.
    """
    store = store_path()
    target = describe_find(comparison, label, find.chosen_lr)
    # asked again, a search must not confirm itself
    earlier = [f for f in recall(store, find.method) if f != target]
    console.print(find_line(label, find), soft_wrap=True, highlight=False, markup=False)
    for line in describe_laws(earlier, target):
        console.print(f"  {line}", soft_wrap=True, highlight=False, markup=False)
    if find.chosen_by == "fit":
        remember(target, store)


def find_line(label: str, find: LrFind) -> str:
    """One line: the rate, where it comes from, and every warning."""
    parts = [f"{label}: lr {find.chosen_lr:.3g} ({find.chosen_by})"]
    if find.fit is not None:
        lo, hi = find.fit.ci95
        parts.append(f"vertex {find.fit.vertex_lr:.3g} [{lo:.3g}, {hi:.3g}], R2 {find.fit.r2:.2f}")
    if find.prior is not None:
        parts.append(f"prior {find.prior.lr:.3g}")
    parts.append(f"best measured {find.best_measured_lr:.3g}")
    parts.append(f"{len(find.points)} runs, {find.num_steps} steps")
    return ", ".join(parts) + "".join(f"; {warning}" for warning in find.warnings)


def describe_find(comparison: Comparison, label: str, lr: float) -> PastSearch:
    """The row of the store: what the law may depend on."""
    from rlvr.plan.hardware import shape_of

    recipe = comparison.resolve(label, 0, lr, comparison.recipe.find.steps)
    shape = shape_of(recipe, str(recipe.model.path))
    return PastSearch(
        recipe.adapter.method,
        lr,
        rank_of(recipe),
        recipe.rollout.prompts_per_step * recipe.rollout.group_size,
        recipe.train.steps,
        shape.num_params,
        shape.dims.hidden,
        f"{', '.join(recipe.data.paths)} {Path(str(recipe.model.path)).name}",
    )


def rank_of(recipe: TrainRecipe) -> int:
    """The adapter's rank; 0 where the method has none."""
    from rlvr.adapters import get_method
    from rlvr.adapters.base import DEFAULT_RANK

    method = get_method(recipe.adapter)
    return (recipe.adapter.rank or DEFAULT_RANK) if "rank" in method.options else 0


def read_finds(comparison: Comparison, labels: Sequence[str]) -> Mapping[str, dict]:
    """lr_find-LABEL.json of the labels that have one."""
    paths = {label: comparison.folder / f"lr_find-{label}.json" for label in labels}
    return {label: json.loads(path.read_text()) for label, path in paths.items() if path.exists()}
