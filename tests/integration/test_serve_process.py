"""The service as a process: start, stop, kill, slow callers, and no torch."""

from __future__ import annotations

import io
import json
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import threading
import time
import warnings
from contextlib import closing

import httpx2
import pytest
from PIL import ExifTags, Image

from agfnet.data.table import read_cases
from agfnet.serving.audit import verify
from served import bearer, serving

TOKEN = "a-token-that-nobody-guesses"


@pytest.fixture(scope="module")
def files(drawn):
    case = next(c for c in read_cases(drawn / "parts.csv") if all(c.views.values()))
    return {view: paths[0].read_bytes() for view, paths in case.views.items()}


class Callers:
    """Threads that ask again and again until the service is gone; keeps what became of each request."""

    def __init__(self, service, files, count):
        self.service, self.files = service, files
        self.answered, self.statuses = [], []
        self.threads = [threading.Thread(target=self.ask) for _ in range(count)]
        for thread in self.threads:
            thread.start()

    def ask(self):
        while True:
            try:
                with httpx2.Client(headers=bearer(self.service.token), timeout=60) as client:
                    said = client.post(f"{self.service.url}/v1/predict", files=self.files)
            except httpx2.TransportError:
                return
            self.statuses.append(said.status_code)
            if said.status_code == 200:
                self.answered.append(said.json()["request_id"])

    def join(self):
        for thread in self.threads:
            thread.join(120)


def test_sigterm_under_load_finishes_what_was_accepted(calibrated, files, tmp_path):
    with serving(calibrated, tmp_path, "--threads", 1, "--queue", 4, token=TOKEN) as service:
        callers = Callers(service, files, 6)
        time.sleep(2)
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(60) == 0
        callers.join()
    assert callers.answered
    assert set(callers.statuses) <= {200, 503}
    assert verify(service.audit).entries == len(callers.answered)  # each that was written was also answered
    # Each that the service began to read was answered. One that came as the socket was closed may have been refused by
    # the system, unread: a caller meets that at most once.
    read = (tmp_path / "serve.log").read_text().count('"method": "POST"')
    assert read == len(callers.statuses)


def test_after_sigkill_the_audit_log_is_whole(calibrated, files, tmp_path):
    with serving(calibrated, tmp_path, "--threads", 1, token=TOKEN) as service:
        callers = Callers(service, files, 3)
        time.sleep(1)
        service.process.kill()
        service.process.wait()
        callers.join()
    before = verify(service.audit)
    assert before.entries >= len(callers.answered) > 0  # what was answered was written first
    stated = "cyst=0.1,lipoma=0.1,naevus=0.8"
    with serving(calibrated, tmp_path, "--threads", 1, "--prevalence", stated, token=TOKEN) as again:
        told = httpx2.get(f"{again.url}/v1/model", headers=bearer(TOKEN)).json()
        assert told["prevalence"] == {"cyst": 0.1, "lipoma": 0.1, "naevus": 0.8}
        answer = httpx2.post(f"{again.url}/v1/predict", files=files, headers=bearer(TOKEN)).json()
        assert answer["prevalence"] == told["prevalence"]
    with closing(sqlite3.connect(service.audit)) as log:
        (content,) = log.execute("SELECT content FROM entries ORDER BY number DESC").fetchone()
    assert json.loads(content)["prevalence"] == told["prevalence"]
    assert verify(service.audit).entries == before.entries + 1


def test_other_machines_need_a_token(calibrated, tmp_path, agfnet_command):
    said = agfnet_command("serve", calibrated, "--host", "0.0.0.0", "--audit", tmp_path / "a.sqlite")
    assert said.exit_code == 1
    assert "give tokens" in said.stderr


def test_slow_headers_and_bodies_do_not_stop_others(calibrated, files, tmp_path):
    with serving(calibrated, tmp_path, "--threads", 1, token=TOKEN) as service:
        port = int(service.url.rpartition(":")[2])
        head = f"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {TOKEN}\r\n"
        slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(8)]
        for i, connection in enumerate(slow):
            connection.sendall(head.encode() if i % 2 else f"{head}Content-Length: 90000\r\n\r\nabc".encode())
        assert httpx2.post(f"{service.url}/v1/predict", files=files, headers=bearer(TOKEN)).status_code == 200
        for connection in slow:
            connection.close()
        assert httpx2.get(f"{service.url}/healthz").status_code == 200


def test_what_pillow_thinks_of_an_upload_stays_out_of_the_log(calibrated, files, tmp_path):
    exif, made = Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.ImageDescription] = "a text of more than four bytes"
    Image.open(io.BytesIO(files["clinical"])).convert("RGB").save(made, "JPEG", exif=exif)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        cut = made.getvalue().replace(struct.pack(">HHI", 270, 2, 31), struct.pack(">HHI", 270, 2, 2**20))
        Image.open(io.BytesIO(cut)).getexif()
    assert said
    with serving(calibrated, tmp_path, "--threads", 1) as service:
        answer = httpx2.post(f"{service.url}/v1/predict", files={**files, "clinical": cut})
        assert answer.status_code == 200
    assert str(said[0].message) not in (tmp_path / "serve.log").read_text()


def test_serving_imports_no_torch(calibrated):
    code = (
        "import sys, agfnet.cli, agfnet.serving.run, agfnet.prediction.explanation\n"
        "from agfnet.prediction.predictor import Predictor\n"
        f"Predictor({str(calibrated)!r}, threads=1)\n"
        "heavy = {'torch', 'torchvision', 'timm', 'pytorch_lightning', 'scipy', 'sklearn', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
