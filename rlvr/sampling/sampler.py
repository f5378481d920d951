"""The rollouts of every step: collected when they are asked for, or ahead, beside the update.

With rollout.mode = "async" the groups of the next rollout.steps_ahead steps are collected while
this one updates.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from rlvr.common.signals import never_stop
from rlvr.distributed.world import World
from rlvr.engines.engine import Engine, EngineLost
from rlvr.sampling.background import Background, result
from rlvr.sampling.collector import Collected, Collector, CollectRequest
from rlvr.sampling.rollouts import StepRollouts

if TYPE_CHECKING:
    from rlvr.config.train import TrainRecipe


@dataclass(frozen=True, slots=True)
class SamplerState:
    """What the next `collect` depends on: the state before it, and the collections ahead, which may
    be under way."""

    before: dict[str, Any]
    ahead: tuple[Future[Collected], ...]

    def wait(self, seconds: float) -> None:
        """Waits for the collections ahead, at most so long."""
        wait(self.ahead, timeout=seconds)

    def to_tree(self) -> dict[str, Any]:
        """JSON-ready. Collections that have not ended by now are left out: a run that is resumed
        collects these steps again, by the weights that it has."""
        state, ahead = self.before, []
        for future in self.ahead:
            if not future.done() or future.exception() is not None:
                break
            state = future.result().state
            ahead.append(future.result().rollouts.to_tree())
        return state | {"ahead": ahead}


class Sampler:
    """Hands out the rollouts of step after step, and owns those collected ahead."""

    def __init__(
        self,
        collector: Collector,
        engine: Engine,
        recipe: TrainRecipe,
        world: World = World.alone(),
        safe_point: Callable[[], None] = never_stop,
        end: int | None = None,
    ) -> None:
        """engine: the collector's. safe_point: called after every decoding step, and while
        collections ahead are waited for; may raise to stop the run. end: the step before which
        nothing is collected ahead any more; None: that of the run."""
        self._collector, self._engine, self.trace = collector, engine, collector.trace
        self._num_ahead = recipe.rollout.steps_ahead if recipe.rollout.mode == "async" else 0
        self._num_steps = recipe.train.steps if end is None else end
        self._world, self._safe_point = world, safe_point
        self._background = Background()
        self._ahead: deque[Future[Collected]] = deque()
        self._before = collector.state()
        self.weight_metrics: dict[str, float] = {}

    def collect(self, step: int) -> StepRollouts:
        """The groups of one step: informative ones when sampling.dynamic, else whatever came. What
        was collected ahead is handed out.

        Raises: NoSignalError when not one informative group came in all rounds; what safe_point
        raises; EngineLost, then the sampler is as it was before.
        """
        self.wait_for_next()
        if self._ahead:
            collected = self._ahead.popleft().result()
        else:
            self.drain()  # weights may still be on their way
            # a whole collection is done again: see RestartingEngine
            request = CollectRequest(step, step, self._safe_point)
            collected = self._engine.retry(partial(self._collector.collect, request))
            collected.rollouts.metrics.update(self.weight_metrics)
        self._before = collected.state
        return collected.rollouts

    def collect_ahead(self, step: int) -> None:
        """With rollout.mode = "async", has the groups of the steps after `step` collected in a
        second thread, up to rollout.steps_ahead of them, by the weights that `step` steps have
        trained. Else does nothing."""
        first, end = step + 1 + len(self._ahead), step + 1 + self._num_ahead
        for later in range(first, min(end, self._num_steps)):
            collect = partial(self._collect_in_background, later, step)
            self._ahead.append(self._background.submit(collect))

    def enqueue(self, hand_over: Callable[[], dict[str, float]]) -> None:
        """Has weights handed over to the engine behind the collections under way. hand_over: gives
        the metrics of that, which every step has that is sampled by these weights."""

        def work(_safe_point: Callable[[], None]) -> None:
            with self._world.side_channel(), self.trace.phase("sync"):
                self.weight_metrics = hand_over()

        self._background.submit(work)

    def wait_for_next(self) -> None:
        """Waits for the next step's groups, if they are collected ahead. With
        rollout.steps_ahead = 1 the engine is idle then. Raises: NoSignalError."""
        if self._ahead:
            with self._lost_engine_replaced():
                result(self._ahead[0], self._safe_point)

    def drain(self) -> None:
        """Waits until the engine is idle and has the newest weights. Raises: NoSignalError."""
        with self._lost_engine_replaced():
            self._background.drain(self._safe_point)

    @contextmanager
    def _lost_engine_replaced(self) -> Iterator[None]:
        """Replaces an engine that died. `collect` does its collections anew: the weights that they
        began with are gone."""
        try:
            yield
        except EngineLost as lost:
            with suppress(EngineLost):
                self._background.drain(self._safe_point)
            self._background.forget_failure()
            self._ahead = deque(one for one in self._ahead if one.exception() is None)
            self._engine.retry(lambda: None, lost)

    def close(self) -> None:
        """Gives up what is collected ahead, so that nothing uses the engine any more."""
        self._background.cancel()
        self._ahead.clear()

    def _collect_in_background(
        self, step: int, policy_version: int, safe_point: Callable[[], None]
    ) -> Collected:
        # the main thread gathers too, in an order of its own
        with self._world.side_channel():
            collected = self._collector.collect(CollectRequest(step, policy_version, safe_point))
        collected.rollouts.metrics.update(self.weight_metrics)
        return collected

    def snapshot(self) -> SamplerState:
        """Everything that the next `collect` depends on."""
        return SamplerState(self._before, tuple(self._ahead))

    def state(self) -> dict[str, Any]:
        """The snapshot as it stands now, JSON-ready."""
        return self.snapshot().to_tree()

    def load_state(self, tree: dict[str, Any]) -> None:
        """Continues from a state."""
        self._collector.load_state(tree)
        self._before = self._collector.state()
        ahead = tree["ahead"] or []
        self._ahead = deque()
        # a run begun when there was one step ahead at most has its rollouts without a list
        for one in [ahead] if isinstance(ahead, dict) else ahead:
            future: Future[Collected] = Future()
            future.set_result(Collected(StepRollouts.from_tree(one), self._before))
            self._ahead.append(future)

    def problem_uses(self) -> dict[str, int]:
        """How many problems were trained on 0, 1, 2, ... times so far."""
        return self._collector.problem_uses()
