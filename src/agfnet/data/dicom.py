r"""DICOM images: ultrasound, photographs and secondary captures, as RGB pixels with their scale.

Of several frames the middle one is taken (of n frames, counted from 0, frame n // 2), and only it is decoded: no
content decides, so that the same file always gives the same frame, and a sweep over a lesion has its centre there.

Scale: of an ultrasound image with exactly one calibrated 2-D tissue region (Sequence of Ultrasound Regions, in cm), the
image is cut to that region, which leaves out the text around it, and takes its scale. Several such regions of one scale
give the scale without a cut. Without any region sequence, Pixel Spacing is the scale of ultrasound; of other images it
is only where its calibration is stated, as it may else be a detector's or a printer's. Pixels that are not square are
made so by shrinking their finer side.

Nothing but pixels, scale and codes of this module leaves it: no text of a file gets into results, messages or logs. Of
whose image it is, a digest tells that means nothing outside this process.
"""

from __future__ import annotations

import hashlib
import io
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agfnet.data.dicom_header import (
    CHARACTER_SET,
    Header,
    HeaderFault,
    Values,
    decimals,
    family_name,
    numbers,
    read_header,
    text,
)
from agfnet.data.dicom_pixels import PIXEL_TAGS, Layout, decode_frame, read_layout
from agfnet.data.imagefile import (
    DEFAULT_LIMITS,
    MM_PER_PIXEL_RANGE,
    CodedImageError,
    ImageLimits,
    check_size,
    opened,
)
from agfnet.kinds import KINDS
from agfnet.places import place
from agfnet.types import Place

PATIENT, _ISSUER, _BORN, _NAME = 0x00100020, 0x00100021, 0x00100030, 0x00100010
_SOP_CLASS, _MODALITY, _BURNED_IN = 0x00080016, 0x00080060, 0x00280301
_SPACING, _ASPECT, _CALIBRATION = 0x00280030, 0x00280034, 0x00280A02
_REGIONS = 0x00186011
_SPATIAL_FORMAT, _DATA_TYPE = 0x00186012, 0x00186014
_BOX = (0x00186018, 0x0018601A, 0x0018601C, 0x0018601E)
_UNITS = (0x00186024, 0x00186026)
_DELTAS = (0x0018602C, 0x0018602E)
_TWO_D, _TISSUE, _CM = 1, 1, 3
_WANTED = PIXEL_TAGS | {
    CHARACTER_SET, PATIENT, _ISSUER, _BORN, _NAME, _SOP_CLASS, _MODALITY, _BURNED_IN, _SPACING, _ASPECT, _CALIBRATION,
    _SPATIAL_FORMAT, _DATA_TYPE, *_BOX, *_UNITS, *_DELTAS,
}  # fmt: skip
_KIND_OF = {modality: name for name, kind in KINDS.items() for modality in kind.dicom}
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_VL_PHOTOGRAPHIC = "1.2.840.10008.5.1.4.1.1.77.1.4"
_KEY = secrets.token_bytes(32)
_EQUAL = 0.01  # scales that differ by less are the same
_SQUEEZE = 8.0  # sides of a pixel that differ by more are no calibration

_REMEDIES = {
    "truncated-image": "Copy it again from its source.",
    "oversized-image": "Export one frame of it, such as a JPEG or PNG.",
    "no-pixels": "Name a DICOM image, not a report or a directory.",
    "unsupported-dicom": "Export it from its archive as uncompressed DICOM, JPEG or PNG.",
}
_OTHERWISE = "Export it again from its archive."


class Patient(NamedTuple):
    """Whose image it is, as digests that are the same for the same text in this process alone.

    Each is empty where the file does not say.

    Attributes:
        id: of the patient's id.
        issuer: of who gave it.
        born: of the birth date.
        family: of the family name.
    """

    id: bytes = b""
    issuer: bytes = b""
    born: bytes = b""
    family: bytes = b""

    def may_be(self, other: Patient) -> bool:
        """Whether two files can be of one patient: what both say of id, issuer and birth date is the same.

        Without birth dates family names count, as devices write a name in many ways.
        """
        pairs = [(self.id, other.id), (self.issuer, other.issuer), (self.born, other.born)]
        if not all(pairs[-1]):
            pairs.append((self.family, other.family))
        return all(one == another for one, another in pairs if one and another)


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomFacts:
    """What a DICOM image's header says.

    Attributes:
        mm_per_pixel: of the pixels as they are taken, where the file is calibrated.
        burned_in: whether it says that text is burned into its pixels; None where it does not say.
        frame: which frame is taken, from 0.
        frames: how many there are.
        kind: one of `agfnet.kinds.KINDS`, or other.
        cropped: whether the pixels are cut to a region.
        captured: whether it is a secondary capture: made by a program, not by a device.
        patient: whose image it is; None where it does not say.
        upwards: whether it says that depth grows upwards; some devices say so whatever the picture shows.
    """

    mm_per_pixel: float | None
    burned_in: bool | None
    frame: int
    frames: int
    kind: str
    cropped: bool
    captured: bool
    patient: Patient | None
    upwards: bool


class DicomImage(NamedTuple):
    """Pixels (H, W, 3) uint8, cut to the calibrated region where there is exactly one, and what the header says."""

    pixels: NDArray[np.uint8]
    facts: DicomFacts


class _Scale(NamedTuple):
    """Size of a pixel: (down, across) in mm, or any unit where it is not known; what to cut out; if depth grows up."""

    sides: tuple[float, float]
    known: bool
    box: tuple[int, int, int, int] | None = None
    upwards: bool = False


def read_dicom(source: str | Place | bytes, *, limits: ImageLimits = DEFAULT_LIMITS) -> DicomImage:
    """Read a DICOM image.

    Args:
        source: the file, or its content.
        limits: what it may be; checked before decoding.

    Raises:
        ImageError: it cannot be used; the message names the file, the cause and the remedy.
    """
    with opened(source if isinstance(source, bytes) else place(source), limits) as (name, file):
        return decode_dicom(name, file, limits)


def decode_dicom(name: Place | str, file: IO[bytes], limits: ImageLimits) -> DicomImage:
    """Read a DICOM image from an open file; see `read_dicom`.

    Args:
        name: what it is called in errors.
        file: at its start.
        limits: what it may be.

    Raises:
        ImageError: it cannot be used.
    """
    header = dicom_values(name, file, limits)
    if find_spec("pydicom") is None:
        problem = "it is a DICOM image, and pydicom is not installed"
        raise CodedImageError(name, "unsupported-dicom", problem, "pip install 'agfnet[dicom]'")
    if header.pixels_length is None and file.seek(0, io.SEEK_END) > limits.max_bytes:
        problem = f"its compressed pixels are over the limit of {limits.max_bytes / 2**20:.1f} MiB"
        raise image_error(name, HeaderFault("oversized-image", problem))
    try:
        layout, scale, facts = _read_facts(name, header, limits)
        pixels = decode_frame(header, layout, facts.frame)
    except HeaderFault as fault:
        raise image_error(name, fault) from fault
    if scale.box is not None:
        left, top, right, low = scale.box
        pixels = pixels[top : low + 1, left : right + 1]
    pixels = _square(pixels, scale.sides)
    check_size(name, (pixels.shape[1], pixels.shape[0]), limits)
    return DicomImage(np.array(pixels, order="C"), facts)


def dicom_facts(name: Place | str, file: IO[bytes], limits: ImageLimits) -> DicomFacts:
    """What the header of an image says, without decoding a pixel; see `decode_dicom`."""
    header = dicom_values(name, file, limits)
    try:
        return _read_facts(name, header, limits)[2]
    except HeaderFault as fault:
        raise image_error(name, fault) from fault


def _read_facts(name: Place | str, header: Header, limits: ImageLimits) -> tuple[Layout, _Scale, DicomFacts]:
    layout = read_layout(header)
    check_size(name, (layout.columns, layout.rows), limits)
    kind = _kind(header.values)
    scale = _scale(header, layout, kind, limits.min_side)
    facts = DicomFacts(
        mm_per_pixel=max(scale.sides) if scale.known else None,
        burned_in={"YES": True, "NO": False}.get(text(header.values.get(_BURNED_IN, b""))),
        frame=layout.frames // 2,
        frames=layout.frames,
        kind=kind,
        cropped=scale.box is not None,
        captured=_captured(header.values),
        patient=_patient(header.values),
        upwards=scale.upwards,
    )
    return layout, scale, facts


def _patient(values: Values) -> Patient | None:
    said = [*(identifier(values, tag) for tag in (PATIENT, _ISSUER, _BORN)), family_name(values, _NAME).encode()]
    digests = (hashlib.blake2b(own, key=_KEY, digest_size=16).digest() if own else b"" for own in said)
    return Patient(*digests) if any(said) else None


def identifier(values: Values, tag: int) -> bytes:
    """An identifier's bytes without the padding that writers differ in."""
    return values.get(tag, b"").strip(b" \0")


def dicom_values(name: Place | str, file: IO[bytes], limits: ImageLimits, also: frozenset[int] = frozenset()) -> Header:
    """What the header says, as raw bytes, without decoding.

    Args:
        name: what the file is called in errors.
        file: at its start.
        limits: what it may be.
        also: further tags to keep.

    Raises:
        ImageError: it is no DICOM file, or a damaged one.
    """
    if file.read(132)[128:] != b"DICM":
        problem = "it lacks the signature of a DICOM file"
        raise CodedImageError(name, "not-an-image", problem, "Name a DICOM file (PS3.10).")
    try:
        return read_header(file, _WANTED | also, frozenset({_REGIONS}), max_bytes=limits.max_bytes)
    except HeaderFault as fault:
        raise image_error(name, fault) from fault


def image_error(name: Place | str, fault: HeaderFault) -> CodedImageError:
    """A finding as an error that names the file and the remedy."""
    remedy = _REMEDIES.get(fault.cause, _OTHERWISE)
    return CodedImageError(name, fault.cause, f"this is a DICOM file, but {fault}", remedy)


def _captured(values: Values) -> bool:
    found = text(values.get(_SOP_CLASS, b""))
    return found == _SECONDARY_CAPTURE or found.startswith(f"{_SECONDARY_CAPTURE}.")


def _kind(values: Values) -> str:
    modality = text(values.get(_MODALITY, b""))
    if modality in _KIND_OF:
        return _KIND_OF[modality]
    photo = text(values.get(_SOP_CLASS, b"")) == _VL_PHOTOGRAPHIC
    # Photos that were imported into an archive are secondary captures of the modality "other".
    return "photo" if photo or (modality in {"OT", "SC"} and _captured(values)) else "other"


def _scale(header: Header, layout: Layout, kind: str, min_side: int) -> _Scale:
    if _REGIONS in header.items:
        tissue = [item for item in header.items[_REGIONS] if _shows_tissue(item, header.order)]
        found = [_region(item, header.order, layout, min_side) for item in tissue]
        # One that cannot be used may be the scan itself, beside a calibrated inset.
        usable = [scale for scale in found if scale is not None]
        if usable and len(usable) == len(found):
            if len(usable) == 1:
                return usable[0]
            if all(_alike(s.sides, usable[0].sides) for s in usable):
                return _Scale(usable[0].sides, known=True, upwards=any(s.upwards for s in usable))
    elif (kind in KINDS and KINDS[kind].depth) or text(header.values.get(_CALIBRATION, b"")) in {
        "GEOMETRY",
        "FIDUCIAL",
    }:
        sides = decimals(header.values, _SPACING)
        if _plausible(sides):
            return _Scale((sides[0], sides[1]), known=True)
    shape = decimals(header.values, _ASPECT)
    if len(shape) == 2 and min(shape) > 0.0 and max(shape) <= _SQUEEZE * min(shape):
        return _Scale((shape[0], shape[1]), known=False)
    return _Scale((1.0, 1.0), known=False)


def _shows_tissue(item: Values, order: str) -> bool:
    return [numbers(item, tag, order, "H") for tag in (_SPATIAL_FORMAT, _DATA_TYPE)] == [(_TWO_D,), (_TISSUE,)]


def _region(item: Values, order: str, layout: Layout, min_side: int) -> _Scale | None:
    """A region of 2-D tissue that is calibrated and lies in the image, or None."""
    units = [numbers(item, tag, order, "H") for tag in _UNITS]
    corners = [numbers(item, tag, order, "I") for tag in _BOX]
    deltas = [numbers(item, tag, order, "d") for tag in _DELTAS]
    if units != [(_CM,), (_CM,)] or not all(len(v) == 1 for v in (*corners, *deltas)):
        return None
    # The sign only says which way an axis points.
    (across, down), upwards = (abs(10.0 * v[0]) for v in deltas), deltas[1][0] < 0.0
    left, top, right, low = (int(v[0]) for v in corners)
    # Some devices give the first column and row past the region.
    if right > layout.columns or low > layout.rows or not _plausible((down, across)):
        return None
    right, low = min(right, layout.columns - 1), min(low, layout.rows - 1)
    if min(right - left, low - top) + 1 < min_side:
        return None
    return _Scale((down, across), known=True, box=(left, top, right, low), upwards=upwards)


def _plausible(sides: Sequence[float]) -> bool:
    low, high = MM_PER_PIXEL_RANGE
    return len(sides) == 2 and all(low <= side <= high for side in sides) and max(sides) <= _SQUEEZE * min(sides)


def _alike(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(abs(a - b) <= _EQUAL * b for a, b in zip(one, other, strict=True))


def _square(pixels: NDArray[np.uint8], sides: tuple[float, float]) -> NDArray[np.uint8]:
    """Pixels of equal sides, each as long as the longer one."""
    down, across = sides
    side = max(sides)
    if side - min(sides) <= _EQUAL * side:
        return pixels
    height, width = (max(1, round(n * s / side)) for n, s in zip(pixels.shape[:2], (down, across), strict=True))
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
