"""Pictures of where the evidence lies: a heat map over the network's own input, with a legend."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

log = logging.getLogger("agfnet")
Pixels = NDArray[np.uint8]
# From nothing to most: violet, magenta, orange, pale yellow; lightness rises all the way, so it also reads in grey.
_STOPS = np.array([[20, 11, 52], [132, 32, 107], [229, 92, 48], [246, 215, 70], [252, 255, 164]], np.float64)
FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "wqy-microhei.ttc")
"""Tried in this order for what is not English."""
_NO_LETTER = "\uffff"
SIDE = 320  # shorter side of a shown view, pixels
BAR = 14


def positive_part(evidence: NDArray[np.float32], chosen: int) -> NDArray[np.float32]:
    """Evidence for a class over the mean of the classes, where it is positive: (K, h, w) to (h, w)."""
    return np.maximum(evidence[chosen] - evidence.mean(0), 0.0)


def colours(heat: NDArray[np.floating]) -> Pixels:
    """Heat (h, w) from 0 to 1 as colours (h, w, 3)."""
    place = np.clip(heat, 0.0, 1.0) * (len(_STOPS) - 1)
    channels = [np.interp(place, np.arange(len(_STOPS)), _STOPS[:, c]) for c in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def cell_side(side: int, cells: int) -> float:
    """How many of a frame's pixels a cell of a map has along a side.

    Encoders halve a side several times and round: a cell is a power of two wide, and where that does not divide the
    side, the last cell reaches beyond the frame, or the frame beyond the last cell.

    >>> cell_side(160, 10), cell_side(150, 10), cell_side(112, 4)
    (16, 16, 32)
    """
    fitting = (step for step in (1, 2, 4, 8, 16, 32) if cells in (side // step, -(-side // step)))
    return next(fitting, side / cells)


def cells_of(side: int, cells: int) -> NDArray[np.int64]:
    """In which of a map's cells each pixel along a side of the frame lies: (side,)."""
    return np.minimum(np.arange(side) // cell_side(side, cells), cells - 1).astype(np.int64)


def spread(heat: NDArray[np.floating], size: tuple[int, int]) -> NDArray[np.float32]:
    """Heat on a map's grid as heat of every pixel of a frame (height, width), 0 to 1 over the map's largest value."""
    top = float(heat.max())
    scaled = np.asarray(heat, np.float32) / top if top > 0.0 else np.zeros_like(heat, np.float32)
    rows, columns = (round(n * cell_side(side, n)) for side, n in zip(size, heat.shape, strict=True))
    image = np.asarray(Image.fromarray(scaled).resize((columns, rows), Image.Resampling.BILINEAR), np.float32)
    missing = [(0, max(0, side - have)) for side, have in zip(size, image.shape, strict=True)]
    return np.pad(image, missing, mode="edge")[: size[0], : size[1]].clip(0.0, 1.0)


def overlay(frame: Pixels, heat: NDArray[np.floating], *, strength: float = 0.55) -> Pixels:
    """A frame (H, W, 3) with a map (h, w) laid over it: opaque where there is most, nothing where there is none.

    Args:
        frame: the network's input before normalisation.
        heat: not negative; shown relative to its largest value.
        strength: opacity at that value, 0 to 1.
    """
    full = spread(heat, frame.shape[:2])
    opacity = strength * np.sqrt(full)[..., None]
    return np.rint(frame * (1 - opacity) + colours(full) * opacity).astype(np.uint8)


class Row(NamedTuple):
    """One view on a sheet.

    Attributes:
        caption: the line above it.
        frame: (H, W, 3) the view as the network sees it.
        covered: (H, W, 3) the same with its overlay.
        mm_per_pixel: of the frame, where known: a bar of 5 mm is drawn.
    """

    caption: str
    frame: Pixels
    covered: Pixels
    mm_per_pixel: float | None


def letters(text: str, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """A font of the machine that has every letter of a text, or else Pillow's own, which knows English."""
    if text.isascii():
        return ImageFont.load_default(size)
    for name in FONTS:
        try:
            font = ImageFont.truetype(name, size)
        except OSError:
            continue
        unknown = bytes(font.getmask(_NO_LETTER))
        if all(bytes(font.getmask(one)) != unknown for one in set(text) if not one.isspace()):
            return font
    log.warning(
        "no font of this machine (%s) has all letters of the names: some are boxes in pictures. Install one, such as "
        "fonts-noto-cjk.",
        ", ".join(FONTS),
    )
    return ImageFont.load_default(size)


def sheet(rows: Sequence[Row], title: Sequence[str], notice: str) -> Image.Image:
    """One case: each view as it is and with its overlay, the legend, and what was found.

    Args:
        rows: the views.
        title: lines above the pictures.
        notice: the line below.
    """
    written = "".join([*title, *(row.caption for row in rows)])
    font, small = letters(written, 17), letters(written, 13)
    plain = [_enlarged(row.frame) for row in rows]
    width = max([2 * picture.width + 3 * 16 for picture in plain] + [640])
    title = [part for line in title for part in wrapped(line, font, width - 32)]
    captions = [wrapped(row.caption, small, width - 32) for row in rows]
    top = 16 + 24 * len(title)
    high = sum(picture.height + 26 + 18 * len(caption) for picture, caption in zip(plain, captions, strict=True))
    page = Image.new("RGB", (width, top + high + 72), "white")
    pen = ImageDraw.Draw(page)
    for i, text in enumerate(title):
        pen.text((16, 12 + 24 * i), text, fill="black", font=font)
    y = top
    for row, picture, caption in zip(rows, plain, captions, strict=True):
        for i, text in enumerate(caption):
            pen.text((16, y + 4 + 18 * i), text, fill="black", font=small)
        y += 18 * len(caption) - 18
        page.paste(picture, (16, y + 26))
        page.paste(_enlarged(row.covered), (32 + picture.width, y + 26))
        bar = _bar(row)
        if bar is not None:
            left, low = 24, y + 26 + picture.height - 12
            pen.rectangle((left - 4, low - 18, left + max(bar, 36) + 4, low + 8), fill="black")
            pen.line((left, low, left + bar, low), fill="white", width=3)
            pen.text((left, low - 17), "5 mm", fill="white", font=small)
        y += picture.height + 44
    none, legend = "evidence: none", Image.fromarray(colours(np.tile(np.linspace(0.0, 1.0, 180), (BAR, 1))))
    left = 24 + round(pen.textlength(none, font=small))
    pen.text((16, y + 2), none, fill="black", font=small)
    page.paste(legend, (left, y + 4))
    pen.text((left + legend.width + 8, y + 2), "most in this image", fill="black", font=small)
    pen.text((16, y + 32), notice, fill="#555555", font=small)
    return page


def wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """The text in lines that fit, broken between words where they have blanks and else between letters."""
    lines, line = [], ""
    for word in re.findall(r"\S+\s*|\s+", text):
        if line and font.getlength((line + word).rstrip()) > width:
            lines.append(line.rstrip())
            line = ""
        line += word
        while font.getlength(line.rstrip()) > width:
            fits = next(n for n in range(len(line) - 1, 0, -1) if n == 1 or font.getlength(line[:n]) <= width)
            lines.append(line[:fits])
            line = line[fits:]
    return [*lines, line.rstrip()]


def _scale(frame: Pixels) -> float:
    return max(1.0, SIDE / min(frame.shape[:2]))


def _enlarged(frame: Pixels) -> Image.Image:
    image = Image.fromarray(frame)
    factor = _scale(frame)
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)


def _bar(row: Row) -> int | None:
    """Length of 5 mm on the sheet, where it is known and fits."""
    if row.mm_per_pixel is None:
        return None
    length = round(5.0 / row.mm_per_pixel * _scale(row.frame))
    return length if length < row.frame.shape[1] * _scale(row.frame) - 16 else None
