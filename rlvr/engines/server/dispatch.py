"""Requests given out to a pool of vLLM servers, and again when a server is lost."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any

from rlvr.common.errors import RunError
from rlvr.engines.engine import Request, Response, SamplingParams
from rlvr.engines.server.client import Server, ServerLost, ServerRestarted
from rlvr.engines.server.load import LoadMeter
from rlvr.engines.server.pool import Pool

MAX_REISSUES = 3
"""Times that one request is given to a server again before the run stops."""
Event = tuple[int | None, asyncio.Task[Any]] | None
"""A task that has ended, with the index of its request unless it watched a server; or None: a
server is back."""


class Dispatch:
    """One batch of requests on its way through a pool's servers.

    meter: how full their caches are meanwhile.
    """

    def __init__(self, pool: Pool, requests: Sequence[Request], sampling: SamplingParams) -> None:
        self._pool, self._requests, self._sampling = pool, requests, sampling
        self._waiting, self._num_running = deque(range(len(requests))), 0
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._reissues: Counter[int] = Counter()
        self.meter = LoadMeter()

    async def serve(self, put: Callable[[tuple[int, Response]], None]) -> None:
        """Puts out every response with the index of its request, as they come.

        Raises: RunError when no server is left for long, or one request fails again and again.
        """
        servers, events = self._pool.servers, self._events
        meter = asyncio.create_task(self.meter.keep_looking(self._pool))
        watchers = [
            asyncio.create_task(self._pool.watch(one, lambda: events.put_nowait(None)))
            for one in servers
        ]
        for watcher in watchers:
            watcher.add_done_callback(lambda task: events.put_nowait((None, task)))
        try:
            while self._waiting or self._num_running:
                self._give_out()
                event = await self._next_event()
                if event is not None:  # else a server is back
                    self._take_in(*event, put)
        finally:
            await _cancel([meter, *watchers, *(task for one in servers for task in one.running)])

    def _give_out(self) -> None:
        """Asks servers until none is free or nothing waits."""
        while self._waiting and (server := self._freest()):
            self._ask(server, self._waiting.popleft())
            self._num_running += 1

    def _take_in(
        self,
        index: int | None,
        task: asyncio.Task[Any],
        put: Callable[[tuple[int, Response]], None],
    ) -> None:
        """Puts out what a task gave, or lets its request wait again where its server was lost."""
        lost = task.cancelled() or isinstance(task.result(), ServerLost)
        assert index is not None, "watchers end with an exception or not at all"
        self._num_running -= 1
        if not lost:
            put((index, task.result()))
            return
        self._reissues[index] += 1
        if self._reissues[index] > MAX_REISSUES:
            raise RunError(
                f"a request was lost with its server {self._reissues[index]} times in a row; see"
                " the servers' logs"
            )
        self._waiting.appendleft(index)

    async def _next_event(self) -> Event:
        try:
            longest = None if self._num_running else self._pool.rollout.server_wait_s
            return await asyncio.wait_for(self._events.get(), longest)
        except TimeoutError:
            raise RunError(self._pool.none_left()) from None

    def _freest(self) -> Server | None:
        """The live server with the fewest outstanding tokens, or None where all are full."""
        slots = self._pool.rollout.max_num_seqs
        free = [server for server in self._pool.live if len(server.running) < slots]
        return min(free, key=lambda server: server.num_tokens, default=None)

    def _ask(self, server: Server, index: int) -> None:
        request = self._requests[index]
        num_tokens = len(request.prompt_ids) + self._sampling.max_len

        async def ask() -> Response | ServerLost:
            try:
                return await server.complete(request, self._sampling)
            except ServerLost as error:
                # a broken connection alone does not lose a server that is still the same process
                if isinstance(error, ServerRestarted) or not await server.is_same():
                    self._pool.lose(server, str(error))
                return error

        def end(task: asyncio.Task[Any]) -> None:
            server.running.discard(task)
            server.num_tokens -= num_tokens
            if not task.cancelled():
                task.exception()  # of many that fail together the first is raised, the rest are not
            self._events.put_nowait((index, task))

        task = asyncio.create_task(ask())
        server.running.add(task)
        server.num_tokens += num_tokens
        task.add_done_callback(end)


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancels tasks and waits until their connections are closed."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
