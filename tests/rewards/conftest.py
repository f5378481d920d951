"""Shared by the verifier's tests."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rewards.equality import solve, symbolic
from rewards.judging.in_worker import load
from rewards.pool.pool import Pool, PoolSettings


@pytest.fixture
def make_pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Pool]]:
    """A function that makes pools of tests/rewards/pool_tasks.py, all closed at the end."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    pools: list[Pool] = []

    def make(target: str = "pool_tasks:misbehave", num_spares: int = 0, **settings) -> Pool:
        pools.append(Pool(PoolSettings(target, num_spares=num_spares, **settings)))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


@pytest.fixture
def ample_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lift the bounds on symbolic work, so that a busy machine changes no verdict."""
    load()
    for name in ("BUDGET_S", "STEP_S", "MAX_WALL_S"):
        monkeypatch.setattr(symbolic, name, 600.0)
    monkeypatch.setattr(solve, "SOLVE_S", 600.0)
