"""The service in this process: what it answers, what it refuses, and what it keeps."""

from __future__ import annotations

import base64
import io
import json
import logging
import re
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from dicom_files import content_of, dicom, smooth
from PIL import Image
from starlette.testclient import TestClient

from agfnet import places
from agfnet.data.table import read_cases
from agfnet.prediction.explanation import explain
from agfnet.prediction.predictor import Predictor
from agfnet.serving.app import create_app
from agfnet.serving.audit import AuditLog, verify
from agfnet.serving.forms import WholeForm
from agfnet.serving.guard import SECURITY_HEADERS
from agfnet.serving.settings import ServiceSettings
from agfnet.types import RESEARCH_USE

TOKEN = "a-token-that-nobody-guesses"
FORM = {"Content-Type": "multipart/form-data; boundary=x"}
OWN = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def predictor(calibrated):
    return Predictor(calibrated, threads=1)


@pytest.fixture(scope="module")
def case(drawn):
    return next(c for c in read_cases(drawn / "parts.csv") if all(c.views.values()))


@pytest.fixture(scope="module")
def audit(tmp_path_factory):
    return tmp_path_factory.mktemp("audit") / "audit.sqlite"


@pytest.fixture(scope="module")
def client(predictor, audit):
    settings = ServiceSettings(tokens={TOKEN: "ward"}, audit=audit, max_body=2 * 2**20)
    with TestClient(create_app(predictor, settings), headers=OWN, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def files(case):
    return {view: (f"Doe^Jane {view}.png", paths[0].read_bytes()) for view, paths in case.views.items()}


def test_it_answers_as_the_predictor_does(client, files, predictor, case):
    said = client.post("/v1/predict", files=files)
    assert said.status_code == 200
    answer = said.json()
    ((_, expected, _),) = predictor.predict([case])
    assert list(answer["probabilities"].values()) == pytest.approx(expected.probabilities, abs=1e-5)
    assert answer["diagnosis_set"] == [predictor.classes[k] for k in expected.diagnosis_set]
    assert answer["referred"] == bool(expected.referred)
    assert answer["coverage"] == 0.9
    assert answer["notice"] == RESEARCH_USE
    assert answer["bundle_sha256"] == predictor.bundle.sha256
    assert answer["views_missing"] == []
    for view, own in answer["views"].items():
        assert list(own["probabilities"].values()) == pytest.approx(expected.view_probabilities[view], abs=1e-5)


def test_one_view_is_enough(client, files):
    answer = client.post("/v1/predict", files={"clinical": files["clinical"]}).json()
    assert answer["views_missing"] == ["ultrasound"]
    assert list(answer["views"]) == ["clinical"]


def test_it_explains_as_the_library_does(client, files, predictor, case):
    said = client.post("/v1/explain", files=files, data={"mm_per_pixel_ultrasound": "0.2"})
    answer = said.json()
    assert said.status_code == 200
    made = explain(predictor, case)
    assert answer["baseline"] == pytest.approx(made.baseline)
    for view, own in answer["views"].items():
        assert own["share"] == pytest.approx(made.shares[view], abs=1e-4)
        frame = np.asarray(picture(own["frame"]))
        assert np.array_equal(frame, made.frames[view])
        glass = picture(own["evidence"])
        assert glass.mode == "RGBA"
        assert glass.size == (frame.shape[1], frame.shape[0])
    assert answer["views"]["clinical"]["mm_per_pixel"] is None
    assert answer["views"]["ultrasound"]["mm_per_pixel"] == pytest.approx(0.2 * 72 / frame.shape[0], rel=0.1)


def picture(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))


def test_the_model_tells_what_it_is(client, predictor):
    told = client.get("/v1/model").json()
    assert told["classes"] == list(predictor.classes)
    assert told["sha256"] == predictor.bundle.sha256
    assert told["views"]["ultrasound"]["kind"] == "ultrasound"
    assert told["prevalence"] == pytest.approx(dict(zip(predictor.classes, predictor.prior, strict=True)))
    assert told["calibrated"] is True
    assert told["signature"] == "none"


def test_feedback_belongs_to_an_answer(client, files):
    answer = client.post("/v1/predict", files=files).json()

    def counted():
        return sum(
            map(float, re.findall(r"^agfnet_feedback_total\{.*\} (.+)$", client.get("/metrics").text, re.MULTILINE))
        )

    before = counted()
    for diagnosis in ("lipoma", "lipoma", "cyst"):  # sent again, then corrected: kept, and counted once
        said = client.post("/v1/feedback", json={"request_id": answer["request_id"], "diagnosis": diagnosis})
        assert said.json() == {"request_id": answer["request_id"], "recorded": True}
    assert counted() == before + 1
    unknown = {"request_id": "00000000-0000-0000-0000-000000000000", "diagnosis": "lipoma"}
    assert client.post("/v1/feedback", json=unknown).status_code == 404
    wrong = {"request_id": answer["request_id"], "diagnosis": "wart"}
    assert client.post("/v1/feedback", json=wrong).json()["code"] == "unknown-diagnosis"
    assert client.post("/v1/feedback", json={"request_id": 3}).json()["code"] == "malformed-body"


def test_every_answer_is_in_the_audit_log_and_no_identifier_is(client, files, audit, caplog):
    before = verify(audit).entries
    with caplog.at_level(logging.INFO, logger="agfnet.serving"):
        answer = client.post("/v1/predict", files=files).json()
    assert verify(audit).entries == before + 1
    content = b"".join(path.read_bytes() for path in audit.parent.iterdir())
    assert answer["request_id"].encode() in content
    assert b"ward" in content
    for text in (content.decode("latin-1"), caplog.text, json.dumps(answer)):
        assert "Doe" not in text
        assert TOKEN not in text
    line = json.loads(next(r.message for r in caplog.records if answer["request_id"] in r.message))
    assert line["status"] == 200
    assert line["path"] == "/v1/predict"


def bad(kind):
    stream = io.BytesIO()
    if kind == "thin":
        Image.new("RGB", (900, 10)).save(stream, "PNG")
    elif kind == "small":
        Image.new("RGB", (5, 5)).save(stream, "PNG")
    elif kind == "truncated":
        Image.effect_noise((90, 90), 50).save(stream, "JPEG")
        return stream.getvalue()[:900]
    else:
        return {"empty": b"", "text": b"not an image, a letter", "pdf": b"%PDF-1.7 ", "bytes": bytes(range(256))}[kind]
    return stream.getvalue()


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("empty", 422, "empty-file"),
        ("text", 415, "not-an-image"),
        ("pdf", 415, "not-an-image"),
        ("bytes", 415, "not-an-image"),
        ("truncated", 422, "truncated-image"),
        ("thin", 422, "extreme-aspect"),
        ("small", 422, "too-small-image"),
    ],
)
def test_a_bad_image_is_named_with_its_view(client, files, kind, status, code):
    said = client.post("/v1/explain", files={**files, "ultrasound": ("scan.png", bad(kind))})
    assert (said.status_code, said.json()["code"], said.json()["view"]) == (status, code, "ultrasound")
    assert "scan.png" not in said.text


@pytest.mark.parametrize("lost", [8, 3000])
def test_a_form_that_breaks_off_is_not_answered(client, files, lost):
    """The body is whole for HTTP: a client or something on the way lost its end, and with it the scan."""
    whole = client.build_request("POST", "/v1/predict", files=files)
    content = whole.read()
    said = client.post("/v1/predict", content=content, headers={"Content-Type": whole.headers["Content-Type"]})
    assert said.status_code == 200
    said = client.post("/v1/predict", content=content[:-lost], headers={"Content-Type": whole.headers["Content-Type"]})
    assert (said.status_code, said.json()["code"]) == (400, "malformed-body")


def test_images_of_two_patients_or_in_the_wrong_place_are_not_answered(client):
    photo, scan = (content_of(dicom(smooth(1, 64, 64), modality=kind)) for kind in ("XC", "US"))
    other = content_of(dicom(smooth(1, 64, 64), modality="US", PatientID="other"))
    nameless = content_of(dicom(smooth(1, 64, 64), modality="US", PatientID=""))

    def code(**files):
        said = client.post("/v1/predict", files={view: ("a.dcm", content) for view, content in files.items()})
        return said.status_code, said.json().get("code")

    assert code(clinical=photo, ultrasound=scan) == (200, None)
    assert code(clinical=photo, ultrasound=nameless) == (200, None)
    assert code(clinical=photo, ultrasound=other) == (422, "other-patient")
    assert code(clinical=scan) == (422, "wrong-view")
    assert code(ultrasound=photo) == (422, "wrong-view")


def test_an_image_that_is_sent_twice_is_not_answered(client, files):
    photo, scan = (files[view][1] for view in ("clinical", "ultrasound"))
    for fields, view in (
        ([("clinical", photo), ("ultrasound", photo)], "ultrasound"),
        ([("clinical", photo), ("ultrasound", scan), ("clinical", photo)], "clinical"),
    ):
        said = client.post("/v1/predict", files=[(name, ("a.png", content)) for name, content in fields])
        assert (said.status_code, said.json()["code"], said.json()["view"]) == (422, "duplicate-image", view)


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        ({"data": {"mm_per_pixel_clinical": "0.1"}}, 415, "malformed-body"),
        ({"files": {"mri": ("a.png", b"a")}}, 422, "unknown-field"),
        ({"files": {"ultrasound": ("a.png", b"a")}, "data": {"clinical": "photo.jpg"}}, 422, "no-view"),
        ({"files": {"clinical": ("a.png", b"a")}, "data": {"patient": "Doe"}}, 422, "unknown-field"),
        ({"files": {"clinical": ("a.png", b"a")}, "data": {"mm_per_pixel_clinical": "wide"}}, 422, "bad-scale"),
        ({"files": {"clinical": ("a.png", b"a")}, "data": {"mm_per_pixel_clinical": "nan"}}, 422, "bad-scale"),
        ({"files": {"clinical": ("a.png", b"a")}, "data": {"mm_per_pixel_clinical": "5"}}, 422, "bad-scale"),
        ({"files": {"clinical": ("a.png", b"a")}, "data": {"mm_per_pixel_clinical": ["0.1", "1"]}}, 422, "bad-scale"),
        ({"files": {"clinical": ("a.png", b"a")}, "data": {"mm_per_pixel_ultrasound": "0.1"}}, 422, "bad-scale"),
        ({"files": [("clinical", ("a.png", b"a"))] * 9}, 422, "too-many-images"),
        ({"files": [("clinical", ("a.png", b"a"))] * 40}, 400, "malformed-body"),
        (
            {"content": b"--x\r\n", "headers": FORM},
            400,
            "malformed-body",
        ),
        ({"content": b"--x--\r\n", "headers": FORM}, 422, "no-view"),
        ({"content": b"nonsense", "headers": FORM}, 400, None),
        ({"content": b"nonsense", "headers": {"Content-Type": "multipart/form-data"}}, 400, "malformed-body"),
        ({"json": {}}, 415, "malformed-body"),
        ({"files": {"clinical": ("a.png", bytes(3 * 2**20))}}, 413, "oversized-body"),
    ],
)
def test_a_bad_request_is_refused(client, request_, status, code):
    said = client.post("/v1/predict", **request_)
    assert said.status_code == status
    assert code in (None, said.json()["code"])


@pytest.mark.parametrize("url", ["s3://bucket/a.jpg", "http://169.254.169.254/a.jpg", "file:///etc/passwd"])
def test_nothing_in_a_request_leads_to_a_url(client, files, url, monkeypatch):
    monkeypatch.setattr(places, "_store", lambda _: pytest.fail("opened a URL"))
    monkeypatch.setattr(places.Url, "__init__", lambda *_: pytest.fail("made a URL"))
    bodies = [
        {"files": {"clinical": (url, url.encode())}},
        {"data": {"clinical": url}},
        {"files": {"clinical": (url, b"\x89PNG\r\n\x1a\n" + url.encode())}},
        {"files": {"clinical": files["clinical"]}, "data": {"mm_per_pixel_clinical": url}},
        {"json": {"clinical": url}},
    ]
    for path in ("/v1/predict", "/v1/explain"):
        assert {client.post(path, **body).status_code for body in bodies} <= {415, 422}
    named = {view: (url, content) for view, (_, content) in files.items()}
    assert client.post("/v1/predict", files=named).status_code == 200
    assert client.post("/v1/feedback", json={"request_id": url, "diagnosis": url}).status_code in {404, 422}


@pytest.mark.parametrize("path", ["/nowhere", "/v1/../../etc/passwd", "/page/..%2f..%2fapp.py", "/page/../app.py"])
def test_what_is_not_there(client, path):
    said = client.get(path)
    assert said.status_code == 404
    assert "import" not in said.text


def test_the_wrong_method(client):
    said = client.get("/v1/predict")
    assert (said.status_code, said.json()["code"]) == (405, "method-not-allowed")
    assert "POST" in said.headers["allow"]


@pytest.mark.parametrize("header", ["", "Bearer wrong", f"Basic {TOKEN}"])
@pytest.mark.parametrize(
    "path", ["/v1/model", "/v1/openapi.json", "/metrics", "/readyz", "/v1/predict", "/nowhere", "/docs"]
)
def test_without_a_token_nothing_is_learnt(client, path, header):
    told = {
        client.request(method, path, headers={"Authorization": header}).text for method in ("GET", "POST", "DELETE")
    }
    assert len(told) == 1
    assert json.loads(told.pop())["code"] == "unauthorized"


def test_the_page_needs_no_token_and_names_no_model(client, predictor):
    page = client.get("/", headers={"Authorization": ""})
    assert page.status_code == 200
    assert not any(name in page.text for name in (*predictor.classes, predictor.bundle.sha256[:12]))


@pytest.mark.parametrize("path", ["/", "/healthz", "/v1/model", "/nowhere", "/v1/predict"])
def test_every_answer_has_the_security_headers(client, path):
    said = client.get(path)
    for name, value in SECURITY_HEADERS.items():
        assert said.headers[name] == value
    assert re.fullmatch(r"[0-9a-f-]{36}", said.headers["x-request-id"])


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_page_of_another_origin_is_refused(client, files, headers):
    """Whatever it asks for, but a link may lead to the page."""
    refused = [client.post("/v1/predict", files=files, headers=headers)]
    refused += [client.get(path, headers=headers) for path in ("/v1/model", "/v1/openapi.json", "/metrics", "/readyz")]
    assert {(said.status_code, said.json()["code"]) for said in refused} == {(403, "forbidden")}
    assert client.get("/", headers=headers).status_code == 200


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_its_own_page_and_what_is_typed_are_not(client, site):
    headers = {"Origin": "http://testserver", "Sec-Fetch-Site": site}
    assert client.get("/v1/model", headers=headers).status_code == 200


def test_an_unknown_scale_is_said_where_the_model_has_a_fixed_one(calibrated, files, tmp_path):
    fixed = Predictor(calibrated, threads=1)
    fixed.specs = fixed.specs | {"ultrasound": replace(fixed.specs["ultrasound"], mm_per_pixel=0.1)}
    app = create_app(fixed, ServiceSettings(tokens={TOKEN: "ward"}, audit=tmp_path / "audit.sqlite"))
    with TestClient(app, headers=OWN) as client:
        said = client.post("/v1/predict", files=files).json()["warnings"]
        assert said == [{"code": "no-scale", "view": "ultrasound", "detail": None}]
        given = {"mm_per_pixel_ultrasound": "0.12"}
        assert client.post("/v1/predict", files=files, data=given).json()["warnings"] == []
        wrong = client.post("/v1/predict", files=files, data={"mm_per_pixel_ultrasound": "2"})
        assert (wrong.status_code, wrong.json()["code"]) == (422, "implausible-scale")
        assert wrong.json()["view"] == "ultrasound"


def test_the_frame_of_a_clip_is_said(client):
    clip = dicom(np.stack([smooth(k, 64, 64) for k in range(4)]), modality="US", NumberOfFrames=4)
    answer = client.post("/v1/predict", files={"ultrasound": ("clip.dcm", content_of(clip))}).json()
    assert answer["warnings"] == [{"code": "clip", "view": "ultrasound", "detail": "3/4"}]


def test_without_tokens_only_as_localhost(predictor, tmp_path):
    app = create_app(predictor, ServiceSettings(audit=tmp_path / "audit.sqlite"))
    with TestClient(app, base_url="http://localhost:8000") as local:
        assert local.get("/v1/model").status_code == 200
        assert local.get("/v1/model", headers={"Host": "rebound.example"}).status_code == 403


def test_a_full_service_says_when_to_come_again(predictor, files, tmp_path):
    settings = ServiceSettings(audit=tmp_path / "audit.sqlite", queue=1)
    app = create_app(predictor, settings)
    with TestClient(app, base_url="http://localhost") as local:
        assert local.post("/v1/predict", files=files).status_code == 200
        door = next(m.kwargs["door"] for m in app.user_middleware)
        with door.entered():
            said = local.post("/v1/predict", files=files)
            assert (said.status_code, said.json()["code"], said.headers["retry-after"]) == (503, "busy", "1")
            assert local.get("/readyz").status_code == 503
            assert local.get("/healthz").status_code == 200
        assert local.post("/v1/predict", files=files).status_code == 200


def test_an_answer_that_cannot_be_recorded_is_not_given(predictor, files, tmp_path, caplog):
    app = create_app(predictor, ServiceSettings(audit=tmp_path / "audit.sqlite"))
    with TestClient(app, base_url="http://localhost") as local:
        assert "agfnet_audit_failing 0.0" in local.get("/metrics").text
        with closing(sqlite3.connect(tmp_path / "audit.sqlite", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            said = local.post("/v1/predict", files=files)
            assert (said.status_code, said.json()["code"]) == (503, "audit")
            assert str(tmp_path) not in said.text
            assert str(tmp_path) in caplog.text
            ready = local.get("/readyz")
            assert (ready.status_code, ready.json()["code"]) == (503, "audit")
            assert "agfnet_audit_failing 1.0" in local.get("/metrics").text
        assert local.get("/readyz").status_code == 200
        assert local.post("/v1/predict", files=files).status_code == 200


def test_metrics_count_what_happened(client, files):
    client.post("/v1/predict", files=files)
    client.get("/v1/secret/of/a/patient")
    text = client.get("/metrics").text
    assert re.search(r'agfnet_requests_total\{path="/v1/predict",status="200"\} [1-9]', text)
    assert re.search(r'agfnet_requests_total\{path="other",status="404"\} [1-9]', text)
    assert "secret" not in text
    assert re.search(r'agfnet_input_drift\{view="clinical"\} \d', text)
    assert re.search(r'agfnet_output_drift\{figure="predicted"\} \d', text)
    assert re.search(r"agfnet_drift_cases [1-9]", text)
    assert "agfnet_open_requests 0.0" in text


def test_a_form_that_takes_long_to_read_keeps_no_one_else_waiting(predictor, files, tmp_path, monkeypatch):
    """Its reading goes on in a thread: the service lives, and gives up after its time."""
    parse, begun = WholeForm.parse, threading.Event()

    async def slowly(parser):
        begun.set()
        time.sleep(4.0)  # as a parser that is kept busy: it gives way to nothing
        return await parse(parser)

    settings = ServiceSettings(tokens={TOKEN: "ward"}, audit=tmp_path / "audit.sqlite", timeout=1.0)
    with TestClient(create_app(predictor, settings), headers=OWN, raise_server_exceptions=False) as client:
        monkeypatch.setattr(WholeForm, "parse", slowly)
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(client.post, "/v1/predict", files=files)
            assert begun.wait(30.0)
            began = time.monotonic()
            assert client.get("/healthz").status_code == 200
            assert time.monotonic() - began < 3.0
            assert asked.result().status_code == 504


def test_a_form_in_no_character_set_is_refused(client, files):
    request = client.build_request("POST", "/v1/predict", files=files)
    request.headers["Content-Type"] += "; charset=undefined"
    assert client.send(request).status_code == 400


@pytest.mark.parametrize(
    ("path", "status"), [("/", 200), ("/healthz", 200), ("/readyz", 200), ("/v1/model", 200), ("/page/app.js", 200),
                         ("/v1/predict", 405), ("/none", 404)],
)  # fmt: skip
def test_heads_are_as_of_get(client, path, status):
    told = client.head(path)
    assert told.status_code == status == client.get(path).status_code
    assert told.headers["content-length"] == client.get(path).headers["content-length"]


def test_an_audit_log_that_does_not_answer_holds_nobody_for_long(predictor, files, tmp_path, monkeypatch):
    settings = ServiceSettings(tokens={TOKEN: "ward"}, audit=tmp_path / "audit.sqlite", audit_timeout=0.2)
    with TestClient(create_app(predictor, settings), headers=OWN, raise_server_exceptions=False) as client:
        monkeypatch.setattr(AuditLog, "add", lambda *_: time.sleep(1.0))
        said = client.post("/v1/predict", files=files)
        assert "agfnet_audit_failing 1.0" in client.get("/metrics").text
    assert said.status_code == 503
    assert said.json()["code"] == "audit"


def test_who_goes_away_is_not_answered_nor_entered(predictor, files, tmp_path):
    """A cancelled question gives its place back, and the audit log tells of no answer that nobody got."""
    settings = ServiceSettings(tokens={TOKEN: "ward"}, audit=tmp_path / "audit.sqlite")
    with TestClient(create_app(predictor, settings), headers=OWN) as client:
        sent = client.build_request("POST", "/v1/predict", files=files)
        body = sent.read()

        async def ask():
            coming = iter([{"type": "http.request", "body": body, "more_body": False}])
            said = []

            async def receive():
                return next(coming, {"type": "http.disconnect"})

            async def send(message):
                said.append(message)

            headers = [(name.lower().encode(), value.encode()) for name, value in sent.headers.items()]
            scope = {
                "type": "http", "method": "POST", "path": "/v1/predict", "raw_path": b"/v1/predict", "headers": headers,
                "query_string": b"", "scheme": "http", "server": ("localhost", 80), "client": None, "root_path": "",
                "http_version": "1.1",
            }  # fmt: skip
            await client.app(scope, receive, send)
            return said[0]["status"]

        assert client.portal.call(ask) == 400
    assert verify(tmp_path / "audit.sqlite").entries == 0
