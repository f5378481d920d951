"""A stand-in for the hub's API over HTTP: makes repositories and branches, takes commits and LFS
objects, and keeps what it was sent."""

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_stand_in_for_a_token"


class Hub(ThreadingHTTPServer):
    """repos: by id whether it is private. files: by (repository, branch) content by path. asked:
    (method, path) of every request. read_only: the token may not write."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, bool] = {}
        self.files: dict[tuple[str, str], dict[str, bytes]] = {}
        self.objects: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []
        self.read_only = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        self._answer("POST")

    def do_GET(self) -> None:
        self._answer("GET")

    def do_PUT(self) -> None:
        self._answer("PUT")

    def _answer(self, method: str) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((method, self.path))
        code, tree = self._reply(method, self.path.partition("?")[0], body)
        text = json.dumps(tree).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _reply(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        hub = self.server
        if method == "PUT":  # an LFS object, to an address that needs no token
            hub.objects[path.rpartition("/")[2]] = body
            return 200, {}
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid username or password."}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if hub.read_only:
                return 403, {"error": "You don't have the rights to create a model here"}
            code = 409 if name in hub.repos else 200
            is_private = asked.get("visibility") == "private" or bool(asked.get("private"))
            hub.repos.setdefault(name, is_private)
            return code, {"url": f"{hub.url}/{name}", "name": name}
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)", path):
            name = found[1]
            if name not in hub.repos:
                return 404, {"error": "Repository not found"}
            return 200, {"id": name, "private": hub.repos[name], "siblings": []}
        if found := re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", path):
            objects = json.loads(body)["objects"]
            for one in objects:
                one["actions"] = {"upload": {"href": f"{hub.url}/objects/{one['oid']}"}}
            return 200, {"transfer": "basic", "objects": objects}
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(branch|preupload|commit)/(.+)", path)
        assert found, path
        repo, what, branch = found.groups()
        if what == "branch":
            hub.files.setdefault((repo, branch), {})
            return 200, {}
        if what == "preupload":
            files = json.loads(body)["files"]
            modes = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for one in files
            ]
            return 200, {"files": modes}
        kept = hub.files.setdefault((repo, branch), {})
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                kept[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                kept[value["path"]] = hub.objects[value["oid"]]
        return 200, {"commitUrl": f"{hub.url}/{repo}/commit/{'0' * 40}", "commitOid": "0" * 40}


@contextmanager
def running_hub() -> Iterator[Hub]:
    """The stand-in, answering in a thread until the block ends."""
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
