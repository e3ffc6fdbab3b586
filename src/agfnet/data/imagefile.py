"""An image as a file: what it may be before anything is decoded, and the error that says what is wrong with it."""

from __future__ import annotations

import hashlib
import io
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from agfnet.types import ImageError, Place

# From confocal microscopy to a photo of a whole back; pixels per mm and micrometres by mistake lie outside.
MM_PER_PIXEL_RANGE = (0.0005, 2.0)


def scale_of(text: str) -> float | None:
    """A scale as a person writes it, in millimetres per pixel, a comma being a decimal one; None where it is none.

    >>> scale_of("0,05"), scale_of("20 px/mm")
    (0.05, None)
    """
    low, high = MM_PER_PIXEL_RANGE
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        return None
    return value if low <= value <= high else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLimits:
    """What a file may be before it is decoded.

    Attributes:
        max_bytes: size of the file, in bytes.
        max_clip_bytes: the same of an uncompressed DICOM file on disk, of which only the header and one frame are read.
        max_pixels: width x height as the header says it.
        min_side: shortest side, in pixels.
        max_aspect: longer side over shorter side.
    """

    max_bytes: int = 100 * 2**20
    max_clip_bytes: int = 4 * 2**30
    max_pixels: int = 100_000_000
    min_side: int = 8
    max_aspect: float = 32.0


DEFAULT_LIMITS = ImageLimits()
UPLOAD = "the image"
"""What an image that came as bytes is called in errors."""


class CodedImageError(ImageError):
    """An `ImageError` that also gives its cause as a code, so that the table check can list it by cause.

    Attributes:
        cause: short code such as `truncated-image`.
        problem: what is wrong, without the file's name.
        remedy: what to do about it.
    """

    def __init__(self, path: Place | str, cause: str, problem: str, remedy: str) -> None:
        super().__init__(f"{path}: {problem}. {remedy}")
        self.cause = cause
        self.problem = problem
        self.remedy = remedy


@contextmanager
def opened(source: Place | bytes, limits: ImageLimits) -> Iterator[tuple[Place | str, IO[bytes]]]:
    """Open an image that has passed every check that needs no look at its content.

    Args:
        source: the file, or its content.
        limits: only the sizes in bytes are looked at.

    Yields:
        What it is called in errors, and the open file.

    Raises:
        ImageError: the file is missing, not a regular file, empty, too large, or cannot be read to its end.
    """
    if isinstance(source, bytes):
        _check_bytes(UPLOAD, len(source), limits)
        yield UPLOAD, io.BytesIO(source)
        return
    path = source
    try:
        large = _large(path, limits)
        file = path.open("rb")
    except (OSError, ValueError) as error:
        raise _unreachable(path, error) from error
    try:
        with file:
            if large is not None and not _is_dicom(file):
                _check_bytes(path, large, limits)
            yield path, file
    except OSError as error:  # a disk or a share that fails while the file is read
        raise _unreachable(path, error) from error


def file_sha256(path: Place, limits: ImageLimits) -> str:
    """SHA-256 of a file that may be an image, 64 hexadecimal digits.

    Raises:
        ImageError: it may not be, or cannot be read.
    """
    with opened(path, limits) as (_, file):
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # IO has no readinto


def check_unopened(path: Place, limits: ImageLimits) -> None:
    """Refuse what need not even be opened: a file that is missing, not a regular one, empty, or too large.

    Raises:
        ImageError: it is one of these.
    """
    try:
        _large(path, limits)
    except (OSError, ValueError) as error:
        raise _unreachable(path, error) from error


def _large(path: Place, limits: ImageLimits) -> int | None:
    """The size in bytes of a file that only a DICOM file may have, else None; what no file may be is refused."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise CodedImageError(path, "not-a-file", f"this is {kind}", "Name the image file itself.")
    if limits.max_bytes < status.st_size <= limits.max_clip_bytes:
        return status.st_size
    _check_bytes(path, status.st_size, limits)
    return None


def _unreachable(path: Place, error: Exception) -> CodedImageError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        remedy = "Correct the path, or leave the cell empty where the view is absent."
        name = str(path)
        if re.search(r"(^|/)([A-Za-z]:[\\/]|\\\\)", name):
            remedy = "It names another computer's drive or share. Copy images beside the table; write paths from there."
        elif "\\" in name:
            remedy = "Write `/`, not `\\`, between folders."
        elif re.search(r"\.\w{3,4} *[,|] *\S", name):
            remedy = "Several images of a view are separated by `;`."
        return CodedImageError(path, "missing-file", "there is no such file", remedy)
    reason = getattr(error, "strerror", None) or error
    return CodedImageError(
        path, "unopenable-file", f"it cannot be opened ({reason})", "Correct the path or its permissions."
    )


def _is_dicom(file: IO[bytes]) -> bool:
    start = file.read(132)
    file.seek(0)
    return start[128:] == b"DICM"


def _check_bytes(path: Place | str, size: int, limits: ImageLimits) -> None:
    if size == 0:
        raise CodedImageError(path, "empty-file", "the file is empty (0 bytes)", "Copy it again.")
    if size > limits.max_bytes:
        problem = f"{size / 2**20:.1f} MiB is over the limit of {limits.max_bytes / 2**20:.1f} MiB"
        raise CodedImageError(path, "oversized-image", problem, "Save it smaller, such as a JPEG.")


def check_size(path: Place | str, size: tuple[int, int], limits: ImageLimits) -> None:
    """Refuse a (width, height) that the limits do not allow."""
    width, height = size
    shape = f"{width} x {height} pixels"
    if width * height > limits.max_pixels:
        problem = f"{shape} are over the limit of {limits.max_pixels:,} pixels"
        raise CodedImageError(path, "oversized-image", problem, "Save it with fewer pixels.")
    if min(size) < limits.min_side:
        problem = f"{shape}: a side is under {limits.min_side} pixels"
        raise CodedImageError(path, "too-small-image", problem, "Use the original image, not a thumbnail.")
    if max(size) > limits.max_aspect * min(size):
        problem = f"{shape}: one side is over {limits.max_aspect:g} times the other"
        raise CodedImageError(path, "extreme-aspect", problem, "Crop it to the lesion or the scan region.")
