from __future__ import annotations

import polars as pl
import pytest
from dicom_files import content_of, dicom, smooth
from pydicom.uid import CTImageStorage, SecondaryCaptureImageStorage

from agfnet.data.images import CodedImageError, Said
from agfnet.data.preprocess import ViewSpec, read_frame
from agfnet.data.said import said_faults

USES = [
    (2, "clinical", "a.dcm"), (2, "ultrasound", "b.dcm"), (3, "lymph_node", "c.dcm"), (4, "clinical", "d.png"),
]  # fmt: skip


def faults(**kinds: str) -> list[tuple[int | None, str | None, str]]:
    uses = pl.DataFrame(USES, ["row", "view", "path"], orient="row").with_columns(mm_per_pixel=pl.lit(None, float))
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


@pytest.mark.parametrize("kind", ["photo", "ultrasound"])
def test_what_is_neither_a_photo_nor_a_scan_is_not_taken_for_one(kind):
    image = dicom(smooth(), modality="CT", SOPClassUID=CTImageStorage)
    with pytest.raises(CodedImageError, match="of another kind than any view") as caught:
        read_frame(content_of(image), ViewSpec(kind, (32, 32)))
    assert caught.value.cause == "wrong-view"
    image.SOPClassUID = SecondaryCaptureImageStorage  # which may show anything
    read_frame(content_of(image), ViewSpec(kind, (32, 32)))
