from __future__ import annotations

import numpy as np
import pytest

from agfnet.data.phantom.skin_optics import (
    MELANOSOMES,
    blood_absorption,
    dermal_reflectance,
    melanosome_absorption,
    skin_reflectance,
    to_srgb,
)


def test_melanosomes_absorb_as_published():
    """About 300 to 350 1/cm at 610 nm, and more towards blue (Jacques 2013)."""
    absorption = melanosome_absorption()
    assert absorption[0] == pytest.approx(6.6e11 * 610**-3.33)
    assert 300 < absorption[0] < 400
    assert np.all(np.diff(absorption) > 0)


def test_blood_is_red():
    """Whole blood at 550 nm absorbs about 230 1/cm, and far less at 610 nm."""
    red, green, _ = blood_absorption(1.0)
    assert green == pytest.approx(np.log(10) * 43016 * 150 / 64500, rel=1e-6)
    assert 200 < green < 260
    assert red < green / 10


def test_darker_types_reflect_less_in_every_channel():
    colours = skin_reflectance(np.array(list(MELANOSOMES.values())), np.full(6, 0.01))
    assert colours.shape == (6, 3)
    assert np.all(np.diff(colours, axis=0) < 0)
    assert np.all((colours > 0) & (colours < 1))


def test_skin_is_redder_than_green_and_greener_than_blue():
    for melanosomes in MELANOSOMES.values():
        red, green, blue = skin_reflectance(melanosomes, 0.01)
        assert red > green > blue


def test_light_skin_has_a_plausible_colour():
    """Measured reflectance of light skin is about 0.5 to 0.65 in red and 0.2 to 0.4 in blue."""
    red, green, blue = skin_reflectance(MELANOSOMES["II"], 0.005)
    assert 0.4 < red < 0.75
    assert 0.25 < green < 0.55
    assert 0.12 < blue < 0.4


def test_flushing_darkens_green_more_than_red():
    pale, flushed = dermal_reflectance(0.002), dermal_reflectance(0.05)
    assert (flushed / pale)[1] < (flushed / pale)[0]


def test_transfer_curve():
    assert to_srgb(np.array([0.0, 0.2140, 1.0])) == pytest.approx([0.0, 0.5, 1.0], abs=1e-3)
