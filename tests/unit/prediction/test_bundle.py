from __future__ import annotations

import json
import zipfile

import pytest

from agfnet.prediction.bundle import MANIFEST, read_bundle
from agfnet.types import RESEARCH_USE, BundleError


@pytest.fixture
def rewritten(trained, tmp_path):
    """Writes the bundle again with some parts changed (None leaves a part out)."""

    def rewrite(**changes):
        path = tmp_path / "changed.agf"
        with zipfile.ZipFile(trained / "model.agf") as source, zipfile.ZipFile(path, "w") as target:
            for name in source.namelist():
                content = source.read(name)
                key = name.split(".")[0]
                if key in changes:
                    if changes[key] is None:
                        continue
                    content = changes[key](content)
                target.writestr(name, content)
        return path

    return rewrite


def test_facts(trained):
    bundle = read_bundle(trained)
    assert bundle.classes == ("cyst", "lipoma", "naevus")
    assert bundle.extra_classes == {"border": ("sharp", "soft")}
    assert bundle.specs["ultrasound"].kind == "ultrasound"
    assert bundle.facts["notice"] == RESEARCH_USE
    assert bundle.facts["parity"] < 1e-4
    assert read_bundle(trained / "model.agf").sha256 == bundle.sha256


def newer(content: bytes) -> bytes:
    return json.dumps(json.loads(content) | {"format": 99}).encode()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": lambda c: c[:-1] + bytes([c[-1] ^ 1])}, "SHA-256 differs"),
        ({"weights": lambda c: c + b"0"}, "SHA-256 differs"),
        ({"model": None}, "lacks model.onnx"),
        ({"manifest": None}, f"lacks {MANIFEST}"),
        ({"manifest": newer}, "format 99"),
        ({"manifest": lambda _: b"{"}, "not JSON"),
        ({"manifest": lambda _: b"[]"}, "not that of a bundle"),
        ({"manifest": lambda _: b'{"format": 2}'}, "not that of a bundle"),
    ],
)
def test_a_changed_bundle_is_refused(rewritten, changes, said):
    with pytest.raises(BundleError, match=said):
        read_bundle(rewritten(**changes))


def test_what_is_no_bundle(tmp_path):
    with pytest.raises(BundleError, match="no such run folder"):
        read_bundle(tmp_path / "none.agf")
    with pytest.raises(BundleError, match=r"holds no model\.agf"):
        read_bundle(tmp_path)
    (tmp_path / "text.agf").write_text("text")
    with pytest.raises(BundleError, match="is no bundle"):
        read_bundle(tmp_path / "text.agf")
