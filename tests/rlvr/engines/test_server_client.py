"""What is asked of a server before a run, over real HTTP."""

import asyncio
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rlvr.common.errors import ConfigError
from rlvr.engines.server.client import Server, check_pauses, session
from rlvr.engines.server.pool import largest_difference


class Plain(BaseHTTPRequestHandler):
    """A server without the guard of `rlvr serve`: it knows none of its paths."""

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def plain_url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Plain) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_server_that_cannot_end_responses_is_refused_for_partial_rollouts(plain_url):
    async def look() -> None:
        async with session(None) as http:
            await check_pauses(Server(plain_url, http))

    with pytest.raises(ConfigError, match=r"rollout\.partial = true: .* rlvr serve"):
        asyncio.run(look())


def test_a_score_that_is_no_number_makes_two_servers_differ_wherever_it_stands():
    assert largest_difference([[-1.0, -2.0], [-3.0]], [[-1.5, -2.0], [-3.0]]) == 0.5
    for bad in ([[math.nan, -2.0], [-3.0]], [[-1.0, math.nan], [-3.0]], [[-1.0, -2.0], [math.nan]]):
        assert math.isnan(largest_difference(bad, [[-1.0, -2.0], [-3.0]]))
