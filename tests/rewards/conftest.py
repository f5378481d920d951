"""Shared by the verifier's tests."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

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
