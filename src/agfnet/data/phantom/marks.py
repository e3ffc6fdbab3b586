"""What people and devices draw over images: rulers, pen, calipers, text. Their choice and place know no class."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_FONT_SIZE = 9.0


def draw_marks(image: Image.Image, kind: str, mm_per_pixel: float, rng: np.random.Generator) -> Image.Image:
    """Draw over a copy of an image.

    Args:
        image: RGB or grey.
        kind: "none", "ruler" or "pen" on a photo; "calipers" or "text" on a scan.
        mm_per_pixel: its scale.
        rng: of place and content.

    Raises:
        ValueError: the kind is not known.
    """
    draw = {"none": None, "ruler": _ruler, "pen": _pen, "calipers": _calipers, "text": _text}
    if kind not in draw:
        raise ValueError(f"marks are one of {sorted(draw)}, not {kind!r}")
    marked = image.copy()
    if (function := draw[kind]) is not None:
        function(marked, mm_per_pixel, rng)
    return marked


def _font(image: Image.Image) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=_FONT_SIZE * image.width / 224.0)


def _ruler(image: Image.Image, mm_per_pixel: float, rng: np.random.Generator) -> None:
    """A paper ruler with millimetres along one side."""
    pen, (width, height) = ImageDraw.Draw(image), image.size
    thick = round(rng.uniform(2.2, 3.5) / mm_per_pixel)
    below = bool(rng.integers(2))
    top = height - thick if below else 0
    shade = int(rng.integers(200, 245))
    pen.rectangle((0, top, width, top + thick), fill=(shade, shade, shade - 8))
    start = rng.uniform(0.0, 1.0 / mm_per_pixel)
    for tick in range(int(width * mm_per_pixel) + 1):
        x = start + tick / mm_per_pixel
        length = thick * (0.55 if tick % 5 == 0 else 0.3)
        pen.line((x, top + (0 if below else thick - length), x, top + (length if below else thick)), fill=(40, 40, 40))


def _pen(image: Image.Image, mm_per_pixel: float, rng: np.random.Generator) -> None:
    """A violet arrow from a surgeon's pen, pointing anywhere."""
    pen = ImageDraw.Draw(image)
    start = rng.uniform(0.08, 0.92, size=2) * image.size
    angle = rng.uniform(0.0, 2.0 * np.pi)
    tip = start + rng.uniform(3.0, 6.0) / mm_per_pixel * np.array([np.cos(angle), np.sin(angle)])
    width = max(1, round(0.35 / mm_per_pixel))
    ink = (70, 40, 120)
    pen.line([tuple(start), tuple(tip)], fill=ink, width=width)
    for side in (2.6, -2.6):
        barb = tip + 1.2 / mm_per_pixel * np.array([np.cos(angle + side), np.sin(angle + side)])
        pen.line([tuple(tip), tuple(barb)], fill=ink, width=width)


def _calipers(image: Image.Image, mm_per_pixel: float, rng: np.random.Generator) -> None:
    """One or two pairs of crosses with a dotted line, and their lengths."""
    pen, (width, height) = ImageDraw.Draw(image), image.size
    arm = 3.0 * width / 224.0
    for pair in range(int(rng.integers(1, 3))):
        first = rng.uniform((0.1, 0.15), (0.9, 0.9)) * image.size
        second = rng.uniform((0.1, 0.15), (0.9, 0.9)) * image.size
        for x, y in (first, second):
            pen.line((x - arm, y, x + arm, y), fill=_WHITE[image.mode])
            pen.line((x, y - arm, x, y + arm), fill=_WHITE[image.mode])
        length = float(np.hypot(*(second - first)))
        for share in np.arange(0.0, 1.0, 4.0 / max(length, 8.0)):
            pen.point(tuple(first + share * (second - first)), fill=_WHITE[image.mode])
        text = f"{pair + 1} D {length * mm_per_pixel:.1f} mm"
        pen.text((0.02 * width, height - (pair + 1) * 0.06 * width), text, fill=_WHITE[image.mode], font=_font(image))


def _text(image: Image.Image, mm_per_pixel: float, rng: np.random.Generator) -> None:
    """A scale at the side and lines of settings."""
    pen, (width, height) = ImageDraw.Draw(image), image.size
    for tick in range(int(height * mm_per_pixel) + 1):
        y = tick / mm_per_pixel
        pen.line((width - (8 if tick % 5 == 0 else 4), y, width, y), fill=_WHITE[image.mode])
    words = ["SKIN", "SOFT", "GEN", "L HAND", "R ARM", "BACK", "FACE"]
    lines = [str(rng.choice(words)), f"G {int(rng.integers(30, 80))}", f"FR {int(rng.integers(9, 30))}"]
    x, y = (0.02 * width, 0.02 * width) if rng.integers(2) else (0.7 * width, height - 0.2 * width)
    for row, line in enumerate(lines):
        pen.text((x, y + row * 0.055 * width), line, fill=_WHITE[image.mode], font=_font(image))


_WHITE: dict[str, int | tuple[int, int, int]] = {"L": 235, "RGB": (235, 235, 235)}
