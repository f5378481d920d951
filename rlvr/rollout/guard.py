"""What `rlvr serve` puts before a vLLM server: a key on every path, and a name for the process.

vLLM asks for its API key under /v1 only, but its development endpoints, which replace the weights,
lie outside.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

INSTANCE_HEADER = "x-rlvr-instance"
"""Header of every reply: a random name of the server process, so that a restart is noticed."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Guard:
    """ASGI middleware: 401 without the key of VLLM_API_KEY, except for /health."""

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]]) -> None:
        self._app = app
        self._wanted = f"Bearer {os.environ['VLLM_API_KEY']}".encode()
        self._instance = (INSTANCE_HEADER.encode(), secrets.token_hex(8).encode())

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), self._instance]
            await send(message)

        given = dict(scope["headers"]).get(b"authorization", b"")
        if scope["path"] == "/health" or hmac.compare_digest(given, self._wanted):
            return await self._app(scope, receive, send_named)
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008})
        start = {"type": "http.response.start", "status": 401, "headers": []}
        await send_named(start)
        await send({"type": "http.response.body", "body": b'{"error": "Unauthorized"}'})
