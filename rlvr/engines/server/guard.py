"""What `rlvr serve` puts before a vLLM server: a key on every path, a name for the process, paths
on which the workers read their weights back and running responses are ended, and a call that
prepares the workers before the first request.

vLLM asks for its API key under /v1 only, but its development endpoints, which replace the weights,
lie outside.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from rlvr.engines.vllm_cpu import PREPARE
from rlvr.engines.weights.vllm_weights import READ_BACK

INSTANCE_HEADER = "x-rlvr-instance"
"""Header of every reply: a random name of the server process, so that a restart is noticed."""

READ_BACK_PATH = "/rlvr/held"
"""Answers a POST with what each worker holds (`vllm_weights.read`), a list. vLLM's own path to its
workers would let a server that takes adapters have its base replaced too."""

PAUSE_PATH = "/rlvr/pause"
"""A POST ends every response that is running; each is answered with the tokens that it has. A GET
says that there is such a path."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Guard:
    """ASGI middleware: 401 without the key of VLLM_API_KEY, except for /health."""

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]]) -> None:
        self._app = app
        self._wanted = f"Bearer {os.environ['VLLM_API_KEY']}".encode()
        self._preparing: asyncio.Future[Any] | None = None
        self._instance = (INSTANCE_HEADER.encode(), secrets.token_hex(8).encode())

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        # lifespan: the start and the end of the app
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), self._instance]
            await send(message)

        given = dict(scope["headers"]).get(b"authorization", b"")
        # in constant time, which does not tell how much of a key is right
        if scope["path"] == "/health" or hmac.compare_digest(given, self._wanted):
            if scope["path"] != "/health":
                # once: requests that come meanwhile wait for the same call
                self._preparing = self._preparing or asyncio.ensure_future(_prepare(scope))
                await asyncio.shield(self._preparing)  # a client may go away
            if scope["path"] == READ_BACK_PATH:
                return await _answer(send_named, 200, await _read_back(scope, receive))
            if scope["path"] == PAUSE_PATH:
                num_ended = await _pause(scope) if scope["method"] == "POST" else 0
                return await _answer(send_named, 200, num_ended)
            return await self._app(scope, receive, send_named)
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008})
        await _answer(send_named, 401, {"error": "Unauthorized"})


async def _prepare(scope: Message) -> None:
    await scope["app"].state.engine_client.collective_rpc(PREPARE)


async def _read_back(scope: Message, receive: Receive) -> list[Any]:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    engine = scope["app"].state.engine_client
    return await engine.collective_rpc(READ_BACK, kwargs=json.loads(body))


async def _pause(scope: Message) -> int:
    """The number of responses that it has ended."""
    engine = scope["app"].state.engine_client
    # a copy: what is aborted leaves the table
    running = list(engine.output_processor.request_states)
    # internal: the names are those that vLLM gave the requests itself
    await engine.abort(running, internal=True)
    return len(running)


async def _answer(send: Send, status: int, content: Any) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(content).encode()})
