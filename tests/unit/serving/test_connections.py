from __future__ import annotations

import socket
import threading
import time

import pytest
import uvicorn

from agfnet.prediction.predictor import Predictor
from agfnet.serving.run import Impatient, serve
from agfnet.serving.settings import ServiceSettings
from agfnet.types import ConfigError


async def hello(_scope, _receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"hi"})


class VeryImpatient(Impatient):
    patience = 0.3


def test_a_connection_that_asks_nothing_is_closed():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        address = found.getsockname()
    host, port = address
    server = uvicorn.Server(uvicorn.Config(hello, host, port, http=VeryImpatient, lifespan="off", log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        with socket.create_connection(address, 5) as silent, socket.create_connection(address, 5) as slow:
            slow.sendall(b"GET / HTTP/1.1\r\n")
            assert silent.recv(10) == b""
            assert slow.recv(10) == b""
        with socket.create_connection(address, 5) as asking:
            for _ in range(2):
                asking.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                received = b""
                while not received.endswith(b"hi"):
                    received += asking.recv(200)
                time.sleep(0.4)
    finally:
        server.should_exit = True
        thread.join(10)


def test_a_port_in_use_is_said_before_anything_else(trained, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = ServiceSettings(port=taken.getsockname()[1], audit=tmp_path / "audit.sqlite")
        with pytest.raises(ConfigError, match="Choose another --port"):
            serve(Predictor(trained, threads=1), settings)
