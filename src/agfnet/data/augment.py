"""Training-time augmentation, one recipe per kind of image.

Drawing and applying are separate, so that a draw can be replayed: `draw` gives numbers, `apply` changes a batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torchvision.transforms.functional import gaussian_blur

from agfnet.data.preprocess import ViewSpec

ENLARGE = 1.25
"""Factor of the cached frame over the input, so that zooming in loses no detail."""
FAINT = 0.25
"""Deviation of a blur, in pixels, up to which nothing is seen of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Ranges that an augmentation is drawn from.

    Attributes:
        rotation: largest angle, degrees.
        zoom: smallest and largest side of the part that is seen, as a share of the image.
        shift: largest shift, as a share of the image.
        flip_x, flip_y: chance of a left-right and of an upside-down flip.
        brightness: largest change of the value, of 1 in all.
        contrast, saturation: largest relative change.
        hue: largest turn of the colour plane, degrees.
        gamma: largest change of log2 gamma.
        shade: largest relative change of the light from the middle to a side, in any direction.
        depth_gain: largest change of the grey value from the middle to the bottom: time-gain compensation that is off.
        shadow: chance that a stretch of columns is dark from some depth downwards.
        blur: largest deviation across and along the columns, as a share of the shorter side.
        speckle: largest deviation of multiplicative noise.
        erase: chance that a box is blanked.
        mirror: fill from outside by reflection (else with the padding's value).
    """

    rotation: float
    zoom: tuple[float, float]
    shift: float
    flip_x: float = 0.5
    flip_y: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    gamma: float = 0.0
    shade: float = 0.0
    depth_gain: float = 0.0
    shadow: float = 0.0
    blur: tuple[float, float] = (0.0, 0.0)
    speckle: float = 0.0
    erase: float = 0.0
    mirror: bool = True


_SURFACE = Recipe(
    rotation=180.0, zoom=(0.6, 1.05), shift=0.08, flip_y=0.5, brightness=0.2, contrast=0.2, saturation=0.25, hue=8.0,
    gamma=0.2, shade=0.15, blur=(0.01, 0.01), speckle=0.04, erase=0.25,
)  # fmt: skip
RECIPES: Mapping[str, Recipe] = {
    "photo": _SURFACE,
    "dermoscopy": _SURFACE,
    "ultrasound": Recipe(
        rotation=8.0, zoom=(0.75, 1.05), shift=0.06, brightness=0.15, contrast=0.2, gamma=0.4, depth_gain=0.15,
        shadow=0.15, blur=(0.01, 0.003), speckle=0.15, erase=0.15, mirror=False,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Draw:
    """One draw for one image.

    Attributes:
        affine: (2, 3) from output to input coordinates, both in [-1, 1].
        colour: (3, 4) matrix and offset on RGB in [0, 1].
        gamma: exponent.
        shade: relative change of the light from the middle to the right and to the bottom.
        depth_gain: change of the grey value from the middle to the bottom.
        shadow: (left, width, top, loss): stretch and depth where it begins, as shares of the image, and the loss there.
        blur: deviation across and along the columns, as a share of the shorter side.
        speckle: deviation of multiplicative noise.
        noise_seed: of that noise.
        box: (top, left, height, width) that is blanked, as shares of the image; zero size for none.
    """

    affine: NDArray[np.float32]
    colour: NDArray[np.float32]
    gamma: float
    shade: tuple[float, float]
    depth_gain: float
    shadow: tuple[float, float, float, float]
    blur: tuple[float, float]
    speckle: float
    noise_seed: int
    box: tuple[float, float, float, float]


def draw(recipe: Recipe, rng: np.random.Generator, aspect: float, strength: float = 1.0) -> Draw:
    """Draw one augmentation.

    Args:
        recipe: the ranges.
        rng: keyed by the caller with seed, epoch and case.
        aspect: width over height of the image.
        strength: factor on every range; 0 changes nothing.
    """
    unit = rng.uniform(-1.0, 1.0, size=12) * strength
    chance = rng.uniform(size=4)
    span = rng.uniform(size=10)
    angle = math.radians(recipe.rotation * unit[0])
    zoom = 1.0 + strength * (recipe.zoom[0] + (recipe.zoom[1] - recipe.zoom[0]) * span[0] - 1.0)
    flip_x = -1.0 if chance[0] < recipe.flip_x * min(strength, 1.0) else 1.0
    flip_y = -1.0 if chance[1] < recipe.flip_y * min(strength, 1.0) else 1.0
    cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
    affine = np.array(
        [
            [flip_x * cos, -flip_y * sin / aspect, 2 * recipe.shift * unit[1]],
            [flip_x * sin * aspect, flip_y * cos, 2 * recipe.shift * unit[2]],
        ],
        dtype=np.float32,
    )
    side = 0.1 + 0.2 * span[1:3]
    erased = chance[2] < recipe.erase * strength
    shadowed = chance[3] < recipe.shadow * strength
    shadow = 0.9 * span[6], 0.04 + 0.1 * span[7], 0.3 * span[8], 0.1 + 0.4 * span[9]
    softness = strength * span[5] ** 4  # most images stay sharp
    return Draw(
        affine=affine,
        colour=_colour(recipe, unit[3:7]),
        gamma=float(2.0 ** (recipe.gamma * unit[7])),
        shade=(float(recipe.shade * unit[9]), float(recipe.shade * unit[10])),
        depth_gain=float(recipe.depth_gain * unit[11]),
        shadow=shadow if shadowed else (0.0, 0.0, 0.0, 0.0),
        blur=(float(recipe.blur[0] * softness), float(recipe.blur[1] * softness)),
        speckle=float(recipe.speckle * abs(unit[8])),
        noise_seed=int(rng.integers(2**31)),
        box=(span[3] * (1 - side[0]), span[4] * (1 - side[1]), side[0], side[1]) if erased else (0.0, 0.0, 0.0, 0.0),
    )


def _colour(recipe: Recipe, unit: NDArray[np.float64]) -> NDArray[np.float32]:
    """Brightness, contrast, saturation and hue as one affine map of RGB."""
    grey = np.full((3, 3), 1 / 3)
    axis = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3)
    turn = math.radians(recipe.hue * unit[3])
    hue = math.cos(turn) * np.eye(3) + math.sin(turn) * axis + (1 - math.cos(turn)) * grey  # about the grey axis
    saturation = grey + (1 + recipe.saturation * unit[2]) * (np.eye(3) - grey)
    contrast = 1 + recipe.contrast * unit[1]
    matrix = contrast * hue @ saturation
    offset = 0.5 * (1 - contrast) + recipe.brightness * unit[0]
    return np.concatenate([matrix, np.full((3, 1), offset)], axis=1).astype(np.float32)


def apply(images: Tensor, draws: Sequence[Draw], spec: ViewSpec) -> Tensor:
    """Augment a batch.

    Args:
        images: (B, H', W', 3) uint8, frames of the spec's aspect (see `ENLARGE`).
        draws: one per image.
        spec: the view.

    Returns:
        (B, 3, H, W) float32 in [0, 1].
    """
    height, width = spec.size
    x = images.permute(0, 3, 1, 2).float().div_(255.0)
    affine = torch.from_numpy(np.stack([d.affine for d in draws]))
    grid = F.affine_grid(affine, [len(x), 3, height, width], align_corners=False)
    fill = torch.tensor(spec.padding, dtype=x.dtype)[:, None, None] / 255.0
    if RECIPES[spec.kind].mirror:
        x = F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    else:
        x = F.grid_sample(x.sub_(fill), grid, padding_mode="zeros", align_corners=False).add_(fill)
    colour = torch.from_numpy(np.stack([d.colour for d in draws]))
    x = torch.einsum("bij,bjhw->bihw", colour[..., :3], x).add_(colour[..., 3, None, None])
    gamma = torch.tensor([d.gamma for d in draws])[:, None, None, None]
    x.clamp_(1e-4, 1.0).pow_(gamma)
    down, across = torch.linspace(-1.0, 1.0, height)[:, None], torch.linspace(-1.0, 1.0, width)
    for i, d in enumerate(draws):
        x[i] *= 1.0 + d.shade[0] * across + d.shade[1] * down
        x[i] += d.depth_gain * down
        left, breadth, top, loss = d.shadow
        first, last = round(left * width), round((left + breadth) * width)
        x[i, :, round(top * height) :, first:last] -= loss
        x[i] = _blurred(x[i], d.blur)
        if d.speckle > 0.0:
            noise = np.random.default_rng(d.noise_seed).standard_normal((1, height, width), dtype=np.float32)
            x[i] *= 1.0 + d.speckle * torch.from_numpy(noise)
        top, left, h, w = (round(s * n) for s, n in zip(d.box, (height, width, height, width), strict=True))
        x[i, :, top : top + h, left : left + w] = fill
    return x.clamp_(0.0, 1.0)


def _blurred(x: Tensor, deviation: tuple[float, float]) -> Tensor:
    """One image (3, H, W), blurred across and along its columns, see `Draw.blur`; not by less than a pixel can show."""
    sigma = [max(1e-3, s * min(x.shape[1:])) for s in deviation]
    return gaussian_blur(x, [2 * math.ceil(2 * s) + 1 for s in sigma], sigma) if max(sigma) > FAINT else x
