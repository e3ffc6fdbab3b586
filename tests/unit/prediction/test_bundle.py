from __future__ import annotations

import json
import warnings
import zipfile
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from agfnet.prediction.bundle import CARD, FITTED, MANIFEST, read_bundle, write_bundle
from agfnet.prediction.deploy import deploy
from agfnet.prediction.predictor import Predictor
from agfnet.prediction.signature import check_signature
from agfnet.types import RESEARCH_USE, BundleError, ConfigError


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
                target.writestr(zipfile.ZipInfo(name), content)
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


def test_the_prevalence_that_the_network_learnt_is_that_of_the_training_cases(trained):
    bundle = read_bundle(trained)
    facts = {**bundle.facts, "run": {"cases": {"train": {"classes": {"naevus": 8, "cyst": 16, "lipoma": 1}}}}}
    assert bundle.classes == ("cyst", "lipoma", "naevus")
    assert replace(bundle, facts=facts).prior == pytest.approx([0.64, 0.04, 0.32])


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
        ({"manifest": lambda _: b"[" * 100_000}, "not JSON"),
    ],
)
def test_a_changed_bundle_is_refused(rewritten, changes, said):
    with pytest.raises(BundleError, match=said):
        read_bundle(rewritten(**changes))


@pytest.mark.parametrize("part", FITTED)
def test_half_a_calibration_is_refused(calibrated, tmp_path, part):
    """It would pass as calibrated and refer nothing, or the other way round."""
    with zipfile.ZipFile(calibrated / "model.agf") as source, zipfile.ZipFile(tmp_path / "half.agf", "w") as target:
        for name in source.namelist():
            if name != part:
                target.writestr(name, source.read(name))
    with pytest.raises(BundleError, match=f"lacks {part}"):
        read_bundle(tmp_path / "half.agf")


def test_what_is_no_bundle(tmp_path):
    with pytest.raises(BundleError, match="no such run folder"):
        read_bundle(tmp_path / "none.agf")
    with pytest.raises(BundleError, match=r"holds no model\.agf"):
        read_bundle(tmp_path)
    (tmp_path / "fold-1").mkdir()
    (tmp_path / "fold-1" / "model.agf").write_text("text")
    with pytest.raises(BundleError, match="holds a network for each fold"):
        read_bundle(tmp_path)
    (tmp_path / "text.agf").write_text("text")
    with pytest.raises(BundleError, match="is no bundle"):
        read_bundle(tmp_path / "text.agf")


@pytest.mark.parametrize(
    "name", ["../outside.txt", "/etc/passwd", "model.onnx", "notes.txt", "sub/weights.safetensors"]
)
def test_an_entry_that_has_no_place_is_refused(trained, tmp_path, name):
    path = tmp_path / "more.agf"
    path.write_bytes((trained / "model.agf").read_bytes())
    with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a doubled name
        archive.writestr(name, b"more")
    with pytest.raises(BundleError, match="has no place"):
        read_bundle(path)


def test_a_compressed_bundle_is_refused(trained, tmp_path):
    path = tmp_path / "small.agf"
    with zipfile.ZipFile(trained / "model.agf") as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name) if name == MANIFEST else bytes(10_000_000))
    with pytest.raises(BundleError, match="more than it holds"):
        read_bundle(path)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Two pairs of keys, as PEM files."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("own", "other"):
        key = Ed25519PrivateKey.generate()
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / f"{name}.pem").write_bytes(private)
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (folder / f"{name}.pub").write_bytes(public)
    return folder


def test_a_card_is_that_of_the_network_and_of_its_calibration(calibrated, tmp_path, agfnet_command):
    sums = read_bundle(calibrated).facts["sha256"]
    card, path = tmp_path / "card.md", tmp_path / "made.agf"
    for lines, what in (([], "network"), ([sums["model.onnx"]], "calibration"), ([sums["decision.json"]], "network")):
        card.write_text("\n".join(["# Model card", *lines]))
        done = agfnet_command("bundle", calibrated, "-o", path, "--card", card)
        assert done.exit_code == 1
        assert f"is not the card of this {what}" in done.stderr.replace("\n", " ")
        assert not path.exists()
    card.write_text(f"{sums['model.onnx']} {sums['decision.json']}")
    assert agfnet_command("bundle", calibrated, "-o", path, "--card", card).exit_code == 0


def test_no_other_file_is_written_over(trained, tmp_path, agfnet_command):
    table = tmp_path / "cases.csv"
    table.write_text("case_id")
    done = agfnet_command("bundle", trained, "-o", table)
    assert done.exit_code == 1
    assert "is there already and is no bundle" in done.stderr.replace("\n", " ")
    assert table.read_text() == "case_id"
    book = tmp_path / "cases.xlsx"
    with zipfile.ZipFile(book, "w") as archive:  # as spreadsheets are
        archive.writestr("[Content_Types].xml", "")
    assert "is no bundle" in agfnet_command("bundle", trained, "-o", book).stderr.replace("\n", " ")
    for _ in range(2):  # an older bundle may be
        assert agfnet_command("bundle", trained, "-o", tmp_path / "model.agf").exit_code == 0


def test_a_bundle_is_signed_and_verified(trained, keys, tmp_path, agfnet_command):
    card = tmp_path / "card.md"
    card.write_text(f"# Model card of {read_bundle(trained).facts['sha256']['model.onnx']}")
    path = tmp_path / "signed.agf"
    made = agfnet_command("bundle", trained, "-o", path, "--card", card, "--sign", keys / "own.pem")
    assert made.exit_code == 0
    bundle = read_bundle(path)
    assert bundle.parts[CARD] == card.read_bytes()
    assert bundle.graph == read_bundle(trained).graph
    assert bundle.sha256 in made.stdout
    assert (bundle.signed, read_bundle(trained).signed) == ("not checked", "none")
    assert check_signature(bundle, keys / "own.pub").signed == "verified"
    assert "by whom was not checked" in agfnet_command("verify", path).stdout
    good = agfnet_command("verify", path, "--public-key", keys / "own.pub")
    assert good.exit_code == 0
    assert "signed with this key" in good.stdout
    bad = agfnet_command("verify", path, "--public-key", keys / "other.pub")
    assert bad.exit_code == 1
    assert "was not signed with the key" in bad.stderr
    unsigned = agfnet_command("verify", trained, "--public-key", keys / "own.pub")
    assert unsigned.exit_code == 1
    assert "is not signed" in unsigned.stderr


def test_a_changed_manifest_breaks_the_signature(trained, keys, tmp_path):
    signed, changed = tmp_path / "signed.agf", tmp_path / "changed.agf"
    deploy(trained, signed, key=keys / "own.pem")
    with zipfile.ZipFile(signed) as source, zipfile.ZipFile(changed, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            changed_one = content.replace(b'"cyst"', b'"wart"') if name == MANIFEST else content
            target.writestr(zipfile.ZipInfo(name), changed_one)
    with pytest.raises(BundleError, match="was not signed"):
        check_signature(read_bundle(changed), keys / "own.pub")


def test_no_byte_around_the_parts_may_be_another(trained, tmp_path):
    """A signature covers none of them, and yet they are the file that a report names by its SHA-256."""
    whole = (trained / "model.agf").read_bytes()
    with zipfile.ZipFile(trained / "model.agf") as archive:
        entries, directory = archive.infolist(), archive.start_dir
    local = [entry.header_offset + k for entry in entries for k in range(4, 30)]
    around = [*local, *range(directory, len(whole))]
    assert len(around) > 300
    path = tmp_path / "changed.agf"
    for place in around:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(BundleError):
            read_bundle(path)
    for other in (b"echo pwned\n" + whole, whole + b"more"):
        path.write_bytes(other)
        with pytest.raises(BundleError, match="around its parts"):
            read_bundle(path)
    with zipfile.ZipFile(trained / "model.agf") as source, zipfile.ZipFile(path, "w") as target:
        for name in reversed(source.namelist()):
            target.writestr(zipfile.ZipInfo(name), source.read(name))
    with pytest.raises(BundleError, match="around its parts"):
        read_bundle(path)


def test_a_table_in_the_bundles_place_is_told(drawn):
    with pytest.raises(BundleError, match=r"is a table\. Name the bundle or run folder first"):
        read_bundle(drawn / "parts.csv")


def test_a_signature_of_another_length_is_none(trained, tmp_path):
    bundle = read_bundle(trained)
    write_bundle(tmp_path / "bogus.agf", bundle.facts, bundle.parts, sign=lambda _: b"garbage")
    with pytest.raises(BundleError, match="no Ed25519 signature"):
        read_bundle(tmp_path / "bogus.agf")


def test_a_manifest_that_does_not_fit_its_graph(trained, tmp_path):
    bundle = read_bundle(trained)
    facts = {name: value for name, value in bundle.facts.items() if name != "views"}
    write_bundle(tmp_path / "bare.agf", facts, bundle.parts)
    with pytest.raises(BundleError, match=r"does not tell views\. Export it again"):
        read_bundle(tmp_path / "bare.agf")
    fewer = {**bundle.facts, "classes": bundle.facts["classes"][:-1]}
    with pytest.raises(BundleError, match="3 classes apart, and its manifest names 2"):
        Predictor(replace(bundle, facts=fewer))


def test_what_is_no_key(trained, tmp_path):
    (tmp_path / "key.pem").write_text("no key")
    with pytest.raises(ConfigError, match="openssl genpkey"):
        deploy(trained, tmp_path / "signed.agf", key=tmp_path / "key.pem")
    with pytest.raises(ConfigError, match="openssl genpkey"):
        check_signature(read_bundle(trained), tmp_path / "key.pem")


def test_a_view_of_a_kind_that_is_not_known_is_said_when_the_bundle_is_opened(trained):
    bundle = read_bundle(trained)
    views = {m: {**v, "kind": "thermal"} for m, v in bundle.facts["views"].items()}
    with pytest.raises(BundleError, match=r"of kind .thermal., which this version does not know\. Update agfnet"):
        Predictor(replace(bundle, facts={**bundle.facts, "views": views}))
