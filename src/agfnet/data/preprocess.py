"""Pixels to model input: deterministic, NumPy and Pillow only; shared by training, prediction and serving."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agfnet.data.dicom import Patient
from agfnet.data.imagefile import DEFAULT_LIMITS, UPLOAD, CodedImageError, ImageLimits
from agfnet.data.images import check_shown, read_scaled_image
from agfnet.data.said import KIND_REMEDY, SCALE_REMEDY, scales_differ, wrong_kind
from agfnet.kinds import KINDS
from agfnet.types import ImageError, Place

SCALING = (1 / 64, 16.0)
"""Least and greatest factor from an image's scale to the input's; beyond it the millimetres are surely wrong."""


@dataclass(frozen=True, slots=True)
class ViewSpec:
    """How one view's pixels become the network's input.

    Attributes:
        kind: one of `agfnet.kinds.KINDS`.
        size: (height, width) in pixels.
        mean, std: per channel, of pixels in [0, 1].
        mm_per_pixel: the fixed scale of the input, or None to fit each image.
    """

    kind: str
    size: tuple[int, int]
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    mm_per_pixel: float | None = None

    @property
    def padding(self) -> tuple[int, int, int]:
        """What fills the frame beside the image: black beside a scan, the normalisation's mean beside a photo."""
        if KINDS[self.kind].depth:
            return (0, 0, 0)
        r, g, b = (round(255 * m) for m in self.mean)
        return (r, g, b)

    @property
    def flips(self) -> tuple[tuple[int, ...], ...]:
        """The test-time flips, as axes of (H, W, 3): a scan keeps its skin side up."""
        return ((), (1,)) if KINDS[self.kind].depth else ((), (1,), (0,), (0, 1))


class Framed(NamedTuple):
    """One image, fitted to the input's frame.

    Attributes:
        pixels: (height, width, 3) uint8.
        mm_per_pixel: of the frame, where known.
        burned_in: the file says that text is burned into its pixels.
        clip: of a file with several frames, which one it is, from 1, and how many there are.
        patient: whose image it is, where the file says so.
        upwards: the file says that depth grows upwards, so that it may be upside down.
    """

    pixels: NDArray[np.uint8]
    mm_per_pixel: float | None = None
    burned_in: bool = False
    clip: tuple[int, int] | None = None
    patient: Patient | None = None
    upwards: bool = False


def read_frame(
    source: Place | bytes,
    spec: ViewSpec,
    *,
    mm_per_pixel: float | None = None,
    enlarge: float = 1.0,
    change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None = None,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> Framed:
    """Read an image file and fit it to the input's frame; see `fit`.

    Args:
        source: the file, or its content.
        spec: the view.
        mm_per_pixel: the image's scale, where known; otherwise that of a calibrated DICOM file is taken.
            Where both are known they must agree within a tenth.
        enlarge: factor on the frame.
        change: what is done to the pixels (H, W, 3) before they are fitted; for tests of robustness.
        limits: what the file may be.

    Raises:
        ImageError: the file cannot be used.
    """
    # A JPEG is decoded at a fraction of its size where that is enough; not where the size of its pixels counts.
    at_least = round(2 * enlarge * max(spec.size)) if mm_per_pixel is None else None
    shown, said = read_scaled_image(source, limits=limits, at_least=at_least)
    name = UPLOAD if isinstance(source, bytes) else source
    check_shown(name, shown)
    if wrong := wrong_kind(said.kind, KINDS[spec.kind]):
        raise CodedImageError(name, "wrong-view", wrong, KIND_REMEDY)
    if differ := scales_differ(mm_per_pixel, said.mm_per_pixel):
        raise CodedImageError(name, "two-scales", differ, SCALE_REMEDY)
    mm = said.mm_per_pixel if mm_per_pixel is None else mm_per_pixel
    pixels = fit(change(shown) if change else shown, spec, mm_per_pixel=mm, enlarge=enlarge)
    scale = None if mm is None else frame_scale((shown.shape[0], shown.shape[1]), spec, mm) / enlarge
    return Framed(pixels, scale, said.burned_in, said.clip, said.patient, said.upwards)


def fit(
    pixels: NDArray[np.uint8], spec: ViewSpec, *, mm_per_pixel: float | None = None, enlarge: float = 1.0
) -> NDArray[np.uint8]:
    """Resize with the aspect kept, and pad to the input's frame.

    Where the image's and the input's scale in mm are both known, the image is resampled to that scale and cut or
    padded: from the sides evenly, from the bottom (a scan's skin side is at the top; of a photo, evenly).

    Args:
        pixels: (H, W, 3) uint8.
        spec: the view.
        mm_per_pixel: the image's scale, where known.
        enlarge: factor on the frame, for a cache that is later cut by augmentation.

    Raises:
        ImageError: the two scales are so far apart that one must be wrong.

    Returns:
        (enlarge * height, enlarge * width, 3) uint8.
    """
    height, width = (round(enlarge * side) for side in spec.size)
    h, w = pixels.shape[:2]
    if spec.mm_per_pixel is not None and mm_per_pixel is not None:
        times = mm_per_pixel / spec.mm_per_pixel
        if not SCALING[0] <= times <= SCALING[1]:
            raise ImageError(
                f"{mm_per_pixel} mm per pixel is {times:.3g} times the input's scale ({spec.mm_per_pixel}). "
                f"Check the unit of the table's mm_per_pixel column, or the DICOM file's calibration."
            )
        scale = enlarge * times
    else:
        scale = min(height / h, width / w)
    new_h, new_w = max(1, round(h * scale)), max(1, round(w * scale))
    left, top = (width - new_w) // 2, 0 if KINDS[spec.kind].depth else (height - new_h) // 2
    # Only what the frame shows is resampled: a wrong scale must not make an image that no memory holds.
    seen_w, seen_h = min(new_w, width), min(new_h, height)
    x, y = max(0, -left) * w / new_w, max(0, -top) * h / new_h
    box = (x, y, x + seen_w * w / new_w, y + seen_h * h / new_h)
    image = Image.fromarray(pixels).resize((seen_w, seen_h), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)
    frame = Image.new("RGB", (width, height), spec.padding)
    frame.paste(image, (max(0, left), max(0, top)))
    return np.asarray(frame)


def middle(pixels: NDArray[np.uint8], share: float) -> NDArray[np.uint8]:
    """The middle of an image (H, W, 3), of this share of its sides, at the size of the whole."""
    if share == 1.0:
        return pixels
    h, w = pixels.shape[:2]
    x, y = (1.0 - share) / 2 * w, (1.0 - share) / 2 * h
    return np.asarray(Image.fromarray(pixels).resize((w, h), Image.Resampling.BICUBIC, box=(x, y, w - x, h - y)))


def frame_scale(shape: tuple[int, int], spec: ViewSpec, mm_per_pixel: float) -> float:
    """Millimetres per pixel of the frame that `fit` makes of an image of this (height, width) and scale."""
    if spec.mm_per_pixel is not None:
        return spec.mm_per_pixel
    return mm_per_pixel / min(spec.size[0] / shape[0], spec.size[1] / shape[1])


def normalise(pixels: NDArray[np.uint8], spec: ViewSpec) -> NDArray[np.float32]:
    """(..., H, W, 3) uint8 to (..., 3, H, W) float32 with the mean and deviation of the encoder's training."""
    scale = np.float32(1.0) / (np.float32(255.0) * np.asarray(spec.std, np.float32))
    offset = np.asarray(spec.mean, np.float32) / np.asarray(spec.std, np.float32)
    return np.ascontiguousarray(np.moveaxis(pixels.astype(np.float32) * scale - offset, -1, -3))
