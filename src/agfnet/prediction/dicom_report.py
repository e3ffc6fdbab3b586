"""An explained prediction as DICOM, for the archive that its images came from: a report and a picture.

The report is a Comprehensive SR by template TID 1500 (PS3.16): probabilities as numbers, diagnoses as codes of the
private scheme 99AGFNET, references to the source images. It is preliminary and unverified. The picture is a secondary
capture of the explanation's sheet. Both carry the patient and study of the source, from DICOM to DICOM; the table's
case id is in neither, as beside a name it would undo a pseudonym.
"""

from __future__ import annotations

import hashlib
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
from highdicom import sr
from pydicom import dcmread
from pydicom.charset import python_encoding
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

import agfnet
from agfnet.data.dicom import Patient, read_dicom
from agfnet.data.images import sniff
from agfnet.data.said import other_patient
from agfnet.files import PRIVATE, write_atomically
from agfnet.prediction.explanation import Explanation, explanation_sheet, set_says
from agfnet.types import RESEARCH_USE, Case, ImageError, Place

log = logging.getLogger("agfnet")

SCHEME = "99AGFNET"
MAKER = "agfnet"
_NEEDED = ("PatientID", "Modality", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_ENCODINGS = {re.sub("[ -]", "_", name) for name in python_encoding}
_PATIENT = ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate")
_MAY_BE_EMPTY = (
    "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
_REMEDY = "Use --dicom with images as their archive exports them, or leave it out."
_UTF_8 = "ISO_IR 192"


@dataclass(frozen=True, slots=True)
class Source:
    """An image that a prediction was made from.

    Attributes:
        header: all but its pixels.
        frames: number of the frame that was looked at, from 1, or None where it has only one.
        burned_in: whether it says that text is burned into its pixels; None where it does not say.
        patient: whose image it is.
    """

    header: Dataset
    frames: list[int] | None
    burned_in: bool | None
    patient: Patient | None


def dicom_sources(files: Sequence[Place]) -> list[Source]:
    """The headers of DICOM images.

    Raises:
        ImageError: one cannot be read, lacks what a reference to it needs, does not say whose it is, or is of another
            patient than one before it.
    """
    sources = [_source(path) for path in files]
    if other := other_patient({str(path): [source.patient] for path, source in zip(files, sources, strict=True)}):
        raise ImageError(f"{other}: is of another patient than an image before it. Correct the case table.")
    return sources


def _check_letters(header: Dataset, path: Place) -> None:
    """Refuse a patient's name whose letters can only be guessed at: it would go into the archive as another."""
    sets = header.get("SpecificCharacterSet") or ""
    names = [re.sub("[ -]", "_", name) for name in ([sets] if isinstance(sets, str) else sets)]
    known = any(names) and all(name in _ENCODINGS for name in names)
    if not known and not all(str(header.get(keyword, "")).isascii() for keyword in _PATIENT):
        raise ImageError(f"{path}: the letters of its patient's name are in no stated character set. {_REMEDY}")


def _source(path: Place) -> Source:
    said = read_dicom(path).facts  # which has every guard that a whole reading lacks
    with _quiet(path), path.open("rb") as file:
        header = dcmread(file, stop_before_pixels=True)
        for keyword in _MAY_BE_EMPTY:
            if keyword not in header:
                setattr(header, keyword, "")
        missing = [keyword for keyword in _NEEDED if not header.get(keyword)]
        _check_letters(header, path)
    if missing:
        raise ImageError(f"{path}: this DICOM file has no {missing[0]}. {_REMEDY}")
    return Source(header, [said.frame + 1] if said.frames > 1 else None, said.burned_in, said.patient)


@contextmanager
def _quiet(what: Place | str) -> Iterator[None]:
    """Keep the libraries' warnings and logs in, as they show values of the patient; their exceptions likewise."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (OSError, ImageError):
        raise
    except Exception as error:  # noqa: BLE001 - all that the libraries may say of a header
        problem = f"its patient, study or class cannot be carried over ({type(error).__name__})"
        raise ImageError(f"{what}: {problem}. {_REMEDY}") from None
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def concept(name: str, kind: str = "C", meaning: str | None = None) -> sr.CodedConcept:
    """A name of this package as a code: short and the same everywhere, whatever the name's length and letters.

    Args:
        name: what it stands for.
        kind: a letter that sets apart codes of other meaning for the same name.
        meaning: the words shown; otherwise the name.
    """
    value = kind + hashlib.sha256(name.encode()).hexdigest()[:12].upper()
    return sr.CodedConcept(value, SCHEME, (meaning or name).replace("\\", "/")[:64])


def report_dataset(
    explanation: Explanation, sources: Sequence[Source], classes: Sequence[str], bundle_sha256: str
) -> Dataset:
    """The structured report.

    Args:
        explanation: of the case.
        sources: from `dicom_sources`.
        classes: the diagnoses' names.
        bundle_sha256: of the bundle that was asked.
    """
    p = explanation.prediction
    headers = [source.header for source in sources]
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(hd.UID(), identifier="lesion"),
        algorithm_id=sr.AlgorithmIdentification(
            MAKER, agfnet.__version__, parameters=[f"bundle SHA-256: {bundle_sha256}"], manufacturer=MAKER
        ),
        measurements=[
            sr.Measurement(concept(name, "P", f"Probability of {name}"), float(f"{value:.7g}"), codes.UCUM.NoUnits)
            for name, value in zip(classes, p.probabilities, strict=True)
        ],
        qualitative_evaluations=_evaluations(explanation, classes),
        source_images=[
            sr.SourceImageForMeasurementGroup(s.header.SOPClassUID, s.header.SOPInstanceUID, s.frames) for s in sources
        ],
    )
    observer = sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=generate_uid(entropy_srcs=[bundle_sha256]),
            name=MAKER,
            manufacturer_name=MAKER,
            model_name=MAKER,
            serial_number=bundle_sha256,
        ),
    )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=concept("classification", "K", "Classification of a skin lesion from images"),
        imaging_measurements=[group],
        referenced_images=headers,
    )
    for word, meaning, text in _texts(explanation, bundle_sha256):
        item = sr.TextContentItem(concept(word, "T", meaning), text, sr.RelationshipTypeValues.CONTAINS)
        content[0].ContentSequence.append(item)
    made = sr.ComprehensiveSR(
        evidence=headers,
        content=content[0],
        series_instance_uid=hd.UID(),
        series_number=1,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer=MAKER,
        is_complete=True,
        series_description="agfnet report, research use only",
        **_device(),
    )
    scheme = Dataset()
    scheme.CodingSchemeDesignator, scheme.CodingSchemeName = SCHEME, "Names of classes and results in agfnet"
    made.CodingSchemeIdentificationSequence = [scheme]
    return made


def _evaluations(explanation: Explanation, classes: Sequence[str]) -> list[sr.QualitativeEvaluation]:
    p = explanation.prediction
    likeliest = concept("likeliest", "K", "Likeliest diagnosis")
    found = [sr.QualitativeEvaluation(likeliest, concept(classes[int(p.probabilities.argmax())]))]
    remaining = concept("diagnosis set", "K", "Diagnosis in the set")
    found += [sr.QualitativeEvaluation(remaining, concept(classes[k])) for k in p.diagnosis_set or ()]
    if p.referred is not None:
        answer = codes.SCT.Yes if p.referred else codes.SCT.No
        found.append(sr.QualitativeEvaluation(concept("referred", "K", "Referred to a clinician"), answer))
    return found


def _texts(explanation: Explanation, bundle_sha256: str) -> Iterator[tuple[str, str, str]]:
    yield "notice", "Notice", RESEARCH_USE
    yield "bundle", "SHA-256 of the bundle", bundle_sha256
    yield "version", "Version of agfnet", agfnet.__version__
    yield "calibration", "Calibration", set_says(explanation.coverage)
    for view in explanation.missing:
        yield "missing", "Missing view", view
    for warned in explanation.prediction.warnings:
        yield "warning", "Note on an image", str(warned)
    if explanation.prevalence is not None:
        yield "prevalence", "Diagnoses as if so frequent", explanation.prevalence
    for reason in explanation.prediction.referred or ():
        yield "reason", "Reason for referral", str(reason)
    for view, share in explanation.shares.items():
        yield f"share {view}", f"Share of {view}", f"{share:+.3f} log-odds"


def overlay_dataset(explanation: Explanation, sources: Sequence[Source], classes: tuple[str, ...]) -> Dataset:
    """The explanation's sheet as a secondary capture (RGB).

    Args:
        explanation: of the case.
        sources: from `dicom_sources`.
        classes: the diagnoses' names.
    """
    first = sources[0].header
    made = hd.sc.SCImage(
        pixel_array=np.asarray(explanation_sheet(explanation, classes).convert("RGB")),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),
        study_instance_uid=first.StudyInstanceUID,
        series_instance_uid=hd.UID(),
        series_number=2,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer=MAKER,
        patient_id=first.PatientID,
        patient_name=first.PatientName,
        patient_birth_date=first.PatientBirthDate,
        patient_sex=first.PatientSex,
        accession_number=first.AccessionNumber,
        study_id=first.StudyID,
        study_date=first.StudyDate,
        study_time=first.StudyTime,
        referring_physician_name=first.ReferringPhysicianName,
        series_description="agfnet overlay, research use only",
        **_device(),
    )
    made.copy_patient_and_study_information(first)
    # A sheet of several pictures has neither a side nor an orientation, which the constructor does not know.
    made.PatientOrientation, made.Laterality = [], ""
    made.ConversionType = "WSD"
    made.DerivationDescription = RESEARCH_USE
    burned = {source.burned_in for source in sources}
    if burned == {False} or True in burned:
        made.BurnedInAnnotation = "YES" if True in burned else "NO"
    made.SourceImageSequence = [_reference(source) for source in sources]
    return made


def _reference(source: Source) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = source.header.SOPClassUID
    item.ReferencedSOPInstanceUID = source.header.SOPInstanceUID
    if source.frames:
        item.ReferencedFrameNumber = source.frames
    return item


def _device() -> dict[str, Any]:
    return {
        "manufacturer_model_name": MAKER,
        "software_versions": agfnet.__version__,
        "specific_character_set": _UTF_8,  # what is copied is written anew in it
    }


def write_dicom(
    explanation: Explanation, case: Case, stem: Path, *, classes: tuple[str, ...], bundle_sha256: str
) -> list[Path]:
    """Write `<stem>-report.dcm` and `<stem>-overlay.dcm` of a case whose images are all DICOM files.

    Args:
        explanation: of the case.
        case: with the images.
        stem: folder and start of the files' names.
        classes: the diagnoses' names.
        bundle_sha256: of the bundle that was asked.

    Returns:
        The files; none where an image is of another format, which has no patient or study to pass on.

    Raises:
        ImageError: see `dicom_sources`, or the source's patient or study cannot be carried over.
    """
    images = [path for view in explanation.prediction.views_present for path in case.views[view]]
    if any(sniff(path) != "DICOM" for path in images):
        log.warning("case %s: no DICOM report, as not all of its images are DICOM", case.case_id)
        return []
    sources = dicom_sources(images)
    with _quiet(images[0]):
        made = {
            "report": report_dataset(explanation, sources, classes, bundle_sha256),
            "overlay": overlay_dataset(explanation, sources, classes),
        }
        files = []
        for name, dataset in made.items():
            file = stem.with_name(f"{stem.name}-{name}.dcm")
            write_atomically(file, partial(dataset.save_as, enforce_file_format=True), mode=PRIVATE)
            files.append(file)
    return files
