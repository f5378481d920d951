"""Headless Chromium over the DevTools protocol: open a page, run a script in it, take a picture."""

import base64
import json
import shutil
import subprocess
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.waiting import HANG_S, wait_until

EXECUTABLE = shutil.which("chromium") or shutil.which("chromium-browser")

FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-extensions
--disable-background-networking --disable-component-update --disable-sync --hide-scrollbars
--disable-dev-shm-usage --remote-debugging-port=0""".split()


class Chromium:
    """One browser with one tab. log: console errors, exceptions and blocked loads of the page.
    requests: addresses that the page asked for."""

    def __init__(self, profile: Path) -> None:
        from websockets.sync.client import connect

        assert EXECUTABLE is not None
        self.log: list[str] = []
        self.requests: list[str] = []
        self._process = subprocess.Popen(
            [EXECUTABLE, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        address = self._address(profile / "DevToolsActivePort")
        with urllib.request.urlopen(f"http://{address}/json/list") as answer:
            target = next(t for t in json.load(answer) if t["type"] == "page")
        self._open = ExitStack()
        self._socket = self._open.enter_context(
            connect(target["webSocketDebuggerUrl"], max_size=None, proxy=None, compression=None)
        )
        self._last_id = 0
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def _address(self, path: Path) -> str:
        def is_open() -> bool:
            assert self._process.poll() is None, "Chromium did not start"
            return path.is_file() and bool(path.read_text().strip())

        assert wait_until(is_open), "Chromium did not open its port"
        return f"127.0.0.1:{path.read_text().splitlines()[0]}"

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of one protocol call."""
        self._last_id += 1
        self._socket.send(json.dumps({"id": self._last_id, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=HANG_S))
            if message.get("id") == self._last_id:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                details = params["exceptionDetails"]
                self.log.append(details.get("exception", {}).get("description", details["text"]))
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.log.append(str(params["args"]))
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.log.append(params["entry"]["text"])
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])

    def open(self, url: str, width: int = 1440, height: int = 900, *, dark: bool = False) -> None:
        """Loads the page in a window of this size and waits until it is built."""
        self.call("Page.navigate", url="about:blank")  # what the page before still asks for ends
        self.log, self.requests = [], []
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.resize(width, height)
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")
        self.run("new Promise(done => requestAnimationFrame(() => setTimeout(done, 30)))")

    def resize(self, width: int, height: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def run(self, script: str) -> Any:
        """The value of an expression in the page, awaited."""
        result = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, script: str) -> None:
        """Until the expression is true."""
        assert wait_until(lambda: self.run(script), 120), f"never true: {script}"

    def press(self, key: str) -> None:
        """One key, as a person presses it."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def picture(self, path: Path, *, whole: bool = True) -> None:
        """A PNG of the whole page, or of the window."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self) -> None:
        self._open.close()
        self._process.terminate()
        self._process.wait(timeout=HANG_S)
