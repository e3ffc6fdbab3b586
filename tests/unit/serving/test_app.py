"""The service in this process: what it keeps of a request, and how many it works on."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import pytest
from starlette.testclient import TestClient

from agfnet.data.table import read_cases
from agfnet.prediction.drift import Drift
from agfnet.prediction.predictor import Predictor
from agfnet.serving.app import create_app
from agfnet.serving.problems import Problem
from agfnet.serving.replies import Deadline, Upload, read_upload
from agfnet.serving.settings import UPLOAD_LIMITS, ServiceSettings


@pytest.fixture
def predictor(calibrated):
    return Predictor(calibrated, threads=1)


@pytest.fixture(scope="module")
def files(drawn):
    case = next(c for c in read_cases(drawn / "parts.csv") if all(c.views.values()))
    return {view: paths[0].read_bytes() for view, paths in case.views.items()}


@contextmanager
def asked(predictor, audit, **settings):
    """A client of the service, as this machine."""
    app = create_app(predictor, ServiceSettings(audit=audit, **settings))
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client


def written(audit, request_id):
    """What the audit log holds of a request."""
    with closing(sqlite3.connect(audit)) as log:
        found = log.execute("SELECT content FROM entries WHERE request_id = ? ORDER BY number", (request_id,))
        return [json.loads(content) for (content,) in found]


def test_drift_is_of_answers_for_the_prevalence_that_was_calibrated_for(calibrated, files, tmp_path, monkeypatch):
    """Who states another one would else be told of drift at once."""
    told = []
    monkeypatch.setattr(Drift, "add", lambda _, probabilities, __: told.append(probabilities))
    usual = Predictor(calibrated, threads=1)
    rare = dict.fromkeys(usual.classes, 0.01) | {usual.classes[0]: 0.98}
    answers = []
    for number, own in enumerate((usual, Predictor(calibrated, threads=1, prevalence=rare))):
        with asked(own, tmp_path / f"{number}.sqlite") as client:
            said = client.post("/v1/predict", files={view: ("a.png", one) for view, one in files.items()}).json()
            answers.append(said["probabilities"])
    assert answers[0] != answers[1]
    assert told[0] == pytest.approx(list(answers[0].values()))
    assert told[1] == pytest.approx(told[0])


def test_no_image_is_begun_that_nobody_waits_for(predictor, files):
    upload = Upload({view: [one] for view, one in files.items()}, {})
    assert set(read_upload(upload, predictor, UPLOAD_LIMITS, Deadline())) == set(files)
    with pytest.raises(TimeoutError):
        read_upload(upload, predictor, UPLOAD_LIMITS, Deadline(time.monotonic() - 1.0))


def test_an_image_that_is_sent_twice_is_refused_before_any_is_decoded(predictor):
    with pytest.raises(Problem, match="same file"):
        read_upload(Upload({"clinical": [b"no image", b"no image"]}, {}), predictor, UPLOAD_LIMITS, Deadline())


def test_an_entry_of_the_audit_log_says_all_that_was_shown(predictor, files, tmp_path):
    audit = tmp_path / "audit.sqlite"
    with asked(predictor, audit) as client:
        answer = client.post("/v1/explain", files=files, data={"mm_per_pixel_ultrasound": "0.2"}).json()
    (entry,) = written(audit, answer["request_id"])
    assert entry.pop("caller") == "local"
    assert entry.pop("mm_per_pixel") == {"ultrasound": 0.2}
    hashes = {view: [hashlib.sha256(content).hexdigest()] for view, content in files.items()}
    assert entry.pop("inputs_sha256") == hashes
    for own in answer["views"].values():
        del own["frame"], own["evidence"]
    del answer["notice"], answer["request_id"]
    assert entry == answer


def test_a_confirmed_diagnosis_may_be_none_of_the_classes(predictor, files, tmp_path):
    audit = tmp_path / "audit.sqlite"
    with asked(predictor, audit) as client:
        request_id = client.post("/v1/predict", files=files).json()["request_id"]
        told = client.post("/v1/feedback", json={"request_id": request_id, "diagnosis": "other"})
        assert told.json() == {"request_id": request_id, "recorded": True}
        counted = re.findall(r"^agfnet_feedback_total\{(.+)\} (.+)$", client.get("/metrics").text, re.MULTILINE)
    assert counted == [('agrees="no"', "1.0")]
    assert written(audit, request_id)[-1]["diagnosis"] == "other"


def test_a_fault_of_the_network_is_one_line_of_the_log(predictor, files, tmp_path, caplog):
    predictor.ask = lambda *_, **__: 1 / 0
    with asked(predictor, tmp_path / "audit.sqlite") as client:
        said = client.post("/v1/explain", files=files)
    assert (said.status_code, said.json()["code"]) == (500, "internal")
    (line,) = [own for own in caplog.records if own.name == "agfnet.serving" and own.levelno >= logging.ERROR]
    fault = json.loads(line.getMessage())
    assert fault["request_id"] == said.headers["x-request-id"]
    assert "ZeroDivisionError" in fault["fault"]
    assert line.exc_info is None  # or it would be several lines


def test_few_requests_hold_decoded_images_at_once(predictor, files, tmp_path):
    """Looks at 8 photos and 8 scans take several times their upload: a full queue of them would take gigabytes."""
    held, goes_on = [], threading.Event()
    ask, looks = predictor.ask, predictor.looks
    predictor.ask = lambda own, **how: goes_on.wait(30) and ask(own, **how)
    predictor.looks = lambda frames: held.append(frames) or looks(frames)
    with (
        asked(predictor, tmp_path / "audit.sqlite", batch=1, decoders=1) as client,
        ThreadPoolExecutor(6) as callers,
    ):
        told = [callers.submit(client.post, "/v1/predict", files=files) for _ in range(6)]
        while len(held) < 2:
            time.sleep(0.01)
        time.sleep(0.5)
        assert len(held) == 2
        goes_on.set()
        assert [one.result().status_code for one in told] == [200] * 6
