"""The B-mode image: layered skin and a lesion along the scan line, through the physics of `bmode`.

Levels are in dB against fully developed speckle of the dermis, attenuation in dB / (cm MHz). That skin is a bright
entry echo over a bright dermis over a darker subcutis with bright septa: PMC8474315. Levels of the layers, and the
attenuation of skin and fat at 15-25 MHz (0.4 to 2 dB / (cm MHz) are reported), are assumptions within that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agfnet.data.phantom.appearance import APPEARANCES
from agfnet.data.phantom.bmode import (
    Grid,
    attenuate,
    electronic_noise,
    envelope,
    log_compress,
    path_loss,
    radio_frequency,
)
from agfnet.data.phantom.fields import decibels, smooth_field, smoothstep
from agfnet.data.phantom.lesion import SLAB, Lesion
from agfnet.data.phantom.settings import SCANNERS, Scanner, Shot, Skin

GEL, ECHO_FREE, WHITE = -70.0, -32.0, 10.0
ENTRY, SEPTUM, RIM, STRIA = 16.0, -3.0, -9.0, 8.0
DERMIS_LOSS, FAT_LOSS, KERATIN_LOSS, COMPENSATED = 0.8, 0.6, 9.0, 0.5
LATERAL_STEP = 0.045
"""Of the grid, mm: a fifth of the narrowest beam's full width at half maximum."""
SHADOW_DB = 3.0
"""Change of the loss below a lesion from which on a place counts as shadow or enhancement, dB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tissue:
    """What lies along the scan line, on the grid (depth, lateral) that the physics works on.

    Attributes:
        step: of the depth and lateral axes, mm.
        depth_below: z, mm below the level of the skin around the lesion.
        level: of the scatterers, dB.
        attenuation: dB / (cm MHz).
        attenuation_flat: the same of flat skin without a lesion.
        compensation: attenuation that the device compensates for.
        specular: reflectivity of smooth interfaces.
        lesion: where the lesion is.
        entry: where the horny cap is, or the entry echo is broken.
        flow: vessel density, 0 to 1; not seen without Doppler.
    """

    step: tuple[float, float]
    depth_below: Grid
    level: Grid
    attenuation: Grid
    attenuation_flat: Grid
    compensation: Grid
    specular: Grid
    lesion: NDArray[np.bool_]
    entry: NDArray[np.bool_]
    flow: Grid


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """A B-mode image with its truth.

    Attributes:
        image: (H, W) uint8.
        lesion, evidence: (H, W) bool; evidence is the lesion, its shadow or enhancement, and the changed entry echo.
        flow: (H, W) vessel density, 0 to 1.
        mm_per_pixel: of the image.
    """

    image: NDArray[np.uint8]
    lesion: NDArray[np.bool_]
    evidence: NDArray[np.bool_]
    flow: NDArray[np.float32]
    mm_per_pixel: float


def render_scan(lesion: Lesion, skin: Skin, shot: Shot, width: int, rng: np.random.Generator) -> Scan:
    """Scan a lesion.

    Args:
        lesion: the object.
        skin: what it lies in.
        shot: device and geometry.
        width: of the image, pixels; the height follows from the device's depth.
        rng: of tissue and speckle.
    """
    scanner = SCANNERS[shot.scanner]
    tissue = lay_out(lesion, skin, shot, rng)
    loss = path_loss(tissue.attenuation, tissue.step[0], scanner.probe)
    amplitude = _amplitude(tissue, loss, scanner, shot, rng)
    grey = log_compress(amplitude * decibels(shot.gain), decibels(WHITE), scanner.probe)
    grey = np.round(255.0 * (grey / 255.0) ** scanner.gamma).astype(np.uint8)
    change = np.abs(loss - path_loss(tissue.attenuation_flat, tissue.step[0], scanner.probe))
    evidence = tissue.lesion | tissue.entry | ((change > SHADOW_DB) & (tissue.depth_below > 0.0))
    size = (width, round(width * scanner.depth / scanner.width))

    def sampled(values: NDArray[np.generic]) -> NDArray[np.float32]:
        return np.asarray(Image.fromarray(values.astype(np.float32)).resize(size, Image.Resampling.BOX))

    return Scan(
        image=np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BOX)),
        lesion=sampled(tissue.lesion) > 0.5,
        evidence=sampled(evidence) > 0.5,
        flow=sampled(tissue.flow),
        mm_per_pixel=scanner.width / width,
    )


def _amplitude(tissue: Tissue, loss: Grid, scanner: Scanner, shot: Shot, rng: np.random.Generator) -> Grid:
    """Envelope of the received signal after time-gain compensation."""
    shape = tissue.level.shape
    scatterers = rng.standard_normal(shape, np.float32) * decibels(tissue.level) + tissue.specular
    signal = radio_frequency(scatterers, tissue.step, scanner.probe)
    depth = ((np.arange(len(signal), dtype=np.float32) + 0.5) * np.float32(tissue.step[0]))[:, None]
    compensation = path_loss(tissue.compensation, tissue.step[0], scanner.probe) + shot.tgc_slope * (depth - 3.0)
    noise = electronic_noise(shape, tissue.step[0], scanner.probe, rng)
    # The electronics' noise is amplified like the echoes, but was never attenuated.
    noise = attenuate(noise * np.float32(decibels(scanner.noise)), np.zeros_like(loss), compensation)
    return envelope(attenuate(signal, loss, compensation) + noise)


def lay_out(lesion: Lesion, skin: Skin, shot: Shot, rng: np.random.Generator) -> Tissue:
    """Put the skin's layers and the lesion along the scan line; see `Tissue`."""
    scanner, look = SCANNERS[shot.scanner], APPEARANCES[lesion.label]
    step = (scanner.probe.wavelength / 9.0, LATERAL_STEP)
    shape = round(scanner.depth / step[0]), round(scanner.width / step[1])
    z = ((np.arange(shape[0], dtype=np.float32) + 0.5) * np.float32(step[0]))[:, None]
    u = (np.arange(shape[1], dtype=np.float32) + 0.5) * np.float32(step[1]) - np.float32(0.5 * scanner.width)
    x, y = scan_line(lesion, shot, u)
    line = {name: lesion.at(name, x, y) for name in lesion.maps}
    wave = 0.08 * smooth_field((1, shape[1]), (1.0, scanner.width / 4.0), rng)[0]
    raised = np.maximum(line["elevation"], 0.0).max()
    level_of_skin = shot.gel + raised + shot.tilt * u + wave
    below = z - level_of_skin[None]
    surface = -line["elevation"][None]
    fine = (scanner.depth / 0.25, scanner.width / 0.9)
    texture = smooth_field(shape, fine, rng)
    coarse = smooth_field(shape, (scanner.depth / 0.7, scanner.width / 2.5), rng)

    in_skin = below >= surface
    border = skin.dermis + 0.12 * smooth_field((1, shape[1]), (1.0, scanner.width / 2.0), rng)
    lifted = surface if look.in_fat else np.float32(0.0)  # a dome lifts the layers over it; a growth lies on them
    fat = smoothstep(below - border - lifted, -0.08, 0.08)
    dermis_level = 2.2 * texture + 1.2 * coarse - skin.sun_band * np.exp(-(((below - surface - 0.25) / 0.15) ** 2))
    sheets = smooth_field(shape, (scanner.depth / 0.55, scanner.width / 4.5), rng)
    septa = np.exp(-(((sheets + 0.15 * texture) / 0.10) ** 2)) * smoothstep(coarse, -1.6, 0.4)
    lobules = 1.5 * smooth_field(shape, (scanner.depth / 1.2, scanner.width / 3.5), rng)
    fat_level = skin.fat + 1.5 * texture + lobules + (SEPTUM - skin.fat) * np.minimum(septa, 1.0)
    level = (1.0 - fat) * dermis_level + fat * fat_level
    attenuation = (1.0 - fat) * DERMIS_LOSS + fat * FAT_LOSS

    edge = lesion.numbers["border"]
    upper, lower = below - line["top"][None], line["bottom"][None] - below
    share = smoothstep(np.minimum(upper + 0.5 * edge, lower), -edge, edge) * (line["radius"][None] < 1.0)
    if not look.in_fat and lesion.numbers["top"] == 0.0:
        share = np.where(upper >= 0.0, smoothstep(lower, -edge, edge) * (line["radius"][None] < 1.0), 0.0)
    fat_around = skin.fat if look.in_fat else 0.0
    inside = _lesion_level(lesion, fat_around, (below, upper, lower), (u, x, y), (texture, coarse))
    level = (1.0 - share) * level + share * inside
    fat_flat = smoothstep(below - border, -0.08, 0.08)
    flat = np.where(below >= 0.0, (1.0 - fat_flat) * DERMIS_LOSS + fat_flat * FAT_LOSS, np.float32(0.0))
    attenuation = np.maximum(np.where(in_skin, attenuation, np.float32(0.0)) + share * lesion.numbers["absorbs"], 0.0)

    level = np.where(in_skin, level, np.float32(GEL))
    entry, cap = _surface(line, below, surface, skin, step, level)
    attenuation = np.where(cap, np.float32(KERATIN_LOSS), attenuation)
    changed = (line["keratin"] > 0.03) | (line["ulcer"] > 0.5)
    # The device knows no skin: it compensates for a mean loss from a usual depth of the skin on.
    compensation = np.broadcast_to(np.where(z >= shot.gel, np.float32(COMPENSATED), np.float32(0.0)), shape)
    return Tissue(
        step=step,
        depth_below=below,
        level=level,
        attenuation=attenuation,
        attenuation_flat=flat,
        compensation=compensation,
        specular=entry,
        lesion=(share > 0.5) & in_skin,
        entry=changed[None] & (np.abs(below - surface) < 0.25),
        flow=share * in_skin * lesion.numbers["flow"],
    )


def scan_line(lesion: Lesion, shot: Shot, u: Grid) -> tuple[Grid, Grid]:
    """The positions (x, y) in mm of the lesion's frame at the places `u` in mm along the image's width."""
    along = u - shot.scan_shift
    offset = shot.scan_offset * 0.5 * lesion.numbers["diameter"]
    cos, sin = np.cos(shot.scan_turn), np.sin(shot.scan_turn)
    return along * cos - offset * sin, along * sin + offset * cos


def _lesion_level(
    lesion: Lesion,
    around: float,
    depths: tuple[Grid, Grid, Grid],
    places: tuple[Grid, Grid, Grid],
    textures: tuple[Grid, Grid],
) -> Grid:
    """Level inside the lesion, with its spots, cavities, rim and striae; `around` is what the echo is told against."""
    numbers = lesion.numbers
    (below, upper, lower), (u, x, y), (texture, coarse) = depths, places, textures
    level: Grid = numbers["echo"] + around + numbers["uneven_echo"] * (0.7 * texture + 0.7 * coarse)
    if lesion.signs["striae"]:
        lines = np.sin(2.0 * np.pi * (below / 0.55 + 0.5 * coarse))
        level = level + STRIA * smoothstep(lines, 0.75, 1.0) * smoothstep(texture, -0.8, 0.5)
    if lesion.signs["rim"]:
        level = level + RIM * np.exp(-((np.minimum(np.maximum(upper, 0.0), np.maximum(lower, 0.0)) / 0.12) ** 2))
    for sx, sy, sz, strength in lesion.spots:
        distance = np.hypot(x - sx, y - sy)
        if distance.min() < SLAB:
            across = int(distance.argmin())
            spot = np.exp(-(((u[None] - u[across]) / 0.14) ** 2) - ((below - sz) / 0.06) ** 2)
            level = np.maximum(level, (numbers["echo"] + strength) * spot + level * (1.0 - spot))
    for cx, cy, cz, size in lesion.cavities:
        away = (x - cx) ** 2 + (y - cy) ** 2
        hole = smoothstep(1.0 - np.sqrt(away[None] + (below - cz) ** 2) / size, -0.1, 0.1)
        level = level + (ECHO_FREE - level) * hole
    return np.asarray(level)


def _surface(
    line: dict[str, Grid],
    below: Grid,
    surface: Grid,
    skin: Skin,
    step: tuple[float, float],
    level: Grid,
) -> tuple[Grid, NDArray[np.bool_]]:
    """The entry echo as a specular reflector, weaker where it is tilted or broken; and where the horny cap lies."""
    steep = np.gradient(line["elevation"], step[1])
    facing = np.exp(-((steep / 0.9) ** 2)) * (1.0 - 0.92 * line["ulcer"])
    facing = facing + 0.6 * np.minimum(line["keratin"] / 0.15, 1.0)
    depth = below - surface
    at_surface = (depth >= 0.0) & (depth < step[0])
    under = (depth >= skin.epidermis) & (depth < skin.epidermis + step[0])
    strength = 10.0 ** (ENTRY / 20.0)
    entry = facing[None] * np.float32(strength) * (at_surface.astype(np.float32) - np.float32(0.5) * under)
    cap = (depth >= 0.0) & (depth < line["keratin"][None]) & (line["keratin"][None] > 0.0)
    epidermis = (depth >= 0.0) & (depth < np.maximum(skin.epidermis, line["keratin"])[None])
    broken = line["ulcer"][None]
    level[:] = np.where(epidermis, (1.0 - broken) * (4.0 + 6.0 * cap) + broken * (level - 4.0), level)
    return entry, cap
