"""The clinical photo: the skin's and the lesion's colour, relief and light, through a camera."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from agfnet.data.phantom.fields import Field, fractal_field, smooth_field, smoothstep
from agfnet.data.phantom.lesion import Lesion
from agfnet.data.phantom.settings import CAMERAS, Camera, Shot, Skin
from agfnet.data.phantom.skin_optics import skin_reflectance, to_srgb

KERATIN = np.array([0.66, 0.58, 0.42])
"""Reflectance of thick horn in red, green and blue: a yellowish white, an assumption."""
CRUST = np.array([0.20, 0.08, 0.04])
RAW = np.array([0.36, 0.08, 0.06])
PEARL = np.array([0.74, 0.60, 0.55])
BLUE = np.array([0.16, 0.18, 0.24])
"""Pigment in the dermis looks blue-grey, as skin over it scatters short waves back: an assumed reflectance."""
SURFACE = 0.03
"""Share of the light that the skin's surface itself throws back to all sides (Fresnel, 2.8 % at normal incidence)."""
METERED = 0.42
"""Median in green that the camera aims for; it goes a part of the way, as cameras and their users do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Photo:
    """A photo with its truth.

    Attributes:
        image: (H, W, 3) uint8, before it is put into a file.
        lesion, evidence: (H, W) bool.
        mm_per_pixel: of the image.
    """

    image: NDArray[np.uint8]
    lesion: NDArray[np.bool_]
    evidence: NDArray[np.bool_]
    mm_per_pixel: float


def render_photo(lesion: Lesion, skin: Skin, shot: Shot, size: int, rng: np.random.Generator) -> Photo:
    """Photograph a lesion.

    Args:
        lesion: the object.
        skin: what it lies in.
        shot: camera, light and geometry.
        size: of the image, pixels square.
        rng: of the skin's texture and the camera's noise.
    """
    camera = CAMERAS[shot.camera]
    mm = shot.field / size
    axis = (np.arange(size) + 0.5) * mm - 0.5 * shot.field
    px, py = np.meshgrid(axis - shot.photo_x, axis - shot.photo_y)
    cos, sin = np.cos(shot.photo_turn), np.sin(shot.photo_turn)
    x, y = cos * px - sin * py, sin * px + cos * py
    seen = ("radius", "pigment", "dermal_pigment", "blood", "keratin", "ulcer", "vessels")
    maps = {name: lesion.at(name, x, y) for name in seen}
    maps["elevation"] = lesion.at("elevation", x, y, order=3)  # light shows the corners of a linear interpolation
    colour = _colour(lesion, skin, maps, shot, rng)
    lit = _light(lesion, skin, shot, maps["elevation"], colour, mm, rng)
    hairy = _hairs(lit, skin, mm, shot.field, rng)
    linear = _through(hairy, shot, camera, rng)
    # What shows beyond the outline: redness, and vessels that run in.
    around = (maps["blood"] > 0.25 * skin.blood) | (maps["vessels"] > 0.3)
    inside = maps["radius"] < 1.0
    return Photo(
        image=np.round(255.0 * linear).astype(np.uint8),
        lesion=inside,
        evidence=inside | around,
        mm_per_pixel=mm,
    )


def _colour(
    lesion: Lesion, skin: Skin, maps: dict[str, Field], shot: Shot, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Reflectance of every point, (H, W, 3) linear."""
    shape = maps["radius"].shape
    numbers = lesion.numbers
    cells = shot.field / 4.0
    pigment = skin.melanosomes * (1.0 + skin.mottled * fractal_field(shape, (cells, cells), rng))
    pigment = np.maximum(pigment, 0.2 * skin.melanosomes) + _freckles(shape, skin, shot.field, rng)
    blood = skin.blood * np.maximum(1.0 + 2.0 * skin.mottled * fractal_field(shape, (cells, cells), rng), 0.1)
    pigment = np.clip(pigment + maps["pigment"], 0.0, 0.6)
    bloody = np.clip(blood + maps["blood"], 0.0, 0.6)
    colour = skin_reflectance(pigment, bloody, epidermis=skin.epidermis)
    venous = skin_reflectance(pigment, bloody, numbers["saturation"], skin.epidermis)
    inside = (1.0 - smoothstep(maps["radius"], 0.9, 1.05))[..., None]
    colour = colour + (maps["blood"] / (maps["blood"] + blood))[..., None] * (venous - colour)

    # What lies over the skin is seen through the pigment of the skin around it.
    shade = skin_reflectance(skin.melanosomes, 0.002) / skin_reflectance(0.02, 0.002)
    colour = _over(colour, PEARL * shade, 0.45 * numbers["pearly"] * inside[..., 0])
    colour = _over(colour, BLUE, 0.45 * maps["dermal_pigment"])
    red = skin_reflectance(skin.melanosomes, 0.25, 0.9)
    colour = _over(colour, red, 0.75 * maps["vessels"])
    flakes = 0.75 + 0.25 * smooth_field(shape, (shot.field / 0.6, shot.field / 0.6), rng)
    horn = numbers["whiteness"] * (1.0 - np.exp(-maps["keratin"] / 0.10)) * flakes
    colour = _over(colour, KERATIN, horn)
    crusted = smoothstep(smooth_field(shape, (shot.field / 1.5, shot.field / 1.5), rng), -0.3, 0.6)
    wound = RAW + crusted[..., None] * (CRUST - RAW)
    return np.asarray(colour + maps["ulcer"][..., None] * (wound - colour))


def _over(under: NDArray[np.float64], paint: NDArray[np.float64], opacity: NDArray[np.floating]) -> NDArray[np.float64]:
    return under + np.clip(opacity, 0.0, 1.0)[..., None] * (paint - under)


def _freckles(shape: tuple[int, int], skin: Skin, field: float, rng: np.random.Generator) -> Field:
    """Added pigment of small flat spots all over the skin."""
    fine = 3
    image = Image.new("L", (shape[1] * fine, shape[0] * fine), 0)
    pen = ImageDraw.Draw(image)
    per_mm = shape[0] * fine / field
    for _ in range(int(rng.poisson(skin.freckles * field**2 / 1000.0))):
        cx, cy = rng.uniform(0.0, shape[1] * fine, size=2)
        rx, ry = rng.uniform(0.3, 1.1, size=2) * per_mm
        pen.ellipse((cx - rx, cy - ry, cx + rx, cy + ry), fill=int(rng.integers(60, 200)))
    spots = np.asarray(image.resize((shape[1], shape[0]), Image.Resampling.BOX), dtype=np.float32) / 255.0
    return np.asarray(0.08 * gaussian_filter(spots, 0.25 * per_mm / fine))


def _light(
    lesion: Lesion,
    skin: Skin,
    shot: Shot,
    elevation: Field,
    colour: NDArray[np.float64],
    mm: float,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Lambert shading by the relief, and highlights (Blinn-Phong)."""
    shape = elevation.shape
    cells = mm * shape[0] / 0.7
    furrows = -np.exp(-((smooth_field(shape, (cells, cells), rng) / 0.35) ** 2))
    furrows = furrows - np.exp(-((smooth_field(shape, (cells, 0.6 * cells), rng) / 0.3) ** 2))
    stretched = 1.0 - 0.6 * smoothstep(elevation, 0.1, 0.8)
    height = elevation + skin.relief * stretched * furrows
    dy, dx = np.gradient(gaussian_filter(height, 0.6), mm)
    normal = np.stack([-dx, -dy, np.ones(shape)], axis=-1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    flat = 0.0 if shot.ring_light else np.cos(shot.light_height)
    light = np.array([flat * np.cos(shot.light_turn), flat * np.sin(shot.light_turn), np.sqrt(1.0 - flat**2)])
    diffuse = shot.ambient + (1.0 - shot.ambient) * np.clip(normal @ light, 0.0, None) / light[2]
    half = light + np.array([0.0, 0.0, 1.0])
    half /= np.linalg.norm(half)
    gloss = shot.shine + 0.35 * lesion.numbers["gloss"] * smoothstep(elevation, 0.02, 0.2)
    shine = gloss * np.clip(normal @ half, 0.0, None) ** 60
    axis = np.linspace(-1.0, 1.0, shape[0])
    fall = 1.0 - shot.vignette * np.minimum(axis[:, None] ** 2 + axis[None] ** 2, 2.0) / 2.0
    slope = 0.12 * (axis[None] * np.cos(shot.light_turn) + axis[:, None] * np.sin(shot.light_turn))
    return np.asarray((colour * diffuse[..., None] + SURFACE + shine[..., None]) * (fall * (1.0 + slope))[..., None])


def _hairs(
    lit: NDArray[np.float64], skin: Skin, mm: float, field: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Hairs over the skin, 0.05 to 0.1 mm thick, all growing about one way."""
    size, fine = lit.shape[0], 4
    image = Image.new("L", (size * fine, size * fine), 0)
    pen = ImageDraw.Draw(image)
    way = rng.uniform(0.0, 2.0 * np.pi)
    for _ in range(int(rng.poisson(skin.hairs * field**2 / 1000.0))):
        place = rng.uniform(-0.1, 1.1, size=2) * size * fine
        heading, bend = way + rng.normal(0.0, 0.5), rng.normal(0.0, 0.05)
        points = [tuple(place)]
        for _ in range(int(rng.uniform(6.0, 22.0))):
            place = place + 0.5 / mm * fine * np.array([np.cos(heading), np.sin(heading)])
            points.append(tuple(place))
            heading += bend
        width = max(1, round(rng.uniform(0.05, 0.1) / mm * fine))
        pen.line(points, fill=int(rng.integers(140, 230)), width=width, joint="curve")
    cover = np.asarray(image.resize((size, size), Image.Resampling.BOX), dtype=np.float64)[..., None] / 255.0
    dark, white = np.array([0.03, 0.02, 0.015]), np.array([0.55, 0.53, 0.5])
    return lit + cover * (dark + skin.hair_grey**3 * (white - dark) - lit)


def _through(lit: NDArray[np.float64], shot: Shot, camera: Camera, rng: np.random.Generator) -> NDArray[np.float64]:
    """Blur, exposure, white balance, noise and tone curve of a camera: linear light to sRGB, 0..1."""
    scale = lit.shape[0] / 224.0
    seen = gaussian_filter(lit, (shot.blur * scale, shot.blur * scale, 0.0))
    meter = (METERED / float(np.median(seen[..., 1]))) ** 0.4
    seen = seen * shot.exposure * meter * np.array([1.0 + shot.white_red, 1.0, 1.0 + shot.white_blue])
    seen = np.maximum(seen, 0.0)
    noise = rng.standard_normal(seen.shape, dtype=np.float32)
    noisy = np.clip(seen + camera.noise * np.sqrt(seen + 0.02) * noise, 0.0, 1.0)
    tone = to_srgb(noisy)
    mid = 0.5
    return np.clip(mid + camera.contrast * (tone - mid), 0.0, 1.0)
