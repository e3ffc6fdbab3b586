from __future__ import annotations

import polars as pl
import pytest
from dicom_files import content_of, dicom, smooth
from pydicom.uid import CTImageStorage, SecondaryCaptureImageStorage

from agfnet.data.dicom import Patient
from agfnet.data.imagefile import CodedImageError
from agfnet.data.images import Said
from agfnet.data.preprocess import ViewSpec, read_frame
from agfnet.data.said import said_faults

USES = [
    (2, "clinical", "a.dcm"), (2, "ultrasound", "b.dcm"), (3, "lymph_node", "c.dcm"), (4, "clinical", "d.png"),
]  # fmt: skip


def faults(**kinds: str) -> list[tuple[int | None, str | None, str]]:
    uses = pl.DataFrame(USES, ["row", "view", "path"], orient="row")
    uses = uses.with_columns(patient=pl.lit(None, str), mm_per_pixel=pl.lit(None, float))
    found = said_faults(uses, {f"{name}.dcm": Said(kind=kind) for name, kind in kinds.items()})
    assert all(
        fault.message.startswith(f"{path}: this DICOM file") for fault, (*_, path) in zip(found, USES, strict=False)
    )
    return [(fault.row, fault.column, fault.cause) for fault in found]


def test_an_image_of_another_kind_than_its_column_is_found():
    assert faults(a="photo", b="ultrasound", c="ultrasound") == []
    assert faults(a="dermoscopy") == []
    assert faults(a="ultrasound", b="photo") == [(2, "clinical", "wrong-view"), (2, "ultrasound", "wrong-view")]
    other = faults(a="other", b="other", c="other")
    assert other == [(row, view, "wrong-view") for row, view, _ in USES[:3]]


ANNA, OTTO = Patient(b"1", born=b"1950"), Patient(b"2", born=b"1970")
NAMESAKE, UNNAMED = Patient(b"1", born=b"1999"), Patient(family=b"muster")


@pytest.mark.parametrize(
    ("ids", "patients", "rows"),
    [
        (["p", "q", "q", "r"], [ANNA, OTTO, OTTO, ANNA], [5]),
        (["p", "q", "q", "r"], [ANNA, ANNA, ANNA, OTTO], [3]),  # once for each further id
        (["p", "q", "p", "q"], [ANNA, OTTO, ANNA, OTTO], []),
        (["p", "q", "r", "s"], [ANNA, OTTO, NAMESAKE, None], []),
        (["p", "q", "r", "s"], [UNNAMED, UNNAMED, ANNA, OTTO], []),
        (["p", "q", "r", "s"], [ANNA, ANNA, ANNA, ANNA], []),  # as of an anonymised set
        (["p", None, "r", "s"], [ANNA, ANNA, OTTO, None], []),
    ],
)
def test_a_patient_of_the_files_has_one_patient_id(ids, patients, rows):
    lines = [(row, "ultrasound", f"{row}.dcm", name, None) for row, name in enumerate(ids, start=2)]
    columns = {"row": int, "view": str, "path": str, "patient": str, "mm_per_pixel": float}
    said = {f"{row}.dcm": Said(patient=patient) for row, patient in enumerate(patients, start=2)}
    found = said_faults(pl.DataFrame(lines, columns, orient="row"), said)
    assert [(fault.row, fault.cause, fault.column) for fault in found] == [
        (row, "patient-of-two-ids", "patient_id") for row in rows
    ]
    assert all("of 'p' in row 2" in fault.message for fault in found)


@pytest.mark.parametrize("kind", ["photo", "ultrasound"])
def test_what_is_neither_a_photo_nor_a_scan_is_not_taken_for_one(kind):
    image = dicom(smooth(), modality="CT", SOPClassUID=CTImageStorage)
    with pytest.raises(CodedImageError, match="of another kind than any view") as caught:
        read_frame(content_of(image), ViewSpec(kind, (32, 32)))
    assert caught.value.cause == "wrong-view"
    image.SOPClassUID = SecondaryCaptureImageStorage  # which may show anything
    read_frame(content_of(image), ViewSpec(kind, (32, 32)))
