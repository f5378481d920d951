"""The engine of a run, which another one replaces when it dies."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import torch

from rlvr.common.errors import ConfigError, RunError
from rlvr.common.log import get_logger
from rlvr.engines.engine import Engine, EngineLost, ForwardingEngine

if TYPE_CHECKING:
    from rlvr.engines.weights.sync import Syncer, SyncStats

R = TypeVar("R")

logger = get_logger(__name__)

MAX_RESTARTS = 3
"""Engines started one after another for the same work before the run stops."""


class RestartingEngine(ForwardingEngine):
    """A live engine and its syncer; `retry` does work again with another engine when one dies.

    What is done again is a whole collection, evaluation or sync, never the one call in which the
    engine died. A sync's weights come from a half-consumed iterator, and only the syncer can make
    another. Generation would start again with other rows in the batch, so other rounding, and a
    rollout could differ from that of a run without the failure. And rollouts that are collected
    ahead cannot be retried at all: the weights that sampled them are being updated.
    """

    def __init__(
        self, engine: Engine, syncer: Syncer, start: Callable[[], Engine] | None = None
    ) -> None:
        """syncer: hands weights over to `engine`. start: gives another engine; None: a lost engine
        is not replaced."""
        super().__init__(engine)
        self.syncer = syncer
        self._start = start

    def retry(self, work: Callable[[], R], lost: EngineLost | None = None) -> R:
        """The result of `work`. When the engine dies in it, or `lost` says that it has died before,
        another one is started, given the policy's weights and checked, and `work` runs again.

        Raises: EngineLost after MAX_RESTARTS engines; SyncError when one serves other weights.
        """
        if self._start is None:
            return work()
        for _ in range(1 + MAX_RESTARTS):
            try:
                if lost is not None:
                    logger.warning(f"the engine died: {lost}; starting another")
                    self._restart(self._start)
                return work()
            except EngineLost as error:
                lost = error
        raise EngineLost(f"the engine died {1 + MAX_RESTARTS} times in a row: {lost}") from lost

    def sync(self, num_steps: int) -> SyncStats:
        """Wakes the engine and gives it the policy's weights after num_steps steps; see Syncer."""
        return self.retry(partial(self.syncer.sync, num_steps))

    def prove(self) -> None:
        """Reads back every weight that the last sync handed over. Raises: SyncError."""
        self.retry(self.syncer.prove)

    def _restart(self, start: Callable[[], Engine]) -> None:
        with suppress(Exception):  # vLLM may raise anything when it is shut down after its death
            self.engine.close()
        rng = torch.get_rng_state()
        try:
            self.engine = start()
        except (ConfigError, RunError):
            raise
        except Exception as error:  # so may it when it starts; that counts as another death
            raise EngineLost(f"another engine did not start: {error}") from error
        # a run whose engine died has to draw what it would have drawn
        torch.set_rng_state(rng)
        self.syncer.use(self.engine)
        self.syncer.sync()
