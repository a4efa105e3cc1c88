"""A hub that cannot be reached is said within seconds; one that answers, however badly, is asked as ever."""

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from huggingface_hub import constants

from learnable import hub
from learnable.errors import ModelError
from learnable.models import source
from learnable.types import ModelRef


@pytest.fixture
def online(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "PAUSE_S", 0.0)


@pytest.fixture
def nobody(online, monkeypatch):
    """Let the hub be a port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
        yield


class Broken(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(503)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def broken(online, monkeypatch):
    """Let the hub be a server that is there, and fails."""
    server = HTTPServer(("127.0.0.1", 0), Broken)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.usefixtures("nobody")
def test_a_shut_off_hub_is_named():
    assert "127.0.0.1" in hub.unreachable()
    assert "cannot be reached" in hub.unreachable()


@pytest.mark.usefixtures("broken")
def test_a_hub_that_answers_is_reached_whatever_it_says():
    assert hub.unreachable() is None


def test_offline_mode_is_left_to_the_hub_library(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    assert hub.unreachable() is None


@pytest.mark.usefixtures("nobody")
def test_a_mistyped_hub_id_without_a_network_fails_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    started = time.monotonic()
    with pytest.raises(ModelError, match="cannot be reached") as caught:
        source.locate(ModelRef(name="some-owner/some-model"))
    assert time.monotonic() - started < 5
    assert "check the name, the network" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("startr", "did you mean 'starter'?"),
        ("./qwn", "did you mean 'Qwen'?"),
        ("zzz", "give a model folder, a hub id"),
    ],
)
def test_the_closest_model_is_named(tmp_path, monkeypatch, name, hint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Qwen").mkdir()
    with pytest.raises(ModelError, match="there is no model") as caught:
        source.locate(ModelRef(name=name))
    assert caught.value.hint.startswith(hint)


def test_a_mistyped_folder_that_looks_like_a_hub_id_names_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "reference").mkdir(parents=True)
    with pytest.raises(ModelError) as caught:
        source.locate(ModelRef(name="runs/refrence"))
    assert caught.value.hint == "did you mean 'runs/reference'?"
