"""What images are known by again, and that files which are none cannot stop or fill the machine."""

from __future__ import annotations

import os

from agfnet.data.fingerprints import image_fingerprints, patient_fingerprint
from agfnet.types import Case


def case(number, *files):
    return Case(case_id=f"c{number}", patient_id="p", row=2, views={"clinical": files})


def test_the_content_counts_and_not_the_name(tmp_path):
    for name, content in {"a.jpg": b"one", "b.jpg": b"one", "c.jpg": b"two"}.items():
        (tmp_path / name).write_bytes(content)
    found = image_fingerprints([case(i, tmp_path / f"{name}.jpg") for i, name in enumerate("abc")])
    assert found["c0"] == found["c1"] != found["c2"]
    assert all(len(one) == 16 for own in found.values() for one in own)


def test_what_cannot_be_read_has_none(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")  # reading it would wait for ever
    (tmp_path / "empty.jpg").touch()
    files = [tmp_path / name for name in ("pipe.jpg", "empty.jpg", "none.jpg")]
    assert image_fingerprints([case(0, *files)]) == {"c0": set()}


def test_patients():
    assert patient_fingerprint("p1") != patient_fingerprint("p2")
