"""The page of a run while it trains: a read-only server on this machine's loopback interface."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from rlvr.report.folder import read_source
from rlvr.report.page import content_policy, page_data, render, safe_json
from rlvr.report.rollouts import StepIndex, groups_of, index_of
from rlvr.runs.reader import read_rollouts

HOST = "127.0.0.1"
ROLLOUTS = re.compile(r"/rollouts/([0-9]{1,6})/([0-9]{1,9})\.json")


class LivePage:
    """The page's data, read again only when a file has changed. Safe from several threads."""

    def __init__(self, folder: Path, analysis_folders: list[Path]) -> None:
        self._folder, self._analysis_folders = folder, analysis_folders
        self._lock = threading.Lock()
        self._seen: dict[Path, tuple[tuple[int, int], StepIndex]] = {}
        self._stamp = ""
        self._files: list[dict[int, Path]] = []
        self._data: dict = {}
        self._body = b""
        self.refresh()

    def refresh(self) -> tuple[dict, bytes, str]:
        """The page's data, the same as JSON, and a tag that changes with it."""
        with self._lock:
            stamp = self._signature()
            if stamp != self._stamp:
                source = read_source(self._folder, self._analysis_folders)
                self._files = source.rollout_files()
                index = [[self._index(n, path) for n, path in f.items()] for f in self._files]
                self._data = page_data(source, index)
                self._body = safe_json(self._data).encode()
                self._stamp = stamp
            # a hash of the data, not of the files: what the page does not show changes nothing
            return self._data, self._body, f'"{hashlib.sha256(self._body).hexdigest()[:24]}"'

    def rollouts(self, run: int, step: int) -> bytes | None:
        """The groups of a step that the index names, as JSON."""
        with self._lock:
            # numbers from the address only choose among files that the index knows
            path = self._files[run].get(step) if run < len(self._files) else None
        return None if path is None else safe_json(groups_of(read_rollouts(path))).encode()

    def _index(self, step: int, path: Path) -> StepIndex:
        stat = path.stat()
        version = (stat.st_mtime_ns, stat.st_size)
        # files of finished steps stay as they are, and reading hundreds again takes seconds
        if path not in self._seen or self._seen[path][0] != version:
            self._seen[path] = (version, index_of(step, read_rollouts(path)))
        return self._seen[path][1]

    def _signature(self) -> str:
        """Names, sizes and times of all files that the page is read from."""
        roots = [self._folder, *self._analysis_folders]
        patterns = ("*.json", "*.jsonl", "*.toml", "eval/*", "rollouts/*", "*/*.json", "runs/*/*")
        patterns += ("trace/*", "runs/*/rollouts/*", "runs/*/eval/*")
        paths = {path for root in roots for pattern in patterns for path in root.glob(pattern)}
        entries = []
        for path in sorted(paths):
            with contextlib.suppress(FileNotFoundError):  # replaced while we look
                stat = path.stat()
                entries.append((str(path), stat.st_size, stat.st_mtime_ns))
        return json.dumps(entries)


def make_server(
    folder: Path, port: int = 0, analysis_folders: list[Path] | None = None
) -> ThreadingHTTPServer:
    """A server on 127.0.0.1 (port 0: a free one), not yet serving. Raises: ConfigError, OSError."""
    page = LivePage(folder, analysis_folders or [])

    class Handler(_Handler):
        live_page = page

    return _Server((HOST, port), Handler)


class _Server(ThreadingHTTPServer):
    daemon_threads = True  # Ctrl-C does not wait for a browser's open connections

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Reports no error when a browser disconnects in the middle of an answer."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """GET of three kinds of paths; no path ever becomes a file name."""

    live_page: LivePage
    server_version, sys_version = "rlvr", ""  # no versions for whoever asks
    timeout = 30  # seconds that a silent client may hold a thread

    def do_GET(self) -> None:  # the name that http.server calls
        if not self._host_is_ours():
            return self._send(403, "text/plain", b"this server answers to 127.0.0.1 alone\n")
        if self.path == "/":
            data, _, _ = self.live_page.refresh()
            return self._send(200, "text/html; charset=utf-8", render(data, {}, live=True).encode())
        if self.path == "/data.json":
            _, body, tag = self.live_page.refresh()
            # the page asks every two seconds, and mostly nothing has changed
            if self.headers.get("If-None-Match") == tag:
                return self._send(304, None, b"", tag)
            return self._send(200, "application/json", body, tag)
        match = ROLLOUTS.fullmatch(self.path)
        body = self.live_page.rollouts(int(match[1]), int(match[2])) if match else None
        if body is None:
            return self._send(404, "text/plain", b"not found\n")
        return self._send(200, "application/json", body)

    def _host_is_ours(self) -> bool:
        """False for a name that somebody else's DNS points at this machine."""
        assert isinstance(self.server, _Server)
        port = self.server.server_port
        return self.headers.get("Host") in (f"{HOST}:{port}", f"localhost:{port}")

    def _send(self, status: int, kind: str | None, body: bytes, tag: str | None = None) -> None:
        self.send_response(status)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "ETag": tag,
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "Content-Security-Policy": content_policy(live=True) + "; frame-ancestors 'none'",
        }
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Any method but GET is 405; nothing of the request is repeated."""
        # 501: what http.server says of a method that has no do_ function
        self._send(405 if code == 501 else code, "text/plain", b"GET only\n")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base's name
        """Logs nothing: a page that asks every two seconds would fill the terminal."""
