"""The colour of skin from what is in it: melanin in the epidermis, blood in the dermis.

Two layers: light crosses the epidermis twice and is diffusely reflected by the dermis. Source of the absorption of
melanosomes and of the reduced scattering: S. L. Jacques, Phys. Med. Biol. 58 (2013) R37-R61; of haemoglobin: the
extinction coefficients compiled by S. Prahl (omlc.org). Each colour channel is one wavelength, which is a
simplification of ours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

WAVELENGTHS = np.array([610.0, 550.0, 460.0])
"""Of the channels red, green and blue, nm."""

_OXYHAEMOGLOBIN = np.array([1506.0, 43016.0, 44480.0])  # molar extinction, 1 / (cm M)
_DEOXYHAEMOGLOBIN = np.array([9443.6, 53412.0, 23388.8])
_BLOOD_MOLARITY = 150.0 / 64500.0  # 150 g/l of haemoglobin of 64,500 g/mol
EPIDERMIS_MM = 0.08
"""Thickness of the epidermis, mm: mid-range of glabrous skin away from palms and soles."""

MELANOSOMES = {"I": 0.013, "II": 0.025, "III": 0.045, "IV": 0.09, "V": 0.16, "VI": 0.28}
"""Volume fraction of melanosomes in the epidermis by skin type: 1.3-6.3 % in light, 11-16 % in moderately and 18-43 %
in darkly pigmented skin (Jacques 2013); how the types lie within these ranges is an assumption."""


def melanosome_absorption() -> NDArray[np.float64]:
    """Absorption of the inside of a melanosome in each channel, 1/cm: 6.6e11 wavelength^-3.33 (Jacques 2013)."""
    return np.asarray(6.6e11 * WAVELENGTHS**-3.33)


def blood_absorption(saturation: float = 0.75) -> NDArray[np.float64]:
    """Absorption of whole blood in each channel, 1/cm, at an oxygen saturation of 0 to 1."""
    mixed = saturation * _OXYHAEMOGLOBIN + (1.0 - saturation) * _DEOXYHAEMOGLOBIN
    return np.asarray(np.log(10.0) * mixed * _BLOOD_MOLARITY)


def reduced_scattering() -> NDArray[np.float64]:
    """Reduced scattering of skin in each channel, 1/cm: 46 (wavelength / 500 nm)^-1.421 (Jacques 2013)."""
    return np.asarray(46.0 * (WAVELENGTHS / 500.0) ** -1.421)


def dermal_reflectance(blood: ArrayLike, saturation: float = 0.75) -> NDArray[np.float64]:
    """Diffuse reflectance of a thick dermis, (..., 3) in 0..1.

    R = exp(-A / sqrt(3 (1 + mus' / mua))) with A = 7 for skin and matched boundaries within 10 % (S. L. Jacques,
    Diffuse reflectance from a semi-infinite medium, omlc.org, 1998).

    Args:
        blood: volume fraction, any shape; about 0.002 in pale and 0.05 and more in flushed skin.
        saturation: of the blood with oxygen.
    """
    fraction = np.asarray(blood, dtype=np.float64)[..., None]
    bloodless = 0.244 + 85.3 * np.exp(-(WAVELENGTHS - 154.0) / 66.2)  # 1/cm (Saidi, in Jacques 2013)
    absorption = fraction * blood_absorption(saturation) + (1.0 - fraction) * bloodless
    return np.exp(-7.0 / np.sqrt(3.0 * (1.0 + reduced_scattering() / absorption)))


def skin_reflectance(
    melanosomes: ArrayLike, blood: ArrayLike, saturation: float = 0.75, epidermis: float = EPIDERMIS_MM
) -> NDArray[np.float64]:
    """Reflectance of skin in red, green and blue, (..., 3) in 0..1, linear light.

    Args:
        melanosomes: volume fraction in the epidermis, any shape; see `MELANOSOMES`.
        blood: volume fraction in the dermis, same shape.
        saturation: of the blood with oxygen.
        epidermis: its thickness, mm.
    """
    fraction = np.asarray(melanosomes, dtype=np.float64)[..., None]
    crossing = np.exp(-2.0 * fraction * melanosome_absorption() * epidermis / 10.0)
    return np.asarray(crossing * dermal_reflectance(blood, saturation))


def to_srgb(linear: NDArray[np.float64]) -> NDArray[np.float64]:
    """Linear light 0..1 to the sRGB transfer curve (IEC 61966-2-1), 0..1."""
    clipped = np.clip(linear, 0.0, 1.0)
    return np.where(clipped <= 0.0031308, 12.92 * clipped, 1.055 * clipped ** (1 / 2.4) - 0.055)
