"""What a run does when its engine dies: another one, with the policy's weights, and again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from rlvr.rollout.engine import EngineLost

if TYPE_CHECKING:
    from rlvr.session import Session

MAX_RESTARTS = 3
"""Engines started one after another for the same work before the run stops."""

R = TypeVar("R")


def with_engine(
    session: Session, work: Callable[[], R], undo: Callable[[], None] | None = None
) -> R:
    """What `work` gives. When the engine dies in it, a new one is started, gets the weights, is
    checked, and `work` is done again.

    undo: called first, puts back what a broken-off `work` has changed.
    Raises: EngineLost after MAX_RESTARTS engines; SyncError when a new one serves other weights.
    """
    lost = False
    for left in reversed(range(MAX_RESTARTS + 1)):
        try:
            if lost:
                session.restart_engine()
            return work()
        except EngineLost as error:
            lost = True
            if undo is not None:
                undo()
            if not left:
                raise EngineLost(
                    f"the engine died {MAX_RESTARTS + 1} times in a row: {error}"
                ) from error
            print(f"the engine died ({error}): starting another, {left} left", file=sys.stderr)
    raise AssertionError("unreachable: the last turn returns or raises")
