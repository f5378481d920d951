"""Several vLLM servers together: who gets which request, who is lost, who is back."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rlvr.common.errors import ConfigError, RunError
from rlvr.common.log import get_logger
from rlvr.engines.engine import Request, Response, SamplingParams
from rlvr.engines.server.client import Server, ServerLost, ServerRestarted, examine
from rlvr.engines.weights.fingerprint import Piece

if TYPE_CHECKING:
    import aiohttp

    from rlvr.config.train import RolloutConfig

logger = get_logger(__name__)

MAX_REISSUES = 3
"""Times that one request is given to a server again before the run stops."""
POLL_S = 2.0
"""Seconds between two looks at a server's health."""
T = TypeVar("T")
Event = tuple[int | None, asyncio.Task[Any]] | None
"""A task that has ended, with the index of its request unless it watched a server; or None: a
server is back."""


@dataclass(frozen=True, slots=True)
class Handover:
    """Weights for every server: an adapter's folder and name, or (no name) a folder or hub id with
    the base's weights that have changed."""

    path: str
    adapter: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """Sequences that the trainer checks after a sync, and what the servers give for them."""

    sequences: Sequence[list[int]]
    scores: list[list[float]]


class Pool:
    """The servers. All of its coroutines run in one event loop.

    tolerance: largest difference between two servers' log-probabilities (nats).
    """

    def __init__(
        self,
        rollout: RolloutConfig,
        max_len: int,
        mode: str,
        base: str,
        http: aiohttp.ClientSession,
        tolerance: float,
    ) -> None:
        """max_len: of rows (tokens). mode: of the sync. base: the policy's folder or hub id."""
        self._rollout, self._http, self._tolerance = rollout, http, tolerance
        self._max_len, self._mode = max_len, mode
        self._servers = [Server(url, http) for url in rollout.servers]
        # the run before may have left its weights in a server
        self._handover = Handover(base) if mode == "merged" else None
        self._probe: Probe | None = None
        self._held: dict[str, list[Piece]] = {}
        self._told: set[str] = set()

    @property
    def _live(self) -> list[Server]:
        return [server for server in self._servers if not server.lost]

    async def connect(self) -> None:
        """Waits for all servers, then goes on with those there are. Raises: as `_gather`."""
        await self._gather(len(self._servers))
        for server in self._servers:
            if server.lost:
                _say(f"{server.url} does not answer: going on without it")

    async def hand_over(self, handover: Handover) -> None:
        """Gives new weights to every server that answers. Raises: as `_gather`."""
        self._handover, self._probe, self._held = handover, None, {}
        for server in self._servers:
            server.lost = True
        await self._gather(1)

    async def _gather(self, num_enough: int) -> None:
        """Takes servers in until that many are live; a while later, whatever there is.

        Raises: RunError when there is none; ConfigError for one that cannot serve the recipe.
        """
        wait_s, now = self._rollout.server_wait_s, asyncio.get_running_loop().time
        give_up, said = now() + wait_s, False
        while True:
            await asyncio.gather(*(self._take(server) for server in self._servers if server.lost))
            if len(self._live) >= num_enough or (self._live and now() > give_up):
                break
            if now() > give_up:
                raise RunError(self._none_left())
            if not said:
                missing = ", ".join(server.url for server in self._servers if server.lost)
                _say(f"{missing}: waiting up to {wait_s:g} s")
                said = True
            await asyncio.sleep(POLL_S)
        self._tell()

    async def _take(self, server: Server) -> None:
        """Makes a server live that answers: it has the others' weights, which was checked."""
        try:
            await examine(server, self._max_len, self._mode)
            if self._handover is None:
                server.model = server.base
            elif self._handover.adapter:
                await server.load_adapter(self._handover.adapter, Path(self._handover.path))
            else:
                await server.load_weights(self._handover.path)
            if self._held and not _agree(held := await server.held(list(self._held)), self._held):
                raise RunError(
                    f"{server.url} holds other weights than the other servers after it was given"
                    f" the same ({len(held)} tensors read back); restart it"
                )
            if self._probe is not None:
                scores = await _scores(server, self._probe.sequences)
                self._compare(server, scores, self._probe.scores)
        except ServerLost:
            return
        server.lost = False

    def _compare(self, server: Server, scores: list[list[float]], other: list[list[float]]) -> None:
        """Raises: RunError where a server gives other log-probabilities than the rest."""
        error = max(
            abs(a - b)
            for one, two in zip(scores, other, strict=True)
            for a, b in zip(one, two, strict=True)
        )
        if not error <= self._tolerance:
            raise RunError(
                f"{server.url} differs from the other servers by {error:.3g} nats on fixed tokens"
                f" (tolerance {self._tolerance:g}): it serves other weights; restart it"
            )

    async def score(self, sequences: Sequence[list[int]]) -> list[list[float]]:
        """As Engine.score, by all servers. Raises: RunError where they disagree, as `_gather`."""
        scores = await self._ask_all(lambda server: _scores(server, sequences))
        first = scores[0][1]
        for server, by in scores[1:]:
            self._compare(server, by, first)
        self._probe = Probe(sequences, first)
        return first

    async def held(self, names: Sequence[str]) -> dict[str, list[Piece]]:
        """As Engine.held: the pieces of all servers together. What a server cannot read back is
        missing for all. Raises: as `_gather`."""
        found = await self._ask_all(lambda server: server.held(names))
        known = set(names).intersection(*(by for _, by in found))
        self._held = {name: found[0][1][name] for name in names if name in known}
        return {name: [piece for _, by in found for piece in by[name]] for name in self._held}

    async def _ask_all(self, ask: Callable[[Server], Awaitable[T]]) -> list[tuple[Server, T]]:
        """What all live servers answer; who does not is lost. Raises: as `_gather`."""

        async def try_one(server: Server) -> T | None:
            try:
                return await ask(server)
            except ServerLost as error:
                self._lose(server, str(error))
                return None

        while True:
            asked = self._live
            found = await asyncio.gather(*map(try_one, asked))
            answers = [(one, by) for one, by in zip(asked, found, strict=True) if by is not None]
            if answers:
                return answers
            await self._gather(1)

    async def serve(
        self,
        requests: Sequence[Request],
        sampling: SamplingParams,
        put: Callable[[tuple[int, Response]], None],
    ) -> None:
        """Puts out every response with the index of its request, as they come.

        Raises: RunError when no server is left for long, or one request fails again and again.
        """
        waiting, num_running = deque(range(len(requests))), 0
        events: asyncio.Queue[Event] = asyncio.Queue()
        reissues: Counter[int] = Counter()
        watchers = [asyncio.create_task(self._watch(one, events)) for one in self._servers]
        for watcher in watchers:
            watcher.add_done_callback(lambda task: events.put_nowait((None, task)))
        try:
            while waiting or num_running:
                while waiting and (server := self._freest()):
                    index = waiting.popleft()
                    self._ask(server, index, requests[index], sampling, events)
                    num_running += 1
                event = await self._next(events, num_running)
                if event is None:  # a server is back
                    continue
                index, task = event
                lost = task.cancelled() or isinstance(task.result(), ServerLost)
                assert index is not None, "watchers end with an exception or not at all"
                num_running -= 1
                if not lost:
                    put((index, task.result()))
                    continue
                reissues[index] += 1
                if reissues[index] > MAX_REISSUES:
                    raise RunError(
                        f"a request was lost with its server {reissues[index]} times in a row; see"
                        " the servers' logs"
                    )
                waiting.appendleft(index)
        finally:
            await _cancel([*watchers, *(task for one in self._servers for task in one.running)])

    async def _next(self, events: asyncio.Queue[Event], num_running: int) -> Event:
        try:
            longest = None if num_running else self._rollout.server_wait_s
            return await asyncio.wait_for(events.get(), longest)
        except TimeoutError:
            raise RunError(self._none_left()) from None

    def _freest(self) -> Server | None:
        """The live server with the fewest outstanding tokens, or None where all are full."""
        slots = self._rollout.max_num_seqs
        free = [server for server in self._live if len(server.running) < slots]
        return min(free, key=lambda server: server.num_tokens, default=None)

    def _ask(
        self,
        server: Server,
        index: int,
        request: Request,
        sampling: SamplingParams,
        events: asyncio.Queue[Event],
    ) -> None:
        num_tokens = len(request.prompt_ids) + sampling.max_len

        async def ask() -> Response | ServerLost:
            try:
                return await server.complete(request, sampling)
            except ServerLost as error:
                if isinstance(error, ServerRestarted) or not await server.is_same():
                    self._lose(server, str(error))
                return error

        def end(task: asyncio.Task[Any]) -> None:
            server.running.discard(task)
            server.num_tokens -= num_tokens
            if not task.cancelled():
                task.exception()  # of many that fail together the first is raised, the rest are not
            events.put_nowait((index, task))

        task = asyncio.create_task(ask())
        server.running.add(task)
        server.num_tokens += num_tokens
        task.add_done_callback(end)

    async def _watch(self, server: Server, events: asyncio.Queue[Event]) -> None:
        """Drains the server when it is lost without a word, takes it back when it is there."""
        while True:
            await asyncio.sleep(POLL_S)
            if server.lost:
                await self._take(server)
                if not server.lost:
                    self._tell()
                    events.put_nowait(None)
            elif not await server.is_same():
                self._lose(server, "no answer, or another process")

    def _lose(self, server: Server, reason: str) -> None:
        if not server.lost:
            _say(f"{server.url} is lost ({reason}); {len(server.running)} requests are reissued")
            self._told.discard(server.url)
            server.lose()

    def _tell(self) -> None:
        """Says which servers came and went since the last time."""
        live = {server.url for server in self._live}
        for url in sorted(self._told - live):
            _say(f"{url} is lost")
        for url in sorted(live - self._told):
            _say(f"{url} is ready")
        self._told = live

    def _none_left(self) -> str:
        return (
            f"no server of rollout.servers ({', '.join(self._rollout.servers)}) answered"
            f" for {self._rollout.server_wait_s:g} s; start them with rlvr serve"
        )

    async def close(self) -> None:
        """Leaves the servers without this run's adapter."""
        for server in self._live:
            with suppress(RunError, ConfigError):
                await server.unload_adapter()
        await self._http.close()


def _agree(one: dict[str, list[Piece]], other: dict[str, list[Piece]]) -> bool:
    """Whether the same pieces, where both have them, are equal."""
    theirs = {(name, p[:4]): p.digest for name, pieces in other.items() for p in pieces}
    ours = {(name, p[:4]): p.digest for name, pieces in one.items() for p in pieces}
    return all(ours[place] == theirs[place] for place in ours.keys() & theirs.keys())


async def _scores(server: Server, sequences: Sequence[list[int]]) -> list[list[float]]:
    return await asyncio.gather(*map(server.score, sequences))


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancels tasks and waits until their connections are closed."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _say(text: str) -> None:
    logger.warning(f"vLLM server {text}")
