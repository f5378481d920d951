"""Which runs can share one base and one vLLM, and why others cannot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rlvr.adapters import get_method
from rlvr.common.errors import ConfigError
from rlvr.config.compare import BudgetConfig
from rlvr.config.rollout import STARTED_WITH
from rlvr.config.train import ModelConfig, TrainRecipe

if TYPE_CHECKING:
    from rlvr.adapters.base import Sync


def check_can_share(recipe: TrainRecipe, budget: BudgetConfig) -> None:
    """Raises: ConfigError for a run that needs an engine of its own."""
    for reason in _reasons(recipe, budget):
        raise ConfigError(f'executor.kind = "shared": {reason}')


def sync_mode(recipe: TrainRecipe) -> Sync:
    """How the run's weights go to the engine on this machine."""
    from rlvr.engines.weights.sync import mode_of
    from rlvr.policy.language_model import default_device

    return mode_of(recipe.rollout, get_method(recipe.adapter), default_device().type == "cpu")


def _reasons(recipe: TrainRecipe, budget: BudgetConfig) -> Iterator[str]:
    rollout, method = recipe.rollout, get_method(recipe.adapter)
    if not method.keeps_base:
        yield (
            f'adapter.method = "{method.name}" trains the whole model, so it has no base to share;'
            ' leave it out, or set executor.kind = "local"'
        )
    if not method.syncs:
        yield (
            f'adapter.method = "{method.name}": vLLM does not serve it; leave it out, or set'
            ' executor.kind = "local"'
        )
    if rollout.engine not in ("auto", "vllm"):
        yield (
            f'rollout.engine = "{rollout.engine}": they share the vLLM of their process; set it to'
            ' "vllm"'
        )
    if rollout.mode == "async" or rollout.sleep:
        name, value = ("mode", "sync") if rollout.mode == "async" else ("sleep", "false")
        yield f'rollout.{name}: runs that share vLLM take turns at it; set it to "{value}"'
    if rollout.tensor_parallel_size > 1:
        yield "rollout.tensor_parallel_size: runs that share vLLM are in one process; set it to 1"
    if budget.seconds is not None:
        yield "budget.seconds: runs that take turns have no time of their own; give budget.steps"


def check_same_engine(recipes: Sequence[TrainRecipe]) -> None:
    """Raises: ConfigError for runs that one base and one vLLM cannot serve."""
    first = recipes[0]
    for recipe in recipes[1:]:
        for section, names in (("model", ModelConfig.model_fields), ("rollout", STARTED_WITH)):
            ours, theirs = getattr(first, section), getattr(recipe, section)
            for name in names:
                a, b = getattr(ours, name), getattr(theirs, name)
                if a != b:
                    raise ConfigError(
                        f'executor.kind = "shared": {section}.{name} is {a!r} for one run and {b!r}'
                        " for another, and they share one base and one vLLM; make it equal, or set"
                        ' executor.kind = "local"'
                    )
