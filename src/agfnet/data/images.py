"""From a file to upright RGB pixels, with every guard against bad files before a pixel is decoded.

Formats are told by content, never by suffix, and each is handed straight to its own decoder, so nothing
outside the allow-list is ever tried. A further format is one more entry in `_MAGIC` and `_DECODERS`; DICOM, whose
rules fill a module of their own, is handed to `agfnet.data.dicom`.

Rules that hold for every format: a 16-bit sample keeps its high byte (0..65535 -> 0..255, the full range,
never stretched to the image's own range); transparency is laid on white; EXIF orientation is applied; of
several frames the first is taken, several pages of a TIFF are refused; embedded colour profiles are not applied.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator
from typing import IO, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from agfnet.data.codestream import MAX_SCANS, MAX_SEGMENTS, keeps_busy
from agfnet.data.dicom import DicomFacts, Patient, decode_dicom, dicom_facts
from agfnet.data.imagefile import DEFAULT_LIMITS, CodedImageError, ImageLimits, check_size, opened
from agfnet.places import place
from agfnet.types import Place

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".png", ".tif", ".tiff", ".webp", ".bmp", ".dcm", ".dicom")
_HEAD_BYTES = 132
_TEXT_BYTES = 32
_CONVERT = "Save it as JPEG, PNG, TIFF, WebP, BMP or DICOM."

_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    # Before TIFF: the free first 128 bytes of a DICOM file may make it a TIFF as well.
    (128, b"DICM", "DICOM"),
    (0, b"II*\x00", "TIFF"),
    (0, b"MM\x00*", "TIFF"),
    (0, b"II+\x00", "TIFF"),
    (0, b"MM\x00+", "TIFF"),
    (8, b"WEBP", "WebP"),
    (0, b"BM", "BMP"),
)
# Named in the error, as these are what is met in practice under an image's name.
_FOREIGN: tuple[tuple[int, bytes, str], ...] = (
    (0, b"GIF8", "a GIF"),
    (0, b"%PDF", "a PDF"),
    (4, b"ftyp", "a HEIC, AVIF or video file"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the image itself"),
)
_DECODERS: dict[str, Callable[[IO[bytes]], ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "TIFF": TiffImageFile,
    "WebP": WebPImageFile,
    "BMP": BmpImageFile,
}
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION_TAG = 0x0112
_PHOTOMETRIC_TAG = 0x0106
_BITS_TAG = 0x0102
_SUBFILE_TAG = 0x00FE
_RUN_LENGTHS = (1, 2)
_TILE_TAGS = (0x0142, 0x0143)


def sniff(path: str | Place, *, limits: ImageLimits = DEFAULT_LIMITS) -> str:
    """Tell the format of an image file from its first bytes, without decoding.

    Args:
        path: the file, local or by URL.
        limits: only the sizes in bytes are looked at.

    Returns:
        JPEG, PNG, TIFF, WebP, BMP or DICOM.

    Raises:
        ImageError: the file is missing, not a regular file, empty, too large, or none of these formats.
    """
    with opened(place(path), limits) as (name, file):
        return _format_of(name, file)


def read_image(
    source: str | Place | bytes, *, limits: ImageLimits = DEFAULT_LIMITS, at_least: int | None = None
) -> NDArray[np.uint8]:
    """Read an image file as upright RGB.

    Args:
        source: a JPEG, PNG, TIFF, WebP, BMP or DICOM file, whatever its suffix, local or by URL, or the content of one.
        limits: what the file may be; checked before decoding.
        at_least: where given, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size as long as both sides stay
            at least this many pixels; other formats are decoded in full.

    Returns:
        (H, W, 3) uint8 in 0..255, contiguous and writable.

    Raises:
        ImageError: the file cannot be used; the message names the file, the cause and the remedy.
    """
    return read_scaled_image(source, limits=limits, at_least=at_least)[0]


class Said(NamedTuple):
    """What an image file says of itself: a DICOM image may, another says nothing.

    Attributes:
        mm_per_pixel: where it is calibrated.
        burned_in: it says that text is burned into the pixels.
        clip: number of the frame that is taken, from 1, and how many there are; None for one alone.
        kind: one of `agfnet.kinds.KINDS` or other, where it is a device's image.
        patient: whose image it is.
        upwards: it says that depth grows upwards, so that it may be upside down.
    """

    mm_per_pixel: float | None = None
    burned_in: bool = False
    clip: tuple[int, int] | None = None
    kind: str | None = None
    patient: Patient | None = None
    upwards: bool = False


class ScaledImage(NamedTuple):
    """An image, (H, W, 3) uint8, and what its file says of it."""

    pixels: NDArray[np.uint8]
    said: Said = Said()


def read_said(path: str | Place, *, limits: ImageLimits = DEFAULT_LIMITS) -> Said:
    """What an image file says of itself, from its first bytes or its DICOM header; no pixel is decoded.

    Raises:
        ImageError: see `sniff`; or a DICOM header that cannot be used.
    """
    with opened(place(path), limits) as (name, file):
        return _said(dicom_facts(name, file, limits)) if _format_of(name, file) == "DICOM" else Said()


def _said(facts: DicomFacts) -> Said:
    kind = None if facts.captured else facts.kind  # a program's picture may be of anything
    clip = (facts.frame + 1, facts.frames) if facts.frames > 1 else None
    return Said(facts.mm_per_pixel, bool(facts.burned_in), clip, kind, facts.patient, facts.upwards)


def read_scaled_image(
    source: str | Place | bytes, *, limits: ImageLimits = DEFAULT_LIMITS, at_least: int | None = None
) -> ScaledImage:
    """Read an image file as `read_image` does, together with what the file itself says of its scale and its text.

    Raises:
        ImageError: see `read_image`.
    """
    with opened(source if isinstance(source, bytes) else place(source), limits) as (name, file):
        suffix = _format_of(name, file)
        if suffix == "DICOM":
            made = decode_dicom(name, file, limits)
            return ScaledImage(made.pixels, _said(made.facts))
        return ScaledImage(_decoded(name, file, suffix, limits, at_least))


def check_shown(path: Place | str, pixels: NDArray[np.uint8]) -> None:
    """Refuse an image (H, W, 3) of one colour: no lesion looks so, and a network answers all the same.

    Raises:
        ImageError: it is one.
    """
    first = pixels[0, 0]
    if (pixels[::16, ::16] == first).all() and (pixels == first).all():
        problem = "all its pixels have the same colour"
        remedy = "Export it again, or leave this view out where there is no image."
        raise CodedImageError(path, "blank-image", problem, remedy)


def _decoded(
    path: Place | str, file: IO[bytes], kind: str, limits: ImageLimits, at_least: int | None
) -> NDArray[np.uint8]:
    if kind == "JPEG":
        _check_segments(path, file)
    elif kind in _COUNTED:
        _check_parts(path, file, kind)
    try:
        image = _DECODERS[kind](file)
    except Exception as error:
        raise _undecodable(path, kind, error) from error
    check_size(path, image.size, limits)
    if kind == "BMP" and image.info["compression"] in _RUN_LENGTHS:  # which takes Pillow seconds for some kilobytes
        problem = "its pixels are run-length coded, which takes a decoder long"
        raise CodedImageError(path, "oversized-image", problem, "Save it anew as a PNG, or a BMP without compression.")
    if kind == "TIFF":
        _check_pages(path, image)
        _check_tiles(path, image, limits)
    try:
        if at_least is not None:
            image.draft(None, (at_least, at_least))
        image.load()
        return _to_rgb(image)
    except Exception as error:
        raise _undecodable(path, kind, error) from error


def _check_segments(path: Place | str, file: IO[bytes]) -> None:
    """Refuse a JPEG that would keep the decoder busy for long."""
    busy = keeps_busy(file.read())
    file.seek(0)
    if busy:
        problem = f"it has more than {MAX_SCANS} scans or {MAX_SEGMENTS:,} segments"
        raise CodedImageError(path, "oversized-image", problem, "Save it anew as a JPEG or PNG.")


def _png_chunks(file: IO[bytes]) -> Iterator[None]:
    """One item for each chunk of a PNG (its specification, 5.3), up to its end."""
    file.seek(8)
    while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
        yield
        file.seek(int.from_bytes(head[:4], "big") + 4, io.SEEK_CUR)


def _tiff_entries(file: IO[bytes]) -> Iterator[None]:
    """One item for each entry of the first directory of a TIFF or BigTIFF, as many as it says."""
    head = file.read(16)
    order: Literal["little", "big"] = "little" if head[:2] == b"II" else "big"
    big = 0x2B in head[2:4]
    start = int.from_bytes(head[8:16] if big else head[4:8], order)
    if start < 2**62:  # beyond, it is no place in a file, as the decoder will find
        file.seek(start)
        yield from itertools.repeat(None, int.from_bytes(file.read(8 if big else 2), order))


_COUNTED = {"PNG": _png_chunks, "TIFF": _tiff_entries}
_MOST_PARTS = 20_000
"""Chunks or entries of a file, which a decoder takes one by one: a PNG of 100 MiB in chunks of 8 KiB has 12,800."""


def _check_parts(path: Place | str, file: IO[bytes], kind: str) -> None:
    """Refuse a PNG or TIFF of so many parts that it would keep the decoder busy for long."""
    busy = sum(1 for _ in itertools.islice(_COUNTED[kind](file), _MOST_PARTS + 1)) > _MOST_PARTS
    file.seek(0)
    if busy:
        problem = f"it has more than {_MOST_PARTS:,} chunks or entries"
        raise CodedImageError(path, "oversized-image", problem, "Save it anew as a JPEG or PNG.")


def _check_pages(path: Place | str, image: ImageFile) -> None:
    """Refuse a TIFF of several pages: which one is meant cannot be told. A preview after the picture is none."""
    try:
        image.seek(1)
    except EOFError:
        return
    except Exception as error:
        raise _undecodable(path, "TIFF", error) from error
    preview = getattr(image, "tag_v2", {}).get(_SUBFILE_TAG, 0) & 1
    if not preview:
        remedy = "Save the page that is meant as a file of its own."
        raise CodedImageError(path, "several-pages", "the TIFF has several pages", remedy)
    image.seek(0)


def _check_tiles(path: Place | str, image: ImageFile, limits: ImageLimits) -> None:
    """Refuse a TIFF whose tiles are larger than an image may be: the decoder makes room for a whole one."""
    width, height = (getattr(image, "tag_v2", {}).get(tag, 0) for tag in _TILE_TAGS)
    if not isinstance(width, int) or not isinstance(height, int) or width * height > limits.max_pixels:
        problem = f"its tiles are over the limit of {limits.max_pixels:,} pixels"
        raise CodedImageError(path, "oversized-image", problem, "Save it anew as a PNG, or a TIFF without tiles.")


def _format_of(path: Place | str, file: IO[bytes]) -> str:
    try:
        head = file.read(_HEAD_BYTES)
        file.seek(0)
    except OSError as error:
        problem = f"it cannot be read ({error.strerror})"
        raise CodedImageError(path, "unopenable-file", problem, "Check the disk, or copy it again.") from error
    for offset, magic, kind in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return kind
    for offset, magic, what in _FOREIGN:
        if head[offset : offset + len(magic)] == magic:
            raise CodedImageError(path, "not-an-image", f"its content is {what}", _CONVERT)
    text = all(byte in b"\t\n\r" or byte >= 32 for byte in head[:_TEXT_BYTES])
    what = "looks like text" if text else "is of no known image format"
    raise CodedImageError(path, "not-an-image", f"its content {what}", _CONVERT)


def _undecodable(path: Place | str, kind: str, error: Exception) -> CodedImageError:
    if "truncated" in str(error).lower():
        return CodedImageError(path, "truncated-image", f"the {kind} ends too early", "Copy it again from its source.")
    reason = str(error).strip().rstrip(".") or type(error).__name__
    return CodedImageError(
        path,
        "unreadable-image",
        f"it starts as a {kind} but cannot be decoded ({reason})",
        f"Copy it again, if it is damaged. {_CONVERT}",
    )


def _to_rgb(image: ImageFile) -> NDArray[np.uint8]:
    """(H, W, 3) from a loaded image of any mode."""
    # TIFF's orientation is applied by Pillow while loading, which also removes the tag.
    turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION_TAG, 1))
    upright: Image.Image = image if turn is None else image.transpose(turn)
    if image.mode.startswith("I;16"):
        upright = Image.fromarray(_high_byte(image, upright))
    elif image.mode in {"I", "F"}:
        message = "32-bit samples have no stated range: save it with 8 or 16 bits a sample"
        raise ValueError(message)
    if image.has_transparency_data:
        upright = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
    return np.array(upright.convert("RGB"))


def _high_byte(image: ImageFile, upright: Image.Image) -> NDArray[np.uint8]:
    samples = np.asarray(upright)
    tags = getattr(image, "tag_v2", {})
    if tags.get(_BITS_TAG, (16,))[0] != 16:
        message = "12-bit samples are not supported: save it with 8 or 16 bits a sample"
        raise ValueError(message)
    if samples.max() < 1 << 12:
        message = "its 16-bit samples use 12 bits at most and would be shown nearly black: scale them to 16, or save 8"
        raise ValueError(message)
    high = (samples >> 8).astype(np.uint8)
    # Pillow inverts white-is-zero TIFFs of 8 bits, but not those of 16.
    return 255 - high if tags.get(_PHOTOMETRIC_TAG) == 0 else high
