"""One warm engine for run after run of the same base: starting vLLM costs more than a short run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rlvr.config.rollout import STARTED_WITH
from rlvr.engines.engine import Engine, ForwardingEngine
from rlvr.training.build import new_engine, refuse_experts

if TYPE_CHECKING:
    from torch import Tensor

    from rlvr.adapters.base import Sync
    from rlvr.config.train import TrainRecipe
    from rlvr.policy.policy import Policy


class _Borrowed(ForwardingEngine):
    """A live engine whose `close` leaves it running for the next run."""

    def close(self) -> None:
        """Leaves the engine as it is."""


class WarmEngine:
    """Gives `training.build.build` the engine of the run before, with the base's weights again.

    One engine lives at a time: a run that needs another (other base, context or sync mode) ends it.
    A run on a warm engine repeats the run on a new one bit for bit on CPU (tested).
    """

    def __init__(self) -> None:
        self._key: tuple[object, ...] | None = None
        self._engine: Engine | None = None

    def __call__(self, recipe: TrainRecipe, policy: Policy, use_vllm: bool, mode: Sync) -> Engine:
        """The engine for this run; only the methods that vLLM cannot serve get one of their own."""
        # transformers generates with the policy itself, which is another one in every run
        if not use_vllm:
            return new_engine(recipe, policy, use_vllm, mode)
        key = _key(recipe, policy, mode)
        if self._engine is None or self._engine.lost or key != self._key:
            self.close()
            self._engine, self._key = new_engine(recipe, policy, use_vllm, mode), key
        else:
            refuse_experts(policy, mode)  # as new_engine does before it starts one
            self._engine.wake()
            if mode == "merged":  # an adapter is laid over the base and leaves it as it was
                self._engine.load_weights(_base_weights(recipe, policy.path))
        return _Borrowed(self._engine)

    def close(self) -> None:
        """Ends the live engine, if there is one."""
        if self._engine is not None:
            self._engine.close()
        self._engine = self._key = None


def _key(recipe: TrainRecipe, policy: Policy, mode: str) -> tuple[object, ...]:
    """Everything that the engine was started with and cannot change."""
    from rlvr.adapters.export import max_lora_rank

    return (
        policy.path,
        recipe.model,
        *(getattr(recipe.rollout, name) for name in STARTED_WITH),
        max_lora_rank(policy.model) if mode == "adapter" else None,
    )


def _base_weights(recipe: TrainRecipe, path: str) -> Iterable[tuple[str, Tensor]]:
    """Every weight of the base as it lies on the disk: the run before may have changed any."""
    from rlvr.adapters.targets import servable_weights
    from rlvr.policy.language_model import load_base

    return servable_weights(load_base(recipe.model, path)[0])
