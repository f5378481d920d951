"""How full the servers' caches are while they generate: asked now and then, from vLLM's metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from rlvr.common.errors import ConfigError, RunError
from rlvr.engines.engine import CacheLoad

if TYPE_CHECKING:
    from rlvr.engines.server.client import Server
    from rlvr.engines.server.pool import Pool

EVERY_S = 2.0
"""Seconds between two looks."""


class LoadMeter:
    """Adds up what the servers tell. Counts belong to a process: a new one starts at 0 again."""

    def __init__(self) -> None:
        self._first: dict[str, int] = {}
        self._last: dict[str, int] = {}
        self._peak_frac = 0.0

    async def look(self, servers: Sequence[Server]) -> None:
        """Asks once; a server that does not answer is noticed elsewhere."""
        await asyncio.gather(*map(self._ask, servers))

    async def keep_looking(self, pool: Pool) -> None:
        """Asks the live servers at once, and then every EVERY_S. Never returns."""
        while True:
            await self.look(pool.live)
            await asyncio.sleep(EVERY_S)

    async def _ask(self, server: Server) -> None:
        with suppress(RunError, ConfigError):
            now = await server.read_load()
            process = f"{server.url} {server.instance}"
            # what it had counted before is of other sessions
            self._first.setdefault(process, now.preemptions)
            self._last[process] = now.preemptions
            self._peak_frac = max(self._peak_frac, now.peak_frac)

    @property
    def load(self) -> CacheLoad | None:
        """Since the first look; None where no server told."""
        if not self._last:
            return None
        num = sum(self._last[process] - self._first[process] for process in self._last)
        return CacheLoad(num, self._peak_frac)
