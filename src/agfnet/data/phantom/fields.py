"""Random streams and random fields: every draw of the phantom comes from here, keyed by what it is for."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Field = NDArray[np.float32]
Range = tuple[float, float]


def stream(*key: int | str) -> np.random.Generator:
    """Random numbers that depend on the key alone, whatever was drawn before and in whichever process."""
    return np.random.default_rng(np.frombuffer(hashlib.sha256(repr(key).encode()).digest(), dtype=np.uint32))


def uniform(rng: np.random.Generator, bounds: Range) -> float:
    """A number drawn evenly between two bounds."""
    return float(rng.uniform(*bounds))


def smooth_field(shape: tuple[int, int], cells: tuple[float, float], rng: np.random.Generator) -> Field:
    """White noise on a coarse grid, brought to `shape` by cubic interpolation: mean 0, deviation 1.

    Args:
        shape: (rows, columns).
        cells: how many independent values lie along each axis; at least 1, at most the shape.
        rng: the source.
    """
    rows, columns = (int(np.clip(np.ceil(n), 1, side)) + 3 for n, side in zip(cells, shape, strict=True))
    coarse = Image.fromarray(rng.standard_normal((rows, columns), dtype=np.float32))
    box = (1.5, 1.5, columns - 1.5, rows - 1.5)
    field = np.asarray(coarse.resize(shape[::-1], Image.Resampling.BICUBIC, box=box))
    deviation = float(field.std())
    return (field - field.mean()) / (deviation if deviation > 0.0 else 1.0)


def fractal_field(
    shape: tuple[int, int], cells: tuple[float, float], rng: np.random.Generator, octaves: int = 3
) -> Field:
    """Sum of smooth fields, each of half the scale and 0.6 times the amplitude of the one before; deviation 1."""
    total = np.zeros(shape, dtype=np.float32)
    for octave in range(octaves):
        finer = (cells[0] * 2**octave, cells[1] * 2**octave)
        total += np.float32(0.6**octave) * smooth_field(shape, finer, rng)
    return total / np.float32(total.std())


def smoothstep(x: NDArray[np.floating], low: float, high: float) -> Field:
    """0 below `low`, 1 above `high`, a cubic between."""
    t = np.clip((x.astype(np.float32, copy=False) - np.float32(low)) * np.float32(1.0 / (high - low)), 0.0, 1.0)
    return np.asarray(t * t * (np.float32(3.0) - np.float32(2.0) * t), dtype=np.float32)


def decibels(level: NDArray[np.floating] | float) -> Any:  # noqa: ANN401 - an array for an array, a number for a number
    """Amplitude ratio of a level in dB."""
    return np.exp(level * (np.log(10.0) / 20.0))
