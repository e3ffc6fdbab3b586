"""One lesion in three dimensions, which both views are derived from.

It is a set of maps on a square lattice over the skin's surface (x, y) in mm, its centre in the middle, and of bodies
inside. Depth z is in mm below the level of the skin around it; what is raised above that level has z < 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter, map_coordinates

from agfnet.data.phantom.appearance import APPEARANCES, Appearance
from agfnet.data.phantom.fields import Field, Range, fractal_field, smoothstep, uniform

LATTICE = 160
"""Points of the lattice along each axis."""
THIN = 0.9
"""Thickness under which a melanoma lies flat and fusiform, mm: an assumption."""
SLAB = 0.35
"""Half the thickness of the slice that a scan sees, mm: the order of the beam's width across the image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesion:
    """A drawn lesion.

    Attributes:
        label: its class.
        half: half the side of the lattice, mm.
        maps: name -> (LATTICE, LATTICE), row y and column x: `radius` (1 on the outline), `elevation` (mm),
            `top` and `bottom` (z in mm), `pigment` and `blood` (added volume fractions), `dermal_pigment` (0..1),
            `keratin` (mm), `ulcer` (0..1), `vessels` (0..1).
        spots: (n, 4): x, y, z in mm and level in dB of bright spots.
        cavities: (n, 4): x, y, z and radius in mm of echo-free areas.
        shape: of its depth profile; see `profile`.
        numbers: the numbers that it was built from, named as in `Appearance`.
        signs: which of the features that come by chance it has.
    """

    label: str
    half: float
    maps: Mapping[str, Field]
    spots: NDArray[np.float64]
    cavities: NDArray[np.float64]
    shape: str
    numbers: Mapping[str, float]
    signs: Mapping[str, bool]

    def at(self, name: str, x: NDArray[np.floating], y: NDArray[np.floating], order: int = 1) -> Field:
        """A map at positions in mm, by splines of an order; beyond the lattice its nearest value."""
        if not self.maps[name].any():
            return np.zeros(np.broadcast_shapes(x.shape, y.shape), dtype=np.float32)
        scale = (LATTICE - 1) / (2.0 * self.half)
        places = np.stack([(y + self.half) * scale, (x + self.half) * scale])
        return np.asarray(map_coordinates(self.maps[name], places, order=order, mode="nearest"), dtype=np.float32)


def profile(shape: str, radius: NDArray[np.floating]) -> Field:
    """Depth extent over the lesion, 1 in the middle, 0 from the outline on.

    Args:
        shape: "oval", "strip" (even, round ends), "fusiform" (pointed ends), "mushroom" (a broad cap on a stalk) or
            "flat".
        radius: 1 on the outline.
    """
    r = np.clip(radius, 0.0, 1.0)
    if shape == "mushroom":
        stalk = 1.0 - smoothstep(r, 0.25, 0.6)
        return np.asarray(0.45 * (1.0 - r**4) ** 0.5 + 0.55 * stalk, dtype=np.float32)
    inner, outer = {"oval": (2.0, 0.5), "strip": (5.0, 0.5), "fusiform": (1.3, 1.0), "flat": (10.0, 0.5)}[shape]
    return np.asarray((1.0 - r**inner) ** outer, dtype=np.float32)


def draw_lesion(label: str, rng: np.random.Generator) -> Lesion:
    """Draw a lesion of a class.

    Args:
        label: a key of `APPEARANCES`.
        rng: the source of every number.
    """
    look = APPEARANCES[label]

    def drawn(name: str) -> float:
        bounds: Range = getattr(look, name)
        if name not in look.normal:
            return uniform(rng, bounds)
        while not bounds[0] <= (value := float(rng.normal(*look.normal[name]))) <= bounds[1]:
            pass
        return value

    numbers = {
        name: drawn(name)
        for name in (
            "diameter", "elongation", "irregular", "top", "thickness", "base_noise", "border", "elevation", "plateau",
            "rolled", "echo", "uneven_echo", "flow", "pigment", "uneven_pigment", "lopsided", "fade", "blood", "halo",
            "lobules", "saturation", "gloss", "pearly", "whiteness", "warts",
        )
    }  # fmt: skip
    signs = {
        name: bool(rng.uniform() < getattr(look, f"{name}_chance"))
        for name in (
            "absorbs", "spots", "cavities", "rim", "striae", "pale_middle", "amelanotic", "blue", "vessels", "keratin",
            "ulcer",
        )
    }  # fmt: skip
    numbers["absorbs"] = drawn("absorbs") if signs["absorbs"] else 0.0
    numbers["keratin"] = drawn("keratin") if signs["keratin"] else 0.0
    numbers["keratin_cover"] = drawn("keratin_cover")
    shape = str(rng.choice(list(look.shapes), p=list(look.shapes.values())))
    if shape == "melanoma":
        thick = numbers["thickness"]
        shape = "fusiform" if thick < THIN else "oval"
        numbers["elevation"] = min(numbers["elevation"], 0.5 * thick)
        numbers["thickness"] = thick - numbers["elevation"]
        low, high = look.border
        numbers["border"] = low + (high - low) * min(1.0, thick / 2.5)
    if signs["amelanotic"]:
        numbers["pigment"] *= 0.08
        numbers["blood"] += 0.008
    return _build(label, look, shape, numbers, signs, rng)


def _build(
    label: str,
    look: Appearance,
    shape: str,
    f: Mapping[str, float],
    signs: Mapping[str, bool],
    rng: np.random.Generator,
) -> Lesion:
    half = 0.8 * f["diameter"] * np.sqrt(f["elongation"]) + 0.5
    axis = np.linspace(-half, half, LATTICE)
    x, y = np.meshgrid(axis, axis)
    radius = _outline(x, y, f, rng)
    across = 2.0 * half / f["diameter"]  # lattice sides per lesion

    def texture(per_lesion: float) -> Field:
        return fractal_field(radius.shape, (across * per_lesion, across * per_lesion), rng)

    ulcer = _ulcer(x, y, f, texture(5.0), rng) if signs["ulcer"] else np.zeros_like(radius)
    dome = (1.0 - f["plateau"]) * np.cos(0.5 * np.pi * np.minimum(radius, 1.0)) ** 2
    dome += f["plateau"] * (1.0 - np.minimum(radius, 1.0) ** 8)
    dome += f["rolled"] * (np.exp(-(((radius - 0.72) / 0.2) ** 2)) - dome)
    warts = f["warts"] * texture(f["diameter"] / 0.9) * (1.0 - smoothstep(radius, 0.8, 1.0))
    elevation = np.maximum(f["elevation"] * dome + warts - 0.25 * ulcer, -0.3)
    extent = profile(shape, radius)
    rough = f["base_noise"] * texture(4.0) * np.sqrt(extent)
    if look.in_fat or f["top"] > 0.0:
        middle = f["top"] + 0.5 * f["thickness"]
        top = middle - (0.5 * f["thickness"] + f["elevation"]) * extent
        bottom = middle + 0.5 * f["thickness"] * extent + rough
    else:
        top = np.where(radius < 1.0, -elevation, 0.0)
        bottom = np.where(radius < 1.0, f["thickness"] * extent + rough, -1.0)
    inside = 1.0 - smoothstep(radius, 1.0 - f["fade"], 1.0 + 0.3 * f["fade"])
    direction = rng.uniform(0.0, 2.0 * np.pi)
    slope = (np.cos(direction) * x + np.sin(direction) * y) / (0.5 * f["diameter"])
    pattern = 1.0 + f["uneven_pigment"] * texture(3.0) + f["lopsided"] * np.clip(slope, -1.0, 1.0)
    if signs["pale_middle"]:
        pattern = pattern * (1.0 - 0.75 * np.exp(-((radius / 0.4) ** 2)))
    reach = 1.0 - smoothstep(radius, 0.93, 1.05 + f["halo"])
    blue = smoothstep(texture(2.5), 0.2, 1.2) * inside if signs["blue"] else np.zeros_like(radius)
    keratin = f["keratin"] * _cover(radius, f["keratin_cover"], texture(4.0))
    maps = {
        "radius": radius,
        "elevation": elevation,
        "top": top,
        "bottom": bottom,
        "pigment": f["pigment"] * inside * np.clip(pattern, 0.05, 2.5) * (1.0 - 0.8 * ulcer),
        "dermal_pigment": blue,
        "blood": np.maximum(f["blood"] * reach * (1.0 + f["lobules"] * texture(5.0)), 0.0),
        "keratin": keratin * (1.0 - ulcer),
        "ulcer": ulcer,
        "vessels": _vessels(half, f["diameter"], look, rng) * reach if signs["vessels"] else np.zeros_like(radius),
    }
    spots, cavities = _bodies((radius, top, bottom), axis, f["diameter"], look, signs, rng)
    return Lesion(
        label=label,
        half=float(half),
        maps={name: np.asarray(values, dtype=np.float32) for name, values in maps.items()},
        spots=spots,
        cavities=cavities,
        shape=shape,
        numbers=f,
        signs=signs,
    )


def _outline(x: Field, y: Field, f: Mapping[str, float], rng: np.random.Generator) -> Field:
    """Distance from the centre over that of a smooth random Fourier contour."""
    turn = rng.uniform(0.0, np.pi)
    stretch = np.sqrt(f["elongation"])
    along = (np.cos(turn) * x + np.sin(turn) * y) / stretch
    across = (np.cos(turn) * y - np.sin(turn) * x) * stretch
    angle = np.arctan2(across, along)
    reach = np.ones_like(angle)
    for wave in range(2, 8):
        size = f["irregular"] * rng.normal() * 2.0 / wave
        reach += size * np.cos(wave * angle + rng.uniform(0.0, 2.0 * np.pi))
    return np.asarray(np.hypot(along, across) / (0.5 * f["diameter"] * np.clip(reach, 0.5, 1.5)), dtype=np.float32)


def _ulcer(x: Field, y: Field, f: Mapping[str, float], texture: Field, rng: np.random.Generator) -> Field:
    """1 in the ulcer, 0 outside; its middle lies within 0.35 of the radius."""
    away, angle = 0.175 * f["diameter"] * rng.uniform(), rng.uniform(0.0, 2.0 * np.pi)
    size = 0.5 * f["diameter"] * rng.uniform(0.25, 0.5)
    distance = np.hypot(x - away * np.cos(angle), y - away * np.sin(angle)) / size
    return 1.0 - smoothstep(distance + 0.12 * texture, 0.85, 1.1)


def _cover(radius: Field, share: float, texture: Field) -> Field:
    """Patches that cover a share of the lesion, denser towards the middle; 0 to 1."""
    rank = texture + 1.2 * (0.6 - radius)
    edge = float(np.quantile(rank[radius < 0.95], 1.0 - share))
    return smoothstep(rank, edge, edge + 0.4) * (1.0 - smoothstep(radius, 0.9, 1.0))


def _vessels(half: float, diameter: float, look: Appearance, rng: np.random.Generator) -> Field:
    """Branching vessels that run in from the rim, 0.06 to 0.15 mm wide; 0 to 1."""
    fine = 4
    side = LATTICE * fine
    per_mm = side / (2.0 * half)
    image = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(image)

    def grow(place: NDArray[np.float64], heading: float, width: float, length: float) -> None:
        step, points = 0.15, [place]
        for _ in range(max(2, int(length / step))):
            heading += rng.normal(0.0, 0.25)
            place = place + step * np.array([np.cos(heading), np.sin(heading)])
            points.append(place)
            if width > 0.07 and rng.uniform() < 0.06:
                grow(place, heading + rng.choice([-1.0, 1.0]) * rng.uniform(0.4, 0.9), 0.65 * width, 0.5 * length)
        pen.line([tuple((p + half) * per_mm) for p in points], fill=255, width=max(1, round(width * per_mm)))

    for _ in range(int(rng.integers(look.vessels[0], look.vessels[1] + 1))):
        angle = rng.uniform(0.0, 2.0 * np.pi)
        start = 0.5 * diameter * rng.uniform(0.8, 1.1) * np.array([np.cos(angle), np.sin(angle)])
        grow(start, angle + np.pi + rng.normal(0.0, 0.5), rng.uniform(0.08, 0.15), diameter * rng.uniform(0.3, 0.7))
    small = image.resize((LATTICE, LATTICE), Image.Resampling.BOX)
    return np.asarray(gaussian_filter(np.asarray(small, dtype=np.float32) / 255.0, 0.5))


def _bodies(
    maps: tuple[Field, Field, Field],
    axis: NDArray[np.float64],
    diameter: float,
    look: Appearance,
    signs: Mapping[str, bool],
    rng: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bright spots and echo-free areas, so many that a slice through the middle shows the drawn number on average.

    Evenly spread over a disc, a slice along its diameter holds 8 SLAB / (pi diameter) of them.
    """
    radius, top, bottom = maps

    def places(count: int, reach: float) -> NDArray[np.float64]:
        rows, columns = np.nonzero(radius < reach)
        chosen = rng.integers(len(rows), size=count)
        r, c = rows[chosen], columns[chosen]
        share = rng.uniform(0.15, 0.85, size=count)
        return np.stack([axis[c], axis[r], top[r, c] + share * (bottom[r, c] - top[r, c])], axis=1)

    in_slice = rng.integers(look.spots[0], look.spots[1] + 1) if signs["spots"] else 0
    slices = np.pi * diameter / (8.0 * SLAB)
    n_spots = int(rng.poisson(in_slice * 0.85 * slices))
    spots = np.column_stack([places(n_spots, 0.85), rng.uniform(10.0, 20.0, size=n_spots)])
    n_cavities = int(rng.poisson(1.5 * 0.7 * slices)) if signs["cavities"] else 0
    cavities = np.column_stack([places(n_cavities, 0.7), rng.uniform(0.2, 0.5, size=n_cavities)])
    return spots, cavities
