"""The kinds of image that a view can be, and what holds for each of them everywhere."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of image.

    Attributes:
        words: what messages call an image of it.
        depth: rows are depth below the skin, as in ultrasound: never flipped upside down, never cropped at the top,
            padded with black, resampled to a physical scale where one is known. False: a camera's image, which may be
            turned and cropped to its middle.
        view: the column of the case table that it usually has.
        dicom: DICOM's modalities of it.
    """

    words: str
    depth: bool
    view: str
    dicom: tuple[str, ...]

    def may_be(self, other: Kind) -> bool:
        """Whether an image of the one can stand in the other's place: a camera's may be dermoscopic unsaid."""
        return self == other or not (self.depth or other.depth)


KINDS = {
    "photo": Kind(words="a photo", depth=False, view="clinical", dicom=("XC",)),
    "dermoscopy": Kind(words="a dermoscopic image", depth=False, view="dermoscopy", dicom=("DMS",)),
    "ultrasound": Kind(words="ultrasound", depth=True, view="ultrasound", dicom=("US",)),
}
