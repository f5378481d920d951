"""Saving an adapter asks the hub for nothing: a sync saves one in every step, on every rank."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import huggingface_hub.constants
import huggingface_hub.hf_api
import pytest

from rlvr.adapters import METHODS

BASE = "someone/a-base"


@pytest.fixture
def requests(monkeypatch):
    """Paths that were asked of a hub on loopback, which has nothing."""
    asked = []

    class Hub(BaseHTTPRequestHandler):
        def answer(self) -> None:
            asked.append(self.path)
            self.send_response(404)
            self.end_headers()

        do_GET = do_HEAD = do_POST = answer

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(
        huggingface_hub.hf_api.api, "endpoint", f"http://127.0.0.1:{server.server_port}"
    )
    yield asked
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("method", ["lora", "dora", "ln_tuning", "prompt_tuning", "houlsby"])
def test_saving_an_adapter_asks_the_hub_for_nothing(make_trained, requests, tmp_path, method):
    policy = make_trained(method).policy
    policy.model.peft_config["default"].base_model_name_or_path = BASE
    policy.save_adapter(tmp_path)
    assert requests == []
    if METHODS[method].save is None:
        policy.model.save_pretrained(tmp_path)  # as peft does by itself
        assert any(BASE in path for path in requests), "else this test shows nothing"
