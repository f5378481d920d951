"""One vLLM server over HTTP: completions of token ids, scores, new weights, signs of life."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.common.errors import ConfigError, RunError
from rlvr.engines.engine import CacheLoad, Request, Response, SamplingParams
from rlvr.engines.server.guard import INSTANCE_HEADER, PAUSE_PATH, READ_BACK_PATH
from rlvr.engines.weights.fingerprint import Piece
from rlvr.engines.weights.vllm_reload import RELOAD

if TYPE_CHECKING:
    import aiohttp

CONNECT_S = 5.0
"""Seconds for a connection to stand."""
HEALTH_S = 30.0
"""Seconds that a busy server may take to say that it lives."""
WEIGHTS_S = 600.0
"""Seconds for a server to take new weights."""

COMPLETIONS = "/v1/completions"
ENDPOINTS = {"adapter": "/v1/load_lora_adapter", "merged": "/collective_rpc"}
"""What a server needs for each sync mode."""

HOW = "start it with rlvr serve and this recipe"

IMPOSSIBLE = -1000.0
"""Below are the log-probabilities of tokens that truncated sampling left out: -9999 in JSON."""


class ServerLost(RunError):
    """The server did not answer as one that is well."""


class ServerRestarted(ServerLost):
    """It answers, but is no longer the process that was given the weights."""


@dataclass
class Server:
    """A server and what is known of it.

    instance: name of its process (`guard`); empty where it runs without the guard.
    base, max_len, adapters: what it serves. model: what requests ask for, base or adapter.
    can_read: whether its workers read weights back. is_proved: whether this process was seen to
    hold all that it was given, once. lost: it gets no requests. num_tokens:
    outstanding, by the longest that responses may become.
    """

    url: str
    http: aiohttp.ClientSession
    instance: str = ""
    base: str = ""
    max_len: int = 0
    model: str = ""
    adapters: set[str] = field(default_factory=set)
    can_read: bool = False
    is_proved: bool = False
    lost: bool = True
    num_tokens: int = 0
    running: set[asyncio.Task[Any]] = field(default_factory=set)

    async def call(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        timeout_s: float | None = None,
        meet: bool = False,
    ) -> Any:
        """The reply's JSON, else its text. meet: it may be another process than before.

        Raises: ServerLost; ConfigError for a key that it refuses; RunError for another refusal.
        """
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_S)
        try:
            async with self.http.request(
                method, self.url + path, json=body, timeout=timeout
            ) as reply:
                instance = reply.headers.get(INSTANCE_HEADER, "")
                is_json = reply.content_type == "application/json"
                found: Any = await (reply.json() if is_json else reply.text())
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise ServerLost(f"{type(error).__name__}: {error}") from error
        if reply.status == 401:
            raise ConfigError(
                f"rollout.servers: {self.url} refuses the API key; set RLVR_API_KEY to the one that"
                " it was started with"
            )
        if meet:
            self.instance = instance
        elif instance != self.instance:
            raise ServerRestarted("it was restarted")
        if reply.status >= 400:
            if reply.status == 404 and path == COMPLETIONS:
                # a restarted server has lost its adapters
                raise ServerRestarted(f"it does not know {self.model}")
            # else the server is well, and refuses this request
            if reply.status >= 500 and await self._health() is None:
                raise ServerLost(f"{path} gives {reply.status}")
            raise RunError(f"{self.url}{path} gives {reply.status}: {_message(found)}")
        return found

    async def is_same(self) -> bool:
        """Whether it is well and the process that was given the weights."""
        return await self._health() == self.instance

    async def _health(self) -> str | None:
        """The name of the process, or None where it is not well."""
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=HEALTH_S, sock_connect=CONNECT_S)
        try:
            async with self.http.get(f"{self.url}/health", timeout=timeout) as reply:
                return reply.headers.get(INSTANCE_HEADER, "") if reply.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None

    async def open(self) -> bool:
        """Learns what it serves; whether it is a process not met before. Raises: as `call`."""
        before = (self.instance, self.base)
        cards = (await self.call("GET", "/v1/models", timeout_s=HEALTH_S, meet=True))["data"]
        # an adapter's card names the base as its parent
        base = next(card for card in cards if card.get("parent") is None)
        self.base, self.max_len = base["id"], base["max_model_len"]
        self.adapters = {card["id"] for card in cards} - {self.base}
        is_new = (self.instance, self.base) != before
        self.is_proved = self.is_proved and not is_new
        return is_new

    async def complete(
        self, request: Request, sampling: SamplingParams, may_pause: Callable[[], bool]
    ) -> tuple[Response, bool]:
        """(the response to one request, drawn as the local engine draws it; whether it ended).

        may_pause: whether `pause` was called, so that the response may have been cut off by it.
        Raises: as `call`.
        """
        reply = await self.call("POST", COMPLETIONS, _body(self.model, request, sampling))
        (choice,) = reply["choices"]
        reason = choice["finish_reason"]
        if reason not in ("stop", "length") and not (reason == "abort" and may_pause()):
            raise ServerLost(f"it ended a response with {reason!r}")
        has_logprobs = sampling.logprobs and choice["token_ids"]
        logprobs = choice["logprobs"]["token_logprobs"] if has_logprobs else []
        return Response(choice["token_ids"], logprobs, reason == "length"), reason != "abort"

    async def pause(self) -> None:
        """Cuts off every response that it is giving. Raises: as `call`."""
        await self.call("POST", PAUSE_PATH, timeout_s=HEALTH_S)

    async def score(self, token_ids: list[int]) -> list[float]:
        """As Engine.score, for one sequence. Raises: as `call`."""
        body = _body(self.model, Request(token_ids, seed=0), SamplingParams(max_len=1))
        reply = await self.call("POST", COMPLETIONS, body | {"prompt_logprobs": 0})
        # nothing predicts the first token
        places = reply["choices"][0]["prompt_logprobs"][1:]
        return [at[str(token)]["logprob"] for at, token in zip(places, token_ids[1:], strict=True)]

    async def load_adapter(self, name: str, folder: Path) -> None:
        """Serves the adapter in `folder` by this name, in place of the one before."""
        if name not in self.adapters:
            body = {"lora_name": name, "lora_path": str(folder)}
            await self.call("POST", "/v1/load_lora_adapter", body, WEIGHTS_S)
        if name != self.model:
            await self.unload_adapter()
        self.model = name

    async def unload_adapter(self) -> None:
        """Serves the base, if it served an adapter."""
        if self.model in self.adapters:
            await self.call("POST", "/v1/unload_lora_adapter", {"lora_name": self.model}, WEIGHTS_S)
        self.model = self.base

    async def load_weights(self, path: str) -> None:
        """Serves the base with the weights in the safetensors files of `path`."""
        body = {"method": RELOAD, "kwargs": {"weights_path": path}}
        await self.call("POST", "/collective_rpc", body, WEIGHTS_S)
        # its keys and values were computed by the old weights
        reply = await self.call("POST", "/reset_prefix_cache", timeout_s=WEIGHTS_S)
        if isinstance(reply, dict) and not reply.get("success", True):
            raise RunError(f"{self.url} kept prefixes of the old weights: it serves others too")
        self.model = self.base

    async def read_back(self, names: Sequence[str]) -> dict[str, list[Piece]]:
        """As Engine.read_back; nothing from a server that cannot. Raises: as `call`."""
        found: dict[str, list[Piece]] = {}
        if self.can_read:
            asked = {"names": list(names), "has_adapter": self.model != self.base}
            for worker in await self.call("POST", READ_BACK_PATH, asked, WEIGHTS_S):
                for name, pieces in worker.items():
                    found.setdefault(name, []).extend(map(Piece.from_json, pieces))
        return found

    async def read_load(self) -> CacheLoad:
        """Preemptions since its start, and the fraction of its cache in use now. Raises: as `call`;
        RunError where its metrics do not say."""
        text = await self.call("GET", "/metrics", timeout_s=CONNECT_S)
        used, preemptions = (
            [float(value) for value in re.findall(rf"^{name}\{{.*\}} (\S+)$", str(text), re.M)]
            for name in ("vllm:kv_cache_usage_perc", "vllm:num_preemptions_total")
        )
        if not used or not preemptions:
            raise RunError(f"{self.url}/metrics says nothing of the cache")
        # a server with data parallelism has one line per engine
        return CacheLoad(int(sum(preemptions)), max(used))

    def lose(self) -> None:
        """Marks it as lost and breaks off what it was asked."""
        self.lost = True
        for task in self.running:
            task.cancel()


def _body(model: str, request: Request, sampling: SamplingParams) -> dict[str, Any]:
    """A completion request; every default that a server takes from the model's folder is set."""
    return {
        "model": model,
        "prompt": [*request.prompt_ids, *request.begun_ids],
        "max_tokens": sampling.max_len - len(request.begun_ids),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "stop_token_ids": list(sampling.stop_token_ids),
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "seed": request.seed,
        "logprobs": 0 if sampling.logprobs else None,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
    }


def _message(found: Any) -> str:
    """What a refusal says, on one line."""
    error = found.get("error", found) if isinstance(found, dict) else found
    text = error.get("message", error) if isinstance(error, dict) else error
    return " ".join(str(text).split())[:300]


def session(key: str | None) -> aiohttp.ClientSession:
    """A client for any number of requests at a time, each on a connection of its own."""
    import aiohttp

    headers = {"Authorization": f"Bearer {key}"} if key else {}
    # limit 0: none, where aiohttp's own is 100 connections
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True), headers=headers
    )


async def _can_read(server: Server) -> bool:
    """Whether it was started with rlvr serve. Raises: ServerLost."""
    nothing = {"names": [], "has_adapter": False}
    try:
        await server.call("POST", READ_BACK_PATH, nothing, HEALTH_S)
    except ServerLost:
        raise
    except RunError:
        return False
    return True


async def check_pauses(server: Server) -> None:
    """Raises: ConfigError for a server that cannot end what it is giving; ServerLost."""
    try:
        # asked only: another run's responses may be running there
        await server.call("GET", PAUSE_PATH, timeout_s=HEALTH_S)
    except ServerLost:
        raise
    except RunError as error:
        raise ConfigError(
            f"rollout.partial = true: {server.url} does not end responses that are running"
            f" ({error}); {HOW}"
        ) from error


async def examine(server: Server, max_len: int, mode: str, partial: bool) -> None:
    """Learns what the server serves and refuses one that cannot serve rows of `max_len` tokens,
    take weights by the sync `mode`, or, for partial rollouts, end what it is giving.

    Raises: ConfigError; ServerLost, RunError where it does not answer as it should.
    """
    if not await server.open():
        return
    if server.max_len < max_len:
        raise ConfigError(
            f"model.max_len = {max_len}: {server.url} takes {server.max_len} tokens; {HOW}"
        )
    paths = (await server.call("GET", "/openapi.json", timeout_s=HEALTH_S))["paths"]
    if ENDPOINTS[mode] not in paths:
        raise ConfigError(
            f"rollout.servers: {server.url} takes no weights by {ENDPOINTS[mode]}, which rollout."
            f'sync = "{mode}" needs; {HOW}'
        )
    server.can_read = await _can_read(server)
    if mode == "merged" and not server.instance:
        raise ConfigError(
            f"rollout.servers: {server.url} does not name its process, so that a restart with the"
            f" base's weights would go unnoticed; {HOW}"
        )
    if partial:
        await check_pauses(server)
    body = _body(
        server.base, Request(list(range(1, 9)), seed=0), SamplingParams(max_len=1, top_k=1)
    )
    reply = await server.call("POST", COMPLETIONS, body | {"logprobs": 5})
    # with top_k 1 the other four have no probability once it is applied
    if min(reply["choices"][0]["logprobs"]["top_logprobs"][0].values()) > IMPOSSIBLE:
        raise ConfigError(
            f"rollout.servers: {server.url} gives log-probabilities before temperature and"
            f" truncation; {HOW}, or with --logprobs-mode processed_logprobs"
        )
