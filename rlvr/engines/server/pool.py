"""Several vLLM servers together: which ones live, and that all of them have the same weights."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rlvr.common.errors import ConfigError, RunError
from rlvr.common.log import get_logger
from rlvr.engines.server import handed
from rlvr.engines.server.client import Server, ServerLost, examine
from rlvr.engines.weights.fingerprint import Piece

if TYPE_CHECKING:
    import aiohttp

    from rlvr.config.train import RolloutConfig

logger = get_logger(__name__)

POLL_S = 2.0
"""Seconds between two looks at a server's health."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Handover:
    """Weights for every server: an adapter's folder and name, or (no name) a folder or hub id with
    the base's weights that have changed. is_base: they are the base as it was published."""

    path: str
    adapter: str = ""
    is_base: bool = False


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
        self.rollout, self._http, self._tolerance = rollout, http, tolerance
        self._max_len, self._mode = max_len, mode
        self.servers = [Server(url, http) for url in rollout.servers]
        # before the first sync, too: an earlier run may have left its weights in a server
        self._handover = Handover(base, is_base=True) if mode == "merged" else None
        self._probe: Probe | None = None
        self._told: set[str] = set()

    @property
    def live(self) -> list[Server]:
        """The servers that answer and have the weights."""
        return [server for server in self.servers if not server.lost]

    async def connect(self) -> None:
        """Waits for all servers, then goes on with those there are. Raises: as `_gather`."""
        await self._gather(len(self.servers))
        for server in self.servers:
            if server.lost:
                _say(f"{server.url} does not answer: going on without it")

    async def hand_over(self, handover: Handover) -> None:
        """Gives new weights to every server that answers. Raises: as `_gather`."""
        self._handover, self._probe = handover, None  # scored by the weights before
        for server in self.servers:
            # until it has the new weights it would generate by the old ones
            server.lost = True
        await self._gather(1)

    async def _gather(self, num_enough: int) -> None:
        """Takes servers in until that many are live; a while later, whatever there is.

        Raises: RunError when there is none; ConfigError for one that cannot serve the recipe.
        """
        wait_s, now = self.rollout.server_wait_s, asyncio.get_running_loop().time
        give_up, said = now() + wait_s, False
        while True:
            await asyncio.gather(*(self._take(server) for server in self.servers if server.lost))
            if len(self.live) >= num_enough or (self.live and now() > give_up):
                break
            if now() > give_up:
                raise RunError(self.none_left())
            if not said:
                missing = ", ".join(server.url for server in self.servers if server.lost)
                _say(f"{missing}: waiting up to {wait_s:g} s")
                said = True
            await asyncio.sleep(POLL_S)
        self._tell()

    async def _take(self, server: Server) -> None:
        """Gives a server that answers the newest weights, checks them, and makes it live."""
        try:
            await examine(server, self._max_len, self._mode, self.rollout.partial)
            if self._handover is None:
                server.model = server.base
            elif self._handover.adapter:
                await server.load_adapter(self._handover.adapter, Path(self._handover.path))
            else:
                await server.load_weights(self._handover.path)
            if not server.is_proved or self._probe is not None:
                await self._prove(server)
            if self._probe is not None:
                scores = await _scores(server, self._probe.sequences)
                self._compare(server, scores, self._probe.scores)
        except ServerLost:
            return
        # last: from here on it is given requests
        server.lost = False

    async def _prove(self, server: Server) -> None:
        """Reads back all that a process new to us, or one that comes back in the middle of a step,
        was given. Raises: RunError for other weights; as `Server.call`."""
        if self._handover is None or self._handover.is_base:
            return  # before the first sync, which looks at everything
        folder = Path(self._handover.path)
        wanted = await asyncio.to_thread(handed.names, folder)
        found = await server.read_back(wanted)
        wrong = await asyncio.to_thread(handed.differing, folder, found)
        if wrong:
            raise RunError(
                f"{server.url} holds other weights than it was given: {len(wrong)} of {len(wanted)}"
                f" tensors differ ({wrong[0]}, ...); restart it"
            )
        server.is_proved = True

    def _compare(self, server: Server, scores: list[list[float]], other: list[list[float]]) -> None:
        """Raises: RunError where a server gives other log-probabilities than the rest."""
        error = largest_difference(scores, other)
        # nan is within no tolerance
        if not error <= self._tolerance:
            raise RunError(
                f"{server.url} differs from the other servers by {error:.3g} nats on fixed tokens"
                f" (tolerance {self._tolerance:g}): it serves other weights; restart it"
            )

    async def score(self, sequences: Sequence[list[int]]) -> list[list[float]]:
        """Engine.score, by all servers. Raises: RunError where they disagree; as `_gather`."""
        scores = await self._ask_all(lambda server: _scores(server, sequences))
        first = scores[0][1]
        for server, by in scores[1:]:
            self._compare(server, by, first)
        self._probe = Probe(sequences, first)
        return first

    async def read_back(self, names: Sequence[str]) -> dict[str, list[Piece]]:
        """Engine.read_back, with the pieces of all servers together; without what one of them
        cannot read. Raises: as `_gather`."""
        found = await self._ask_all(lambda server: server.read_back(names))
        known = set(names).intersection(*(by for _, by in found))
        return {name: [piece for _, by in found for piece in by[name]] for name in known}

    async def _ask_all(self, ask: Callable[[Server], Awaitable[T]]) -> list[tuple[Server, T]]:
        """The answers of all live servers; one that gives none is lost. Raises: as `_gather`."""

        async def try_one(server: Server) -> T | None:
            try:
                return await ask(server)
            except ServerLost as error:
                self.lose(server, str(error))
                return None

        while True:
            # read anew in every round: servers are lost and come back meanwhile
            asked = self.live
            found = await asyncio.gather(*map(try_one, asked))
            answers = [(one, by) for one, by in zip(asked, found, strict=True) if by is not None]
            if answers:
                return answers
            await self._gather(1)

    async def watch(self, server: Server, tell_back: Callable[[], None]) -> None:
        """Takes the server back when it answers again, and loses it when it falls silent.

        tell_back: called when it is back. Never returns.
        """
        while True:
            await asyncio.sleep(POLL_S)
            if server.lost:
                await self._take(server)
                if not server.lost:
                    self._tell()
                    tell_back()
            elif not await server.is_same():
                self.lose(server, "no answer, or another process")

    def lose(self, server: Server, reason: str) -> None:
        """Gives the server no more requests, and breaks off those that it has."""
        if not server.lost:
            _say(f"{server.url} is lost ({reason}); {len(server.running)} requests are reissued")
            self._told.discard(server.url)
            server.lose()

    def _tell(self) -> None:
        """Says which servers came and went since the last time."""
        live = {server.url for server in self.live}
        for url in sorted(self._told - live):
            _say(f"{url} is lost")
        for url in sorted(live - self._told):
            _say(f"{url} is ready")
        self._told = live

    def none_left(self) -> str:
        """The error's text when no server answers."""
        return (
            f"no server of rollout.servers ({', '.join(self.rollout.servers)}) answered"
            f" for {self.rollout.server_wait_s:g} s; start them with rlvr serve"
        )

    async def close(self) -> None:
        """Unloads this run's adapter from the servers and ends the connections."""
        for server in self.live:
            with suppress(RunError, ConfigError):
                await server.unload_adapter()
        await self._http.close()


async def _scores(server: Server, sequences: Sequence[list[int]]) -> list[list[float]]:
    return await asyncio.gather(*map(server.score, sequences))


def _say(text: str) -> None:
    logger.warning(f"vLLM server {text}")


def largest_difference(scores: list[list[float]], other: list[list[float]]) -> float:
    """Between scores of the same sequences; nan where any of them is nan."""
    errors = [
        abs(a - b)
        for one, two in zip(scores, other, strict=True)
        for a, b in zip(one, two, strict=True)
    ]
    # max keeps a nan only where it comes first
    return math.nan if any(map(math.isnan, errors)) else max(errors)
