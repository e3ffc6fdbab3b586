"""A folder of DICOM files as a case table: photos and scans of one visit side by side, and no identifier in it.

One row per patient and accession number; where that is empty, per study. The ids are keyed pseudonyms (HMAC-SHA256,
RFC 2104): whoever has the key can make them again, nobody else can lead them back by trying identifiers. Paths are
written as they are.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from agfnet.data.dicom import PATIENT, DicomFacts, Patient, decode_dicom, dicom_values, identifier
from agfnet.data.dicom_header import Values
from agfnet.data.imagefile import DEFAULT_LIMITS, CodedImageError, ImageLimits, opened
from agfnet.data.table import SCALE_SUFFIX
from agfnet.data.tablewrite import writable_table, write_table
from agfnet.kinds import KINDS
from agfnet.places import shown
from agfnet.types import ConfigError, TableError

log = logging.getLogger("agfnet")
MIN_KEY_BYTES = 16
ID_DIGITS = 16
_ACCESSION, _STUDY, _INSTANCE = 0x00080050, 0x0020000D, 0x00080018
_IDENTITY = frozenset({_ACCESSION, _STUDY, _INSTANCE})
_ALWAYS = ("clinical", "ultrasound")
_DEPTH = {kind.view for kind in KINDS.values() if kind.depth}


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyTable:
    """The table as written.

    Attributes:
        frame: one row per case.
        skipped: file, relative to the folder, and why it is not in the table.
        foreign: how many files are no DICOM files.
        notes: what anyone who uses the table has to know.
    """

    frame: pl.DataFrame
    skipped: tuple[tuple[str, str], ...]
    foreign: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """One usable image."""

    path: Path
    case_id: str
    patient_id: str
    view: str
    mm_per_pixel: float | None
    burned_in: bool | None
    upwards: bool
    captured: bool
    frames: int


class _Unusable(Exception):  # noqa: N818  a finding, listed and not raised further
    """An image that can be read but not be placed in the table."""


_MAKE_KEY = "Make one: (umask 077; head -c 32 /dev/urandom | base64 > pseudonyms.key)"


def read_key(path: Path | None) -> bytes:
    """The secret key of the pseudonyms: the content of a file, or a random one that is not kept.

    Of a file that others may read there is a warning.

    Raises:
        ConfigError: the file cannot be read, or is too short to be secret.
    """
    if path is None:
        return secrets.token_bytes(32)
    try:
        key, shared = path.read_bytes().strip(), path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH)
    except OSError as error:
        raise ConfigError(f"{path}: the key cannot be read ({error.strerror}). {_MAKE_KEY}") from error
    if len(key) < MIN_KEY_BYTES:
        raise ConfigError(f"{path}: a key needs at least {MIN_KEY_BYTES} bytes, this one has {len(key)}. {_MAKE_KEY}")
    if shared:
        log.warning("%s: others on this machine may read the key, and so undo pseudonyms. chmod 600 it.", path)
    return key


def dicom_table(
    folder: str | Path,
    out: str | Path,
    *,
    key: bytes,
    progress: Callable[[int, int], None] | None = None,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> StudyTable:
    """Pair the DICOM files of a folder, and of the folders in it, into a case table.

    Columns: `case_id`, `patient_id`; `clinical`, `dermoscopy` (where there is any) and `ultrasound`, each with the
    view's files joined by `;`; `<view>_mm_per_pixel`, filled where all files of the view have one scale: where it is
    empty, each file's own scale counts. Rows and files are in the order of the files' paths.

    Args:
        folder: the DICOM files; links are not followed into other folders.
        out: the table to write, .csv or .parquet.
        key: of the pseudonyms; see `read_key`.
        progress: called with (files done, files in all).
        limits: what a file may be.

    Raises:
        TableError: there is no such folder, or no usable image in it, or `out` is there already.
    """
    if Path(out).exists():
        raise TableError(f"{out}: is there already, perhaps with diagnoses filled in. Name a new file, or delete it.")
    writable_table(out)
    root = Path(folder).resolve()
    if not root.is_dir():
        raise TableError(f"{folder}: there is no such folder. Name the folder of the DICOM files.")
    files = sorted(_files(root))
    found: list[_Found] = []
    skipped: list[tuple[str, str]] = []
    seen: dict[bytes, str] = {}
    patients: dict[str, set[Patient]] = {}
    foreign = 0
    for done, path in enumerate(files, start=1):
        name = shown(path.relative_to(root).as_posix())
        try:
            found.append(_read(path, name, key, seen, patients, limits))
        except CodedImageError as error:
            if error.cause == "not-an-image":
                foreign += 1
            else:
                skipped.append((name, f"{error.problem}. {error.remedy}"))
        except _Unusable as error:
            skipped.append((name, str(error)))
        if progress is not None:
            progress(done, len(files))
    if not found:
        problem = f"of {len(files)} files none is a usable DICOM image"
        raise TableError(f"{folder}: {problem}. {_first(skipped) or 'Name the folder that holds them.'}")
    frame = _frame(found)
    write_table(frame, out)
    return StudyTable(frame=frame, skipped=tuple(skipped), foreign=foreign, notes=tuple(_notes(found)))


def _files(root: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise error

    for parent, folders, names in os.walk(root, onerror=refuse):
        folders.sort()
        for name in names:
            path = Path(parent) / name
            if path.is_file():
                yield path


def _read(
    path: Path, name: str, key: bytes, seen: dict[bytes, str], patients: dict[str, set[Patient]], limits: ImageLimits
) -> _Found:
    """One file as a line, with its identifiers already replaced.

    Args:
        path: the file.
        name: the same, relative to the folder.
        key: of the pseudonyms.
        seen: digest of an instance -> the file that has it; this one is added.
        patients: pseudonym of a patient -> what the files under it say whose they are; this one is added.
        limits: what it may be.
    """
    with opened(path, limits) as (_, file):
        values = dicom_values(path, file, limits, _IDENTITY).values
        file.seek(0)
        facts = decode_dicom(path, file, limits).facts
    if facts.kind not in KINDS:
        raise _Unusable(f"it is none of {', '.join(kind.words for kind in KINDS.values())}.")
    view = KINDS[facts.kind].view
    if shown(path) != str(path):
        raise _Unusable("its path is not UTF-8, as a table is: rename it.")
    if any(sign in str(path) for sign in ";\n\r"):
        raise _Unusable("its path has a `;` or a line break, which a table cannot hold: rename it.")
    instance = hashlib.sha256(identifier(values, _INSTANCE)).digest()
    if identifier(values, _INSTANCE) and instance in seen:
        raise _Unusable(f"it is the same image as {seen[instance]}.")
    made = _line(path, view, values, facts, key)
    if (who := facts.patient) is not None:
        own = patients.setdefault(made.patient_id, set())
        if not all(who.may_be(other) for other in own):
            differs = "issuer, birth date or family name differs"
            raise _Unusable(f"another patient in this folder has the same id ({differs}): export each by itself.")
        own.add(who)
    seen[instance] = name
    return made


def _line(path: Path, view: str, values: Values, facts: DicomFacts, key: bytes) -> _Found:
    patient = identifier(values, PATIENT)
    accession, study = identifier(values, _ACCESSION), identifier(values, _STUDY)
    if not patient:
        raise _Unusable("it has no patient id.")
    if not accession and not study:
        raise _Unusable("it has neither an accession number nor a study.")
    visit = (b"accession", accession) if accession else (b"study", study)
    return _Found(
        path=path,
        case_id=pseudonym(key, b"case", patient, *visit),
        patient_id=pseudonym(key, b"patient", patient),
        view=view,
        mm_per_pixel=facts.mm_per_pixel,
        burned_in=facts.burned_in,
        captured=facts.captured,
        upwards=facts.upwards,
        frames=facts.frames,
    )


def pseudonym(key: bytes, *parts: bytes) -> str:
    """16 hexadecimal digits of HMAC-SHA256 over the parts, each with its length, so that no two lists run together."""
    message = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    return hmac.new(key, message, hashlib.sha256).hexdigest()[:ID_DIGITS]


def _frame(found: Sequence[_Found]) -> pl.DataFrame:
    views = [v for v in (kind.view for kind in KINDS.values()) if v in _ALWAYS or any(f.view == v for f in found)]
    cases: dict[str, list[_Found]] = {}
    for image in found:
        cases.setdefault(image.case_id, []).append(image)
    rows = []
    for case_id, images in cases.items():
        row: dict[str, str | None] = {"case_id": case_id, "patient_id": images[0].patient_id}
        for view in views:
            own = [image for image in images if image.view == view]
            row[view] = ";".join(str(image.path) for image in own) or None
            scales = {None if image.mm_per_pixel is None else f"{image.mm_per_pixel:.6g}" for image in own}
            row[f"{view}{SCALE_SUFFIX}"] = scales.pop() if len(scales) == 1 else None
        rows.append(row)
    columns = ["case_id", "patient_id", *views, *(f"{view}{SCALE_SUFFIX}" for view in views)]
    return pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String))


def _notes(found: Sequence[_Found]) -> Iterator[str]:
    burned = [image.path for image in found if image.burned_in]
    if burned:
        yield f"{len(burned)} images say that text is burned into them, {burned[0]} first: look before you share them."
    upwards = [image.path for image in found if image.upwards]
    if upwards:
        yield f"{len(upwards)} images say that depth grows upwards, {upwards[0]} first: they may be upside down."
    silent = sum(image.burned_in is None for image in found)
    if silent:
        yield f"{silent} images do not say whether text is burned into them: look before you share them."
    captured = Counter(image.view for image in found if image.captured)
    if captured:
        taken = ", ".join(f"{count} as {view}" for view, count in sorted(captured.items()))
        yield f"secondary captures are taken ({taken}): look that none is a document, a report or a screenshot."
    cases: dict[str, set[str]] = {}
    patients: dict[str, set[str]] = {}
    for image in found:
        cases.setdefault(image.case_id, set()).add(image.view)
        patients.setdefault(image.patient_id, set()).add(image.view)
    both = sum(len(views) > 1 for views in cases.values())
    apart = sum(len(views) > 1 for views in patients.values()) - len(
        {image.patient_id for image in found if len(cases[image.case_id]) > 1}
    )
    yield f"{both} of {len(cases)} cases have images of several views."
    if apart:
        yield (
            f"{apart} patients have images of several views, but never in one accession: where they show one lesion, "
            "join their rows, or each view is answered alone."
        )
    clips = sum(image.frames > 1 for image in found)
    if clips:
        yield f"{clips} images have several frames: the middle one is used."
    unknown = sum(image.view in _DEPTH and image.mm_per_pixel is None for image in found)
    if unknown:
        yield f"{unknown} images of {' or '.join(sorted(_DEPTH))} have no calibration: their scale is not known."
    yield "All images of a patient and accession are one case: split a row where it holds several lesions."
    yield "Paths are written as they are: rename folders and files whose names tell who a patient is."


def _first(skipped: Sequence[tuple[str, str]]) -> str:
    return f"The first: {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
