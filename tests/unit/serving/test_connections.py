from __future__ import annotations

import asyncio
import socket
import threading
import time

import pytest
import uvicorn

from agfnet.prediction.predictor import Predictor
from agfnet.serving.run import Impatient, serve
from agfnet.serving.settings import ServiceSettings
from agfnet.types import BundleError, ConfigError


async def hello(scope, _receive, send):
    if scope["path"] == "/slow":
        await asyncio.sleep(0.5)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"hi"})


class VeryImpatient(Impatient):
    patience = 0.3


@pytest.fixture
def address():
    """Where a very impatient server answers before it reads."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        where = found.getsockname()
    host, port = where
    server = uvicorn.Server(uvicorn.Config(hello, host, port, http=VeryImpatient, lifespan="off", log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield where
    server.should_exit = True
    thread.join(10)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def answered(connection: socket.socket, request: bytes) -> None:
    connection.sendall(request)
    received = b""
    while not received.endswith(b"hi"):
        more = connection.recv(200)
        assert more, f"closed after {received!r}"
        received += more


def trickle(connection: socket.socket) -> None:
    for _ in range(100):
        connection.sendall(b"x")
        time.sleep(0.02)


def test_a_connection_that_asks_nothing_is_closed(address):
    with socket.create_connection(address, 5) as silent, socket.create_connection(address, 5) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\n")
        assert silent.recv(10) == b""
        assert slow.recv(10) == b""


def test_a_connection_that_asks_again_stays(address):
    with socket.create_connection(address, 5) as asking:
        for _ in range(4):
            answered(asking, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            time.sleep(0.15)


def test_a_request_that_waits_for_the_one_before_is_answered(address):
    with socket.create_connection(address, 2) as asking:
        answered(asking, b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        answered(asking, b"")


def test_a_connection_is_closed_where_the_next_request_does_not_come(address):
    with socket.create_connection(address, 2) as asking:
        answered(asking, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        asking.sendall(b"G")
        assert asking.recv(10) == b""


def test_a_body_that_never_ends_after_the_answer_is_closed(address):
    with socket.create_connection(address, 2) as asking:
        answered(asking, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n")
        with pytest.raises(ConnectionError):
            trickle(asking)


def test_a_port_in_use_is_said_before_anything_else(trained, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = ServiceSettings(port=taken.getsockname()[1], audit=tmp_path / "audit.sqlite")
        with pytest.raises(ConfigError, match="Choose another --port"):
            serve(Predictor(trained, threads=1), settings)


@pytest.mark.parametrize("fault", [BundleError("the network's answer is no number."), RuntimeError("no kernel")])
def test_a_network_that_does_not_answer_is_said_before_the_address(
    trained, tmp_path, fault, monkeypatch, agfnet_command, caplog
):
    def ask(*_, **__):
        raise fault

    monkeypatch.setattr(Predictor, "ask", ask)
    with caplog.at_level("INFO"):
        failed = agfnet_command("serve", trained, "--port", free_port(), "--audit", tmp_path / "audit.sqlite")
    assert failed.exit_code == 1
    assert failed.stderr.splitlines()[-1].startswith("error: ")
    assert str(fault) in failed.stderr
    assert "http://" not in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_short_queue_leaves_room_for_a_browsers_connections(trained, tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda server: ran.append(server.config))
    serve(Predictor(trained, threads=1), ServiceSettings(port=0, audit=tmp_path / "audit.sqlite", queue=1))
    assert ran[0].limit_concurrency >= 100
