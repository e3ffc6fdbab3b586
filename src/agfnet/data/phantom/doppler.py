"""Colour Doppler, the optional third view: flow shows here and nowhere else. Its look is an assumption of ours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from agfnet.data.phantom.fields import smooth_field


def colour_flow(image: NDArray[np.uint8], flow: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint8]:
    """The B-mode image with a colour box: red and blue where blood moves towards and away from the probe.

    Args:
        image: (H, W) uint8.
        flow: (H, W) vessel density, 0 to 1.
        rng: of the vessels' places and of clutter.

    Returns:
        (H, W, 3) uint8.
    """
    rows, columns = image.shape
    places = smooth_field((rows, columns), (rows / 5.0, columns / 7.0), rng)
    velocity = smooth_field((rows, columns), (rows / 25.0, columns / 25.0), rng)
    moving = places > 3.0 - 2.6 * flow
    top, left, right = round(0.08 * rows), round(0.06 * columns), round(0.94 * columns)
    box = np.zeros_like(moving)
    box[top:, left:right] = True
    out = np.repeat(image[..., None], 3, axis=2)
    seen = moving & box & (flow > 0.0) | (box & (places > 3.5))
    strength = (120 + 110 * np.clip(np.abs(velocity), 0.0, 1.0)).astype(np.uint8)
    out[seen] = 0
    out[..., 0][seen & (velocity >= 0)] = strength[seen & (velocity >= 0)]
    out[..., 2][seen & (velocity < 0)] = strength[seen & (velocity < 0)]
    pen = Image.fromarray(out)
    ImageDraw.Draw(pen).rectangle((left, top, right - 1, rows - 1), outline=(0, 160, 90))
    return np.asarray(pen)
