"""Which runs can share one base and one vLLM, and why others cannot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rlvr.adapters import get_method
from rlvr.common.errors import ConfigError
from rlvr.config.compare import BudgetConfig
from rlvr.config.rollout import STARTED_WITH
from rlvr.config.train import ModelConfig, TrainRecipe


def check_can_share(recipe: TrainRecipe, budget: BudgetConfig) -> None:
    """Raises: ConfigError for a run that needs an engine of its own."""
    for reason in _reasons(recipe, budget):
        raise ConfigError(f'executor.kind = "shared": {reason}')


def _reasons(recipe: TrainRecipe, budget: BudgetConfig) -> Iterator[str]:
    from rlvr.engines.weights.sync import mode_of
    from rlvr.policy.language_model import default_device

    rollout, method = recipe.rollout, get_method(recipe.adapter)
    if "adapter" not in method.syncs:
        yield (
            f'adapter.method = "{method.name}" goes to vLLM by whole weights, of which it holds one'
            ' set; leave it out, or set executor.kind = "local"'
        )
    mode = mode_of(rollout, method, default_device().type == "cpu")
    if mode != "adapter":
        yield (
            f'rollout.sync is "{mode}" on this machine, and vLLM holds one set of weights; set'
            ' settings.rollout.sync = "adapter"'
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
