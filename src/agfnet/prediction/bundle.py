"""The deployed file: an uncompressed zip of the ONNX graph, the weights, the configuration and a manifest.

No part is a pickle. Every part's SHA-256 is in the manifest and is checked before it is used; the manifest may carry
an Ed25519 signature, see `agfnet.prediction.signature`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray

from agfnet.config import Config, parse_config
from agfnet.data.preprocess import ViewSpec
from agfnet.data.tablefile import SUFFIXES
from agfnet.files import write_atomically
from agfnet.kinds import KINDS
from agfnet.runfolder import CONFIG, WEIGHTS
from agfnet.types import BundleError

FORMAT = 9
MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
GRAPH = "model.onnx"
PARTS = (GRAPH, WEIGHTS, CONFIG)
DECISION, REFERENCE = "decision.json", "reference.npz"
FITTED = (DECISION, REFERENCE)
"""Parts that are there once a run is calibrated; see `agfnet.prediction.decision`."""
CARD = "model_card.md"
TOLD = ("classes", "extra_classes", "views", "malignant", "flips", "zoom", "trained_on", "chosen_on", "run")
"""What every manifest tells."""
OPTIONAL = (*FITTED, CARD)
BUNDLE = "model.agf"
_MAX_BYTES = 4 * 2**30
_SIGNATURE_BYTES = 64
_UNIX = 3


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle in memory.

    Attributes:
        facts: what the manifest says beside the sums; see `write_bundle`.
        parts: the bytes of each part: those of `PARTS`, and those of `OPTIONAL` that there are.
        sha256: of the whole file.
        manifest: its bytes, which a signature covers.
        signature: Ed25519, 64 bytes, or None.
        verified: the signature was checked with a key; see `agfnet.prediction.signature.check_signature`.
    """

    facts: Mapping[str, Any]
    parts: Mapping[str, bytes]
    sha256: str
    manifest: bytes
    signature: bytes | None
    verified: bool = False

    @property
    def signed(self) -> Literal["verified", "not checked", "none"]:
        """What is known of its signature: anyone can put one there that no key fits."""
        if self.signature is None:
            return "none"
        return "verified" if self.verified else "not checked"

    @property
    def graph(self) -> bytes:
        """The ONNX model."""
        return self.parts[GRAPH]

    @property
    def config(self) -> Config:
        """What the run was trained with."""
        return parse_config(yaml.safe_load(self.parts[CONFIG]), f"the bundle's {CONFIG}")

    @property
    def classes(self) -> tuple[str, ...]:
        """The diagnoses, in the order of every output."""
        return tuple(self.facts["classes"])

    @property
    def calibrated(self) -> bool:
        """Whether it holds what was fitted on calibration cases."""
        return DECISION in self.parts

    @property
    def prior(self) -> NDArray[np.float64]:
        """(K,) the prevalence under which the network's probabilities are right, sum 1: that of the training cases."""
        counts = self.facts["run"]["cases"]["train"]["classes"]
        shares = np.array([counts.get(name, 0) for name in self.classes], np.float64)
        return np.asarray(shares / shares.sum())

    @property
    def prevalence(self) -> NDArray[np.float64] | None:
        """(K,) what predictions are for where nobody states it, sum 1; None: the `prior`."""
        power = {"training": 1.0, "sqrt": 0.5, "equal": 0.0}[self.config.prediction.prevalence]
        shares = self.prior**power
        return None if power == 1.0 else np.asarray(shares / shares.sum())

    @property
    def extra_classes(self) -> dict[str, tuple[str, ...]]:
        """Further label column -> its values."""
        return {k: tuple(v) for k, v in self.facts["extra_classes"].items()}

    @property
    def specs(self) -> dict[str, ViewSpec]:
        """Modality -> how its pixels become input.

        Raises:
            BundleError: a view is of a kind that is not known.
        """
        for m, v in self.facts["views"].items():
            if v["kind"] not in KINDS:
                raise BundleError(
                    f"view {m} is of kind {v['kind']!r}, which this version does not know. Update agfnet."
                )
        return {
            m: ViewSpec(v["kind"], tuple(v["size"]), tuple(v["mean"]), tuple(v["std"]), v["mm_per_pixel"])
            for m, v in self.facts["views"].items()
        }


def write_bundle(
    path: Path,
    facts: Mapping[str, Any],
    parts: Mapping[str, bytes],
    *,
    sign: Callable[[bytes], bytes] | None = None,
) -> None:
    """Write a bundle.

    Args:
        path: the file.
        facts: classes, extra_classes, views (kind, size, mean, std, mm_per_pixel), malignant, flips, zoom, trained_on
            (the training images' fingerprints, see `agfnet.data.fingerprints`), chosen_on (those of the images on which
            the epoch was chosen, if it was), run, and anything that an auditor may ask for; JSON.
        parts: the bytes of each of `PARTS`, and of those of `OPTIONAL` that there are.
        sign: gives the signature of the manifest's bytes.
    """
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in parts.items()}
    told = {"format": FORMAT, **{k: v for k, v in facts.items() if k not in ("format", "sha256")}, "sha256": sums}
    manifest = json.dumps(told, indent=2, ensure_ascii=False).encode()
    signature = {} if sign is None else {SIGNATURE: sign(manifest)}

    write_atomically(
        path, lambda temporary: temporary.write_bytes(_archive({MANIFEST: manifest, **signature, **parts}))
    )


def _archive(content: Mapping[str, bytes]) -> bytes:
    """The zip of these parts in their order: the same bytes wherever it is made."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, part in content.items():
            entry = zipfile.ZipInfo(name)
            entry.create_system, entry.external_attr = _UNIX, 0o600 << 16
            archive.writestr(entry, part)
    return stream.getvalue()


def read_bundle(path: str | Path) -> Bundle:
    """Read and check a bundle, or the bundle in a run folder.

    Raises:
        BundleError: no such file, no bundle, another format, a missing, unknown, doubled or compressed part, a part
            whose sum does not fit, a byte that is no part's and not as it was written, or a signature of another length
            than Ed25519's.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / BUNDLE).is_file():
            if list(path.glob(f"fold-*/{BUNDLE}")):
                raise BundleError(
                    f"{path}: holds a network for each fold. Name one, such as {path / 'fold-1'}; or train one on all "
                    "cases, without --folds."
                )
            raise BundleError(f"{path}: holds no {BUNDLE}. Finish the run with `agfnet train --resume`.")
        path = path / BUNDLE
    if not path.is_file():
        raise BundleError(f"{path}: no such run folder or bundle.")
    if path.suffix.lower() in SUFFIXES:
        raise BundleError(f"{path}: is a table. Name the bundle or run folder first, then the table.")
    with path.open("rb") as stream:  # the name may go to another file meanwhile
        try:
            with zipfile.ZipFile(stream) as archive:
                _check_entries(path, os.fstat(stream.fileno()).st_size, archive.infolist())
                content = {name: archive.read(name) for name in archive.namelist()}
            stream.seek(0)
            whole = hashlib.file_digest(stream, "sha256").hexdigest()
        except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, NotImplementedError, ValueError) as error:
            raise BundleError(f"{path}: is no bundle, or a damaged one ({error}). Copy or export it again.") from error
    manifest, signature = content.pop(MANIFEST), content.pop(SIGNATURE, None)
    if signature is not None and len(signature) != _SIGNATURE_BYTES:
        raise BundleError(f"{path}: its {SIGNATURE} is no Ed25519 signature. Ask where the file comes from.")
    facts = _facts(path, manifest)
    _check_sums(path, facts["sha256"], content)
    # What lies around the parts is under no sum, so that it must be just what `write_bundle` puts there.
    signed = {} if signature is None else {SIGNATURE: signature}
    in_order = {MANIFEST: manifest, **signed, **{name: content[name] for name in facts["sha256"]}}
    if hashlib.sha256(_archive(in_order)).hexdigest() != whole:
        raise BundleError(f"{path}: bytes around its parts are not those of an export. Copy or export it again.")
    return Bundle(facts, content, whole, manifest, signature)


def _check_entries(path: Path, size: int, entries: Sequence[zipfile.ZipInfo]) -> None:
    """Before a byte is unpacked: every entry is a known part, stored as it is, and together they fit the file."""
    names = [entry.filename for entry in entries]
    known = {MANIFEST, SIGNATURE, *PARTS, *OPTIONAL}
    strange = sorted({name for name in names if name not in known or names.count(name) > 1})
    if strange:
        raise BundleError(f"{path}: holds what a bundle has no place for ({strange[0]!r}); refused. Export it again.")
    if size > _MAX_BYTES or sum(entry.file_size for entry in entries) > size:
        raise BundleError(f"{path}: unpacks to more than it holds, or than {_MAX_BYTES >> 30} GiB; refused.")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise BundleError(f"{path}: is compressed; a bundle is not. Copy the file itself, or export it again.")
    missing = {MANIFEST, *PARTS, *(() if set(FITTED).isdisjoint(names) else FITTED)} - set(names)
    if missing:
        raise BundleError(
            f"{path}: lacks {', '.join(sorted(missing))}; it is no bundle, or a damaged one. Export it again."
        )


def _facts(path: Path, manifest: bytes) -> dict[str, Any]:
    try:
        facts = json.loads(manifest)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: its {MANIFEST} is not JSON. Export it again.") from error
    if not isinstance(facts, dict) or not isinstance(facts.get("sha256"), dict):
        raise BundleError(f"{path}: its {MANIFEST} is not that of a bundle. Export it again.")
    found = facts.get("format")
    if found != FORMAT:
        older = isinstance(found, int) and found < FORMAT
        remedy = (
            "`agfnet train --resume`, with its configuration, exports a finished run anew if its network is still this "
            "version's (calibrate it again then); otherwise train it again, or use the version that made it"
            if older
            else "Update agfnet"
        )
        raise BundleError(f"{path}: has format {found}, this version reads {FORMAT}. {remedy}.")
    if lacking := [name for name in TOLD if name not in facts]:
        raise BundleError(f"{path}: its {MANIFEST} does not tell {', '.join(lacking)}. Export it again.")
    return facts


def _check_sums(path: Path, sums: Mapping[str, str], content: Mapping[str, bytes]) -> None:
    lost = set(sums) - set(content)
    if lost:
        raise BundleError(f"{path}: lacks {', '.join(sorted(lost))}; it is damaged. Copy or export it again.")
    for name, found in content.items():
        if hashlib.sha256(found).hexdigest() != sums.get(name):
            raise BundleError(f"{path}: {name} is not what was exported (SHA-256 differs). Copy or export it again.")
