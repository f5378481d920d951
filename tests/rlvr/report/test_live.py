"""The live server: what it answers, to whom, and that it follows the run."""

import http.client
import json
import random
import socket
import threading
from collections.abc import Iterator

import pytest

from rlvr.report.live import make_server
from tests.rlvr.report.folders import healthy_rows, rollout, write_rollouts, write_run
from tests.waiting import HANG_S


@pytest.fixture
def live(tmp_path) -> Iterator[tuple]:
    """(run folder, port) of a server over an unfinished run of 5 steps."""
    folder = write_run(tmp_path / "run", rows=healthy_rows(5), steps_with_rollouts=2)
    (folder / "summary.json").unlink()
    server = make_server(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield folder, server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def ask(port, path="/", method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HANG_S)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


def test_it_listens_on_one_loopback_address(live):
    _, port = live
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), timeout=HANG_S)
    assert ask(port)[0].status == 200


def test_new_steps_and_half_written_lines(live):
    folder, port = live
    answer, body = ask(port, "/data.json")
    tag, before = answer.headers["ETag"], json.loads(body)
    assert ask(port, "/data.json", If_None_Match=tag)[0].status == 304
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(healthy_rows(6)[5]) + "\n" + '{"step": 7, "reward/mean": 0.')
    answer, body = ask(port, "/data.json", If_None_Match=tag)
    assert answer.status == 200
    after = json.loads(body)
    last = [
        next(s for s in tree["sections"] if s["id"] == "learning")["blocks"][0]["series"][-1][
            "points"
        ][-1][0]
        for tree in (before, after)
    ]
    assert last == [5, 6]


def test_rollouts_are_served_by_number_and_nothing_by_name(live):
    folder, port = live
    groups = json.loads(ask(port, "/rollouts/0/5.json")[1])
    assert groups[0]["responses"][0]["reason"] in ("correct", "wrong", "no_answer")
    write_rollouts(folder, 6, [rollout(random.Random(0), 1, 0)])
    ask(port, "/data.json")
    assert ask(port, "/rollouts/0/6.json")[0].status == 200
    for path in (
        "/rollouts/0/99.json",
        "/rollouts/9/5.json",
        "/config.toml",
        "/rollouts/0/../../config.toml",
        "/../../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/rollouts/0/%2e%2e%2fmanifest.json",
        "//etc/passwd",
        "/rollouts/0/5.json?x=1",
    ):
        answer, body = ask(port, path)
        assert (answer.status, body) == (404, b"not found\n"), path


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE"])
def test_every_method_but_get_is_refused(live, method):
    answer, body = ask(live[1], "/", method)
    assert answer.status == 405
    assert b"GET only" in body or method == "HEAD"


def test_another_host_name_is_refused(live):
    port = live[1]
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port + 1}", ""):
        answer, body = ask(port, "/data.json", Host=host)
        assert answer.status == 403
        assert b"sections" not in body
    assert ask(port, "/data.json", Host=f"localhost:{port}")[0].status == 200


def test_headers_forbid_what_the_page_does_not_need(live):
    headers = ask(live[1])[0].headers
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Access-Control-Allow-Origin"] is None


def test_nothing_in_the_folder_is_changed(live):
    folder, port = live

    def state():
        return {p: p.stat().st_mtime_ns for p in folder.rglob("*")}

    before = state()
    for path in ("/", "/data.json", "/rollouts/0/5.json"):
        ask(port, path)
    assert state() == before
