"""Real `rlvr serve` processes on loopback, for tests."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from tests.waiting import HANG_S, wait_until

KEY = "a-key-of-these-tests-only"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class ServerProcess:
    """`rlvr serve RECIPE` on a free port, killed as a whole; `start` again takes the same port."""

    def __init__(self, recipe_path: Path, log: Path, *words: str, **variables: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        self._command = [sys.executable, "-m", "rlvr.cli", "serve", str(recipe_path)]
        self._command += ["--port", str(self.port), *words]
        self._variables = {"RLVR_API_KEY": KEY} | variables
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                env=os.environ | self._variables,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Returns when it answers."""
        process = self.process
        assert process is not None
        assert wait_until(lambda: self._answers() or process.poll() is not None)
        assert process.poll() is None, f"no server:\n{self.log.read_text()[-3000:]}"

    def _answers(self) -> bool:
        try:
            return ask(f"{self.url}/health") == 200
        except OSError:
            time.sleep(0.5)
            return False

    def kill(self) -> None:
        """SIGKILL to the server and its engine process."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def ask(url: str, key: str | None = None, body: bytes | None = None) -> int:
    """The status of one request; a POST where there is a body. Raises: OSError."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    request = urllib.request.Request(url, data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=HANG_S) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code
