"""Requests given out to a pool of vLLM servers, and again when a server is lost."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from rlvr.common.errors import RunError
from rlvr.engines.engine import Request, Response, SamplingParams
from rlvr.engines.server.client import Server, ServerLost, ServerRestarted
from rlvr.engines.server.load import LoadMeter
from rlvr.engines.server.pool import Pool

PAUSE_S = 0.05
"""Seconds between two calls that end what a server is giving."""
MAX_REISSUES = 3
"""Times that one request is given to a server again before the run stops."""
Event = tuple[int | None, asyncio.Task[Any]] | None
"""A task that has ended, with the number of its request unless it watched a server; or None: a
server is back, or there are more requests."""


class Dispatch:
    """Requests on their way through a pool's servers, more of which may come at any time.

    meter: how full their caches are meanwhile.
    """

    def __init__(
        self,
        pool: Pool,
        sampling: SamplingParams,
        put: Callable[[tuple[int, Response]], None],
    ) -> None:
        """put: is given every response with the number of its request, as they end."""
        self._pool, self._sampling, self._put = pool, sampling, put
        self._requests: list[Request] = []
        self._waiting, self._num_running = deque[int](), 0
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._reissues: Counter[int] = Counter()
        self._paused: dict[int, Response] | None = None
        self.meter = LoadMeter()

    async def add(self, requests: Sequence[Request]) -> None:
        """Takes more requests, numbered on from those before."""
        self._waiting.extend(range(len(self._requests), len(self._requests) + len(requests)))
        self._requests.extend(requests)
        self._events.put_nowait(None)

    async def serve(self) -> None:
        """Gives requests out until it is cancelled.

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
            while self._paused is None or self._num_running:
                self._give_out()
                event = await self._next_event()
                if event is not None:  # else there are more requests, or a server is back
                    self._take_in(*event)
        finally:
            await _cancel([meter, *watchers, *(task for one in servers for task in one.running)])

    async def pause(self) -> dict[int, Response]:
        """Ends what was given out; what there is of each response that has not ended, by number.

        `serve` returns once all of them are in.
        """
        self._paused = {number: Response([], [], truncated=False) for number in self._waiting}
        self._waiting.clear()
        self._events.put_nowait(None)
        while running := [server for server in self._pool.live if server.running]:
            for server in running:
                with suppress(ServerLost):  # `serve` learns of that from the responses themselves
                    await server.pause()
            # again, since a request may have been on its way to the server
            await asyncio.sleep(PAUSE_S)
        return self._paused

    async def look(self) -> None:
        """Asks the servers once more how full their caches are."""
        await self.meter.look(self._pool.live)

    def _give_out(self) -> None:
        """Asks servers until none is free or nothing waits."""
        while self._waiting and (server := self._freest()):
            self._ask(server, self._waiting.popleft())
            self._num_running += 1

    def _take_in(self, number: int | None, task: asyncio.Task[Any]) -> None:
        """Puts out what a task gave, or lets its request wait again where its server was lost."""
        lost = task.cancelled() or isinstance(task.result(), ServerLost)
        assert number is not None, "watchers end with an exception or not at all"
        self._num_running -= 1
        if self._paused is not None and (lost or not task.result()[1]):
            self._paused[number] = Response([], [], False) if lost else task.result()[0]
        elif not lost:
            self._put((number, task.result()[0]))
        else:
            self._ask_again(number)

    def _ask_again(self, number: int) -> None:
        self._reissues[number] += 1
        if self._reissues[number] > MAX_REISSUES:
            raise RunError(
                f"a request was lost with its server {self._reissues[number]} times in a row; see"
                " the servers' logs"
            )
        self._waiting.appendleft(number)

    async def _next_event(self) -> Event:
        try:
            stuck = self._waiting and not self._num_running
            longest = self._pool.rollout.server_wait_s if stuck else None
            return await asyncio.wait_for(self._events.get(), longest)
        except TimeoutError:
            raise RunError(self._pool.none_left()) from None

    def _freest(self) -> Server | None:
        """The live server with the fewest outstanding tokens, or None where all are full."""
        slots = self._pool.rollout.max_num_seqs
        free = [server for server in self._pool.live if len(server.running) < slots]
        return min(free, key=lambda server: server.num_tokens, default=None)

    def _ask(self, server: Server, number: int) -> None:
        request = self._requests[number]
        num_tokens = len(request.prompt_ids) + self._sampling.max_len

        async def ask() -> tuple[Response, bool] | ServerLost:
            try:
                return await server.complete(
                    request, self._sampling, lambda: self._paused is not None
                )
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
            self._events.put_nowait((number, task))

        task = asyncio.create_task(ask())
        server.running.add(task)
        server.num_tokens += num_tokens
        task.add_done_callback(end)


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancels tasks and waits until their connections are closed."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
