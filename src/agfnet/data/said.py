"""What image files say of themselves, against each other and the table: whose they are, of what kind, their scale."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import polars as pl

from agfnet.data.dicom import Patient
from agfnet.data.images import Said
from agfnet.data.tablefile import Fault
from agfnet.kinds import KINDS, Kind
from agfnet.types import ImageError

SAME_SCALE = 0.1
"""Up to this difference of their logarithms a given scale and a file's own are one, rounded."""
SCALE_REMEDY = "Leave the scale empty to take the file's; if it is the file that errs, convert it to PNG."

NEARLY_ALL = 0.9
"""An id that a larger share of the files have is a placeholder, as an anonymised set's."""
KIND_REMEDY = "Put each image in its own view's place."
_USUAL = {kind.view: kind for kind in KINDS.values()}


def other_patient(patients: Mapping[str, Sequence[Patient | None]]) -> str | None:
    """The first view with an image that says to be of another patient than one before it; None where none does.

    Args:
        patients: modality -> whose image each of a case's is, None where its file does not say.
    """
    known = [(view, patient) for view, own in patients.items() for patient in own if patient is not None]
    for i, (view, patient) in enumerate(known):
        if not all(patient.may_be(other) for _, other in known[:i]):
            return view
    return None


def check_one_patient(patients: Mapping[str, Sequence[Patient | None]]) -> None:
    """Refuse a case whose images say to be of several patients; see `other_patient`.

    Raises:
        ImageError: they do.
    """
    if view := other_patient(patients):
        raise ImageError(f"{view}: this DICOM image is of another patient than one before it. Correct the table.")


def scales_differ(given: float | None, own: float | None) -> str | None:
    """What is wrong with a scale that is given, in mm per pixel, beside the file's own; None where they are one."""
    if not given or not own or abs(math.log(given / own)) <= SAME_SCALE:
        return None
    return f"the scale is given as {given:g} mm per pixel, and this DICOM file says {own:g}"


def wrong_kind(own: str | None, wanted: Kind | None) -> str | None:
    """What is wrong with an image of a kind in a view's place; None where nothing is.

    Args:
        own: what its file says, one of `agfnet.kinds.KINDS` or other; None where it says nothing.
        wanted: the view's; None where it is not known.
    """
    if own is None:
        return None
    if (kind := KINDS.get(own)) is None:
        return "this DICOM file says that it is of another kind than any view, as those of CT or MR are"
    if wanted is None or kind.may_be(wanted):
        return None
    return f"this DICOM file says that it is {kind.words}, in the place of {wanted.words}"


def said_faults(uses: pl.DataFrame, said: Mapping[str, Said]) -> list[Fault]:
    """Cases whose files say to be of two patients, patients of two ids, and files that contradict the table.

    A column of the name that a kind's view usually has is taken to be of that kind; of another one it is not known.

    Args:
        uses: a line for each image of a case: row, view, path, patient, mm_per_pixel (the last two null where the table
            gives none).
        said: path -> what the file says, of those that say something.
    """
    faults = []
    patients: dict[int, dict[str, list[Patient | None]]] = {}
    for row, view, path, mm_per_pixel in uses.select("row", "view", "path", "mm_per_pixel").rows():
        own = said.get(path, Said())
        patients.setdefault(row, {}).setdefault(view, []).append(own.patient)
        if problem := wrong_kind(own.kind, _USUAL.get(view)):
            message = f"{path}: {problem}"
            faults.append(Fault(cause="wrong-view", message=message, remedy=KIND_REMEDY, row=row, column=view))
        if problem := scales_differ(mm_per_pixel, own.mm_per_pixel):
            message = f"{path}: {problem}"
            faults.append(Fault(cause="two-scales", message=message, remedy=SCALE_REMEDY, row=row, column=view))
    for row, views in patients.items():
        if view := other_patient(views):
            message = "a DICOM image is of another patient than one before it in this case"
            remedy = "Correct the table: a case is one lesion of one patient."
            faults.append(Fault(cause="other-patient", message=message, remedy=remedy, row=row, column=view))
    return faults + _torn_faults(uses, said)


def _torn_faults(uses: pl.DataFrame, said: Mapping[str, Said]) -> list[Fault]:
    """Patients of files who have several patient_ids: a split may put them into two parts."""
    whose = {path: own.patient for path, own in said.items() if own.patient is not None and own.patient.id}
    common = Counter(patient.id for patient in whose.values())
    faults: dict[tuple[bytes, str], Fault] = {}
    first: dict[bytes, tuple[int, str, Patient]] = {}
    for row, path, name in uses.select("row", "path", "patient").drop_nulls().rows():
        patient = whose.get(path)
        if patient is None or common[patient.id] > NEARLY_ALL * len(whose):
            continue
        other_row, other_name, other = first.setdefault(patient.id, (row, name, patient))
        if name != other_name and patient.may_be(other):
            fault = Fault(
                cause="patient-of-two-ids",
                message=f"{path}: this DICOM file is of the same patient as one of {other_name!r} in row {other_row}",
                remedy="Write one patient_id for both, if the files' patient ids are no placeholders.",
                row=row,
                column="patient_id",
            )
            faults.setdefault((patient.id, name), fault)
    return list(faults.values())
