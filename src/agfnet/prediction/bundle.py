"""The deployed file: an uncompressed zip of the ONNX graph, the weights, the configuration and a manifest.

No part is a pickle. Every part's SHA-256 is in the manifest and is checked before it is used.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agfnet.data.preprocess import ViewSpec
from agfnet.files import write_atomically
from agfnet.types import BundleError

FORMAT = 2
MANIFEST = "manifest.json"
GRAPH = "model.onnx"
PARTS = (GRAPH, "weights.safetensors", "config.yaml")
DECISION, REFERENCE = "decision.json", "reference.npz"
FITTED = (DECISION, REFERENCE)
"""Parts that are there once a run is calibrated; see `agfnet.prediction.decision`."""
BUNDLE = "model.agf"
_MAX_BYTES = 4 * 2**30


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle in memory.

    Attributes:
        facts: what the manifest says beside the sums; see `write_bundle`.
        parts: the bytes of each part: those of `PARTS`, and those of `FITTED` that there are.
        sha256: of the whole file.
    """

    facts: Mapping[str, Any]
    parts: Mapping[str, bytes]
    sha256: str

    @property
    def graph(self) -> bytes:
        """The ONNX model."""
        return self.parts[GRAPH]

    @property
    def classes(self) -> tuple[str, ...]:
        """The diagnoses, in the order of every output."""
        return tuple(self.facts["classes"])

    @property
    def extra_classes(self) -> dict[str, tuple[str, ...]]:
        """Further label column -> its values."""
        return {k: tuple(v) for k, v in self.facts["extra_classes"].items()}

    @property
    def specs(self) -> dict[str, ViewSpec]:
        """Modality -> how its pixels become input."""
        return {
            m: ViewSpec(v["kind"], tuple(v["size"]), tuple(v["mean"]), tuple(v["std"]), v["mm_per_pixel"])
            for m, v in self.facts["views"].items()
        }


def write_bundle(path: Path, facts: Mapping[str, Any], parts: Mapping[str, bytes]) -> None:
    """Write a bundle.

    Args:
        path: the file.
        facts: classes, extra_classes, views (kind, size, mean, std, mm_per_pixel), malignant, flips, and anything that
            an auditor may ask for; JSON.
        parts: the bytes of each of `PARTS`, and of `FITTED` where the run is calibrated.
    """
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in parts.items()}
    manifest = json.dumps({"format": FORMAT, **facts, "sha256": sums}, indent=2, ensure_ascii=False).encode()

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            for name, content in {MANIFEST: manifest, **parts}.items():
                archive.writestr(zipfile.ZipInfo(name), content)

    write_atomically(path, write)


def read_bundle(path: str | Path) -> Bundle:
    """Read and check a bundle, or the bundle in a run folder.

    Raises:
        BundleError: no such file, no bundle, a newer format, a missing part, or a part whose sum does not fit.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / BUNDLE).is_file():
            raise BundleError(f"{path}: holds no {BUNDLE}. Finish the run with `agfnet train --resume`.")
        path = path / BUNDLE
    if not path.is_file():
        raise BundleError(f"{path}: no such run folder or bundle.")
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(info.file_size for info in archive.infolist()) > _MAX_BYTES:
                raise BundleError(f"{path}: unpacks to more than {_MAX_BYTES >> 30} GiB; refused.")
            facts, content = _parts(path, archive)
    except (zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError) as error:
        raise BundleError(f"{path}: is no bundle, or a damaged one ({error}). Copy or export it again.") from error
    with path.open("rb") as stream:
        whole = hashlib.file_digest(stream, "sha256").hexdigest()
    return Bundle(facts, content, whole)


def _parts(path: Path, archive: zipfile.ZipFile) -> tuple[dict[str, Any], dict[str, bytes]]:
    missing = {MANIFEST, *PARTS} - set(archive.namelist())
    if missing:
        raise BundleError(
            f"{path}: lacks {', '.join(sorted(missing))}; it is no bundle, or a damaged one. Export it again."
        )
    try:
        facts = json.loads(archive.read(MANIFEST))
    except ValueError as error:
        raise BundleError(f"{path}: its {MANIFEST} is not JSON. Export it again.") from error
    if not isinstance(facts, dict) or not isinstance(facts.get("sha256"), dict):
        raise BundleError(f"{path}: its {MANIFEST} is not that of a bundle. Export it again.")
    if facts.get("format") != FORMAT:
        found = facts.get("format")
        remedy = "Export it again" if isinstance(found, int) and found < FORMAT else "Update agfnet"
        raise BundleError(f"{path}: has format {found}, this version reads {FORMAT}. {remedy}.")
    names = archive.namelist()
    content = {name: archive.read(name) for name in (*PARTS, *FITTED) if name in names}
    lost = set(facts["sha256"]) - set(content)
    if lost:
        raise BundleError(f"{path}: lacks {', '.join(sorted(lost))}; it is damaged. Copy or export it again.")
    for name, found in content.items():
        if hashlib.sha256(found).hexdigest() != facts["sha256"].get(name):
            raise BundleError(f"{path}: {name} is not what was exported (SHA-256 differs). Copy or export it again.")
    return facts, content
