"""Images made worse on purpose, in five severities: what a photo and a B-mode scan suffer in practice.

A corruption acts on the image as it is read, before it is fitted to the network's input; lengths are in units of the
shorter side / 224, so that a severity means the same at any resolution. The strengths are this project's own; they
were set by eye on images of both kinds, not on any network's figures. Light, contrast, gain, noise, speckle, blur,
attenuation, shadow and occlusion also occur in training augmentation, in weaker or simpler form; hair and JPEG, which
phantoms have themselves, haze and lost contact do not.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter, gaussian_filter1d
from scipy.signal import oaconvolve

UnitPixels = NDArray[np.float32]
"""(H, W, 3) in [0, 1]."""
Corruption = Callable[[UnitPixels, int, np.random.Generator], UnitPixels]
SEVERITIES = (1, 2, 3, 4, 5)
DYNAMIC_RANGE = 60.0  # dB from black to white that a scan is taken to show


def _unit(x: UnitPixels) -> float:
    """The length, in pixels, that is one pixel at 224."""
    return min(x.shape[:2]) / 224.0


def _filtered(x: UnitPixels, kernel: NDArray[np.float64]) -> UnitPixels:
    kernel = kernel / kernel.sum()
    reach = kernel.shape[0] // 2
    padded = np.pad(x, ((reach, reach), (reach, reach), (0, 0)), mode="reflect" if reach < min(x.shape[:2]) else "edge")
    return np.asarray(oaconvolve(padded, kernel[..., None], mode="valid", axes=(0, 1)), np.float32)


def _smooth_noise(shape: tuple[int, int], sigma: tuple[float, float], rng: np.random.Generator) -> UnitPixels:
    """Gaussian noise (H, W) of unit deviation, as coarse as `sigma` says."""
    noise = gaussian_filter(rng.standard_normal(shape).astype(np.float32), sigma, mode="wrap")
    return np.asarray(noise / max(float(noise.std()), 1e-6), np.float32)


def motion_blur(x: UnitPixels, severity: int, rng: np.random.Generator) -> UnitPixels:
    """The camera moves along a line."""
    length = (3, 6, 9, 13, 18)[severity - 1] * _unit(x)
    reach = max(1, round(length / 2))
    angle = rng.uniform(0.0, np.pi)
    steps = np.linspace(-length / 2, length / 2, 4 * reach + 1)
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    rows, columns = (
        np.clip(np.rint(f * steps).astype(int) + reach, 0, 2 * reach) for f in (np.sin(angle), np.cos(angle))
    )
    np.add.at(kernel, (rows, columns), 1.0)
    return _filtered(x, kernel)


def defocus(x: UnitPixels, severity: int, rng: np.random.Generator) -> UnitPixels:  # noqa: ARG001
    """The lens is out of focus: a disk."""
    radius = (1.0, 1.8, 2.8, 4.0, 5.5)[severity - 1] * _unit(x)
    reach = int(np.ceil(radius))
    y, z = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return _filtered(x, np.clip(radius + 0.5 - np.hypot(y, z), 0.0, 1.0))


def light(x: UnitPixels, severity: int, rng: np.random.Generator) -> UnitPixels:
    """Light falls off across the image, and all of it is too bright or too dark."""
    strength = (0.15, 0.3, 0.45, 0.6, 0.75)[severity - 1]
    angle = rng.uniform(0.0, 2 * np.pi)
    y, z = np.mgrid[-1.0 : 1.0 : x.shape[0] * 1j, -1.0 : 1.0 : x.shape[1] * 1j]
    ramp = np.sin(angle) * y + np.cos(angle) * z
    factor = np.exp2(strength * (ramp + rng.choice([-1.0, 1.0]) * rng.uniform(0.3, 1.0)))
    return np.asarray(x**2.2 * factor[..., None], np.float32).clip(0.0, 1.0) ** np.float32(1 / 2.2)


def contrast(x: UnitPixels, severity: int, rng: np.random.Generator) -> UnitPixels:  # noqa: ARG001
    """Towards the mean colour."""
    mean = x.mean((0, 1))
    return np.asarray(mean + (x - mean) * (0.75, 0.55, 0.4, 0.28, 0.18)[severity - 1], np.float32)


def jpeg(x: UnitPixels, severity: int, rng: np.random.Generator) -> UnitPixels:  # noqa: ARG001
    """JPEG of low quality, at the size that 224 pixels give."""
    image = Image.fromarray(np.uint8(np.rint(255 * x)))
    small = image.resize((max(1, round(image.width / _unit(x))), max(1, round(image.height / _unit(x)))))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=(40, 25, 15, 9, 5)[severity - 1])
    return np.asarray(Image.open(stream).resize(image.size), np.float32) / 255.0


def noise(x: UnitPixels, severity: int, rng: np.random.Generator) -> UnitPixels:
    """Sensor noise, stronger where it is bright, as coarse as a pixel at 224."""
    size = [max(1, round(side / _unit(x))) for side in x.shape[:2]]
    grain = rng.standard_normal((*size, 3)).astype(np.float32) * (0.04, 0.08, 0.12, 0.18, 0.26)[severity - 1]
    channels = [np.asarray(Image.fromarray(grain[..., c]).resize((x.shape[1], x.shape[0]))) for c in range(3)]
    return x + np.stack(channels, axis=-1) * (0.5 + x)


def hair(x: UnitPixels, severity: int, rng: np.random.Generator) -> UnitPixels:
    """Curved dark hairs across the image."""
    height, width = x.shape[:2]
    cover = Image.new("L", (width, height), 0)
    pen = ImageDraw.Draw(cover)
    t = np.linspace(0.0, 1.0, 24)[:, None]
    for _ in range((4, 8, 14, 22, 32)[severity - 1]):
        start, end = rng.uniform(-0.2, 1.2, 2), rng.uniform(-0.2, 1.2, 2)
        middle = (start + end) / 2 + rng.normal(0.0, 0.15, 2)
        curve = ((1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end) * (width, height)
        pen.line(
            [(float(a), float(b)) for a, b in curve], fill=230, width=max(1, round(rng.uniform(0.8, 1.8) * _unit(x)))
        )
    opaque = np.asarray(cover, np.float32)[..., None] / 255.0
    colour = rng.uniform(0.05, 0.25) * np.array([1.0, 0.8, 0.65], np.float32)
    return np.asarray(x * (1 - opaque) + colour * opaque, np.float32)


def occlusion(x: UnitPixels, severity: int, rng: np.random.Generator) -> UnitPixels:
    """Something opaque lies on part of the image: a plaster, a glove, a sheet."""
    height, width = x.shape[:2]
    share = (0.03, 0.06, 0.1, 0.15, 0.22)[severity - 1]
    aspect = rng.uniform(0.6, 1.6)
    h, w = (min(1.0, np.sqrt(share * a)) for a in (aspect, 1 / aspect))
    top, left = rng.uniform(0.0, 1.0 - h) * height, rng.uniform(0.0, 1.0 - w) * width
    out = x.copy()
    out[int(top) : int(top + h * height) + 1, int(left) : int(left + w * width) + 1] = rng.uniform(0.1, 0.95, 3)
    return out


def gain(x: UnitPixels, severity: int, rng: np.random.Generator) -> UnitPixels:
    """The overall gain is wrong, up or down."""
    change = (4.0, 8.0, 12.0, 16.0, 20.0)[severity - 1] * rng.choice([-1.0, 1.0])
    return np.asarray(x + change / DYNAMIC_RANGE, np.float32)


def attenuation(x: UnitPixels, severity: int, rng: np.random.Generator) -> UnitPixels:  # noqa: ARG001
    """Depth is compensated too little: darker and darker downwards."""
    depth = np.linspace(0.0, 1.0, x.shape[0], dtype=np.float32)[:, None, None]
    return np.asarray(x - depth * ((6.0, 12.0, 18.0, 24.0, 30.0)[severity - 1] / DYNAMIC_RANGE), np.float32)


def shadow(x: UnitPixels, severity: int, rng: np.random.Generator) -> UnitPixels:
    """Hair, air or horn at the surface casts up to three shadows straight down."""
    height, width = x.shape[:2]
    column = np.arange(width) / width
    loss = np.zeros((height, width))
    for _ in range(1 + severity // 2):
        centre, reach = rng.uniform(0.1, 0.9), rng.uniform(0.02, 0.05 + 0.01 * severity)
        across = 1.0 / (1.0 + np.exp((np.abs(column - centre) - reach) / 0.01))
        down = np.clip((np.arange(height) / height - rng.uniform(0.02, 0.3)) / 0.05, 0.0, 1.0)
        loss = np.maximum(loss, down[:, None] * across[None])
    return np.asarray(x - (loss * ((8.0, 14.0, 20.0, 28.0, 36.0)[severity - 1] / DYNAMIC_RANGE))[..., None], np.float32)


def haze(x: UnitPixels, severity: int, rng: np.random.Generator) -> UnitPixels:
    """Clutter from side lobes and reverberation veils what is dark, most of it near the surface."""
    height, width = x.shape[:2]
    veil = (0.1, 0.2, 0.3, 0.4, 0.5)[severity - 1] * np.exp(-1.5 * np.linspace(0.0, 1.0, height))[:, None]
    cloud = 1.0 + 0.3 * _smooth_noise((height, width), (6 * _unit(x), 12 * _unit(x)), rng)
    return np.asarray(x + (1 - x) * (veil * cloud)[..., None], np.float32)


def speckle(x: UnitPixels, severity: int, rng: np.random.Generator) -> UnitPixels:
    """More speckle: multiplicative, so added in decibels; wider across than along the beam."""
    grain = _smooth_noise((x.shape[0], x.shape[1]), (0.7 * _unit(x), 1.4 * _unit(x)), rng)
    step = grain * ((2.0, 4.0, 6.0, 9.0, 12.0)[severity - 1] / DYNAMIC_RANGE)
    return np.asarray(x + np.where(x > 0.02, step[..., None], 0.0), np.float32)


def scan_blur(x: UnitPixels, severity: int, rng: np.random.Generator) -> UnitPixels:  # noqa: ARG001
    """A wider beam: blur across it, and less along it."""
    across = (1.0, 1.8, 2.8, 4.0, 5.5)[severity - 1] * _unit(x)
    return np.asarray(gaussian_filter1d(gaussian_filter1d(x, across, axis=1), 0.35 * across, axis=0), np.float32)


def lost_contact(x: UnitPixels, severity: int, rng: np.random.Generator) -> UnitPixels:
    """Part of the probe has no gel: bands of reverberation below it, then nothing."""
    height, width = x.shape[:2]
    share = (0.08, 0.15, 0.22, 0.3, 0.4)[severity - 1]
    first = rng.uniform(0.0, 1.0 - share)
    column = np.arange(width) / width
    inside = np.clip(np.minimum(column - first, first + share - column) / 0.02 + 0.5, 0.0, 1.0)
    depth = np.arange(height) / height
    rings = 0.6 * np.exp(-depth / 0.12) * (0.5 + 0.5 * np.cos(2 * np.pi * depth / rng.uniform(0.03, 0.06)))
    return np.asarray(x * (1 - inside)[None, :, None] + (rings[:, None] * inside[None])[..., None], np.float32)


_SURFACE: Mapping[str, Corruption] = {
    "motion blur": motion_blur,
    "defocus": defocus,
    "light": light,
    "contrast": contrast,
    "JPEG": jpeg,
    "noise": noise,
    "hair": hair,
    "occlusion": occlusion,
}
CORRUPTIONS: Mapping[str, Mapping[str, Corruption]] = {
    "photo": _SURFACE,
    "dermoscopy": _SURFACE,
    "ultrasound": {
        "gain": gain,
        "attenuation": attenuation,
        "shadow": shadow,
        "haze": haze,
        "speckle": speckle,
        "blur": scan_blur,
        "lost contact": lost_contact,
    },
}
"""Kind of image -> name -> corruption."""


def corrupt(
    pixels: NDArray[np.uint8], corruption: Corruption, severity: int, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """One corruption of one image.

    Args:
        pixels: (H, W, 3) uint8.
        corruption: one of `CORRUPTIONS`.
        severity: 1 to 5.
        rng: keyed by the caller.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: a severity that there is not.
    """
    if severity not in SEVERITIES:
        raise ValueError(f"severity must be one of {SEVERITIES}, not {severity}")
    x = corruption(pixels.astype(np.float32) / np.float32(255.0), severity, rng)
    return np.asarray(np.rint(255.0 * x.clip(0.0, 1.0)), np.uint8)
