"""The service under twice the load that it can bear, and under input that is meant to break it.

`AGFNET_LOAD_SECONDS` changes how long the load lasts (600).
"""

from __future__ import annotations

import io
import json
import os
import random
import signal
import statistics
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx2
import numpy as np
import pytest
from malformed_dicom import MALFORMED
from PIL import Image

from agfnet.data.table import read_cases
from agfnet.prediction.predictor import Predictor
from agfnet.serving.audit import verify
from served import bearer, serving

pytestmark = pytest.mark.full
TOKEN = "a-token-that-nobody-guesses"
SECONDS = float(os.environ.get("AGFNET_LOAD_SECONDS", "600"))


@pytest.fixture(scope="module")
def asked(calibrated, drawn):
    """Cases with both views: the files, and the predictor's own answer."""
    cases = [c for c in read_cases(drawn / "parts.csv") if all(c.views.values())][:12]
    told = list(Predictor(calibrated, threads=1).predict(cases))
    return [
        ({view: paths[0].read_bytes() for view, paths in case.views.items()}, prediction.probabilities)
        for case, prediction, _ in told
    ]


def capacity(service, asked):
    """Requests a second of as many callers as the queue has places."""
    until, count = time.monotonic() + 5, Counter()

    def ask(i):
        with httpx2.Client(headers=bearer(TOKEN), timeout=60) as client:
            while time.monotonic() < until:
                count[client.post(f"{service.url}/v1/predict", files=asked[i % len(asked)][0]).status_code] += 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))
    return count[200] / 5


def accepted_seconds(log):
    """From acceptance to answer, by the service's own log: the callers here share its processors."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return [one["ms"] / 1e3 for one in lines if one["path"] == "/v1/predict" and one["status"] == 200]


def test_twice_the_load(calibrated, asked, tmp_path):
    """An open loop: requests come at twice the capacity, whatever became of those before."""
    with serving(calibrated, tmp_path, "--threads", 1, "--queue", 16, token=TOKEN) as service:
        rate = 2 * capacity(service, asked)
        statuses, wrong, broken = Counter(), [], []
        lock, own, before = threading.Lock(), threading.local(), service.resident()

        def ask(number):
            files, expected = asked[number % len(asked)]
            if not hasattr(own, "client"):
                own.client = httpx2.Client(headers=bearer(TOKEN), timeout=120)
            try:
                said = own.client.post(f"{service.url}/v1/predict", files=files)
            except httpx2.TransportError as error:
                with lock:
                    broken.append(repr(error))
                return
            with lock:
                statuses[said.status_code] += 1
                if said.status_code == 200:
                    found = np.array(list(said.json()["probabilities"].values()))
                    if np.abs(found - expected).max() > 1e-4:
                        wrong.append(number)
                elif said.headers.get("retry-after") is None:
                    wrong.append(number)

        started, sent = time.monotonic(), 0
        with ThreadPoolExecutor(64) as pool:
            while time.monotonic() - started < SECONDS:
                due = int((time.monotonic() - started) * rate)
                for _ in range(due - sent):
                    pool.submit(ask, sent)
                    sent += 1
                time.sleep(0.005)
        grown = service.resident() - before
        service.process.send_signal(signal.SIGTERM)
        service.process.wait(60)
    taken = accepted_seconds(tmp_path / "serve.log")
    p99 = statistics.quantiles(taken, n=100)[98]
    print(
        f"{sent} requests in {SECONDS:.0f} s at {rate:.0f} a second: {dict(statuses)}; accepted: "
        f"p50 {statistics.median(taken):.3f} s, p99 {p99:.3f} s; wrong {len(wrong)}, broken {len(broken)}, "
        f"memory {grown / 2**20:+.0f} MiB, ready after {service.ready_after:.1f} s, resident {before / 2**20:.0f} MiB"
    )
    assert not wrong
    assert not broken
    assert set(statuses) == {200, 503}
    assert p99 < 16 / (rate / 2) * 3  # three times a full queue at the measured capacity
    assert grown < 200 * 2**20
    assert verify(service.audit).entries >= statuses[200]


def test_schemathesis(calibrated, tmp_path):
    """5,000 cases made from the OpenAPI document: no fault of the server, and every status is documented."""
    import schemathesis  # noqa: PLC0415 - slow to import
    from hypothesis import HealthCheck, Phase, given, settings  # noqa: PLC0415
    from hypothesis import strategies as st  # noqa: PLC0415

    with serving(calibrated, tmp_path, "--threads", 1, token=TOKEN) as service:
        schema = schemathesis.openapi.from_url(f"{service.url}/v1/openapi.json", headers=bearer(TOKEN))
        statuses = Counter()
        operations = [found.ok() for found in schema.get_all_operations()]
        for operation in operations:

            @settings(
                max_examples=1900 if operation.method.upper() == "POST" else 30, deadline=None, database=None,
                suppress_health_check=list(HealthCheck), phases=[Phase.generate],
            )  # fmt: skip
            @given(case=operation.as_strategy(), with_token=st.sampled_from([True, True, True, False]))
            def ask(case, with_token):
                said = case.call(headers=bearer(TOKEN) if with_token else {})
                statuses[said.status_code] += 1
                assert said.status_code < 500, said.text
                assert str(said.status_code) in case.operation.definition.raw["responses"]

            ask()
        assert httpx2.get(f"{service.url}/readyz", headers=bearer(TOKEN)).status_code == 200
    print(f"{sum(statuses.values())} cases over {len(operations)} operations: {dict(statuses)}")
    assert sum(statuses.values()) >= 5000


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def malformed():
    """Causes of bad images, each with how one is made from a seed."""
    noise = lambda rng, size=(80, 60): Image.fromarray(  # noqa: E731
        np.random.default_rng(rng.randrange(2**32)).integers(0, 255, (*size, 3), np.uint8)
    )
    cut = lambda content, rng: content[: rng.randrange(20, len(content) - 20)]  # noqa: E731

    def scrambled(content, rng):
        changed = bytearray(content)
        for _ in range(60):
            changed[rng.randrange(12, len(changed))] = rng.randrange(256)
        return bytes(changed[: len(changed) * 2 // 3])

    kinds = {"JPEG": {}, "PNG": {}, "TIFF": {"compression": "tiff_lzw"}, "WEBP": {}, "BMP": {}}
    made = {}
    for kind, options in kinds.items():
        made[f"cut {kind}"] = lambda rng, k=kind, o=options: cut(encoded(noise(rng), k, **o), rng)
        made[f"scrambled {kind}"] = lambda rng, k=kind, o=options: scrambled(encoded(noise(rng), k, **o), rng)
        made[f"only the head of {kind}"] = lambda rng, k=kind, o=options: encoded(noise(rng), k, **o)[:16]
        made[f"tiny {kind}"] = lambda rng, k=kind, o=options: encoded(noise(rng, (4, 4)), k, **o)
        made[f"thin {kind}"] = lambda rng, k=kind, o=options: encoded(noise(rng, (9, 700)), k, **o)
    huge = encoded(Image.new("1", (30_000, 30_000)), "PNG")
    made |= {
        "nothing": lambda _rng: b"",
        "text": lambda rng: f"a letter {rng.random()}".encode() * 9,
        "random bytes": lambda rng: rng.randbytes(500),
        "a PDF": lambda rng: b"%PDF-1.7\n" + rng.randbytes(200),
        "a GIF": lambda rng: encoded(noise(rng), "GIF"),
        "a zip": lambda rng: b"PK\x03\x04" + rng.randbytes(200),
        "a bomb": lambda _rng: huge,
        "zeros": lambda rng: bytes(rng.randrange(100, 10_000)),
        "an SVG": lambda _rng: b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "DICOM's mark and noise": lambda rng: bytes(128) + b"DICM" + rng.randbytes(400),
    }
    # What is too large for a test's limits need not be for the service's.
    dicom = {n: make for n, (cause, make) in MALFORMED.items() if cause != "oversized-image"}
    return made | {f"DICOM: {name}": lambda _rng, make=make: make() for name, make in dicom.items()}


def test_malformed_images(calibrated, asked, tmp_path):
    """Every one is refused with a reason; the service lives, and its memory does not grow."""
    causes, rng, statuses = malformed(), random.Random(0), Counter()
    with serving(calibrated, tmp_path, "--threads", 1, token=TOKEN) as service:
        files, _ = asked[0]
        with httpx2.Client(headers=bearer(TOKEN), timeout=60) as client:

            def ask(content):
                return client.post(f"{service.url}/v1/predict", files={**files, "clinical": content})

            for _ in range(5):
                ask(files["clinical"])
            before = service.resident()
            for _ in range(3):
                for name, make in causes.items():
                    said = ask(make(rng))
                    statuses[said.status_code] += 1
                    assert 400 <= said.status_code < 500, (name, said.status_code, said.text)
                    assert said.json()["view"] == "clinical"
            grown = service.resident() - before
            assert ask(files["clinical"]).status_code == 200
    assert sum(statuses.values()) >= 200
    print(f"{sum(statuses.values())} files of {len(causes)} causes: {dict(statuses)}, memory {grown / 2**20:+.0f} MiB")
    assert len(causes) >= 25
    assert grown < 100 * 2**20
