from __future__ import annotations

import numpy as np
import pytest

from agfnet.data.phantom.appearance import APPEARANCES, MALIGNANT, PREVALENCE
from agfnet.data.phantom.lesion import LATTICE, draw_lesion, profile


def lesions(label, count=60):
    return [draw_lesion(label, np.random.default_rng([seed, 5])) for seed in range(count)]


def test_every_class_has_an_appearance_and_a_share():
    assert set(APPEARANCES) == set(PREVALENCE) >= set(MALIGNANT)
    assert sum(PREVALENCE.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("label", APPEARANCES)
def test_maps_are_finite_and_bounded_by_the_outline(label):
    for lesion in lesions(label, 12):
        assert set(lesion.maps) >= {"radius", "elevation", "top", "bottom", "pigment", "blood", "keratin", "ulcer"}
        far = lesion.maps["radius"] > 1.5
        for name, values in lesion.maps.items():
            assert values.shape == (LATTICE, LATTICE), name
            assert np.isfinite(values).all(), name
            if name in ("pigment", "keratin"):
                assert values.min() >= 0.0
                assert not values[far].any(), name
        assert (lesion.maps["radius"] < 1.0).any()
        assert lesion.maps["radius"][0].min() > 1.0  # the outline closes within the lattice


@pytest.mark.parametrize("label", APPEARANCES)
def test_drawn_numbers_lie_in_the_ranges(label):
    look = APPEARANCES[label]
    for lesion in lesions(label, 30):
        for name in ("diameter", "thickness", "echo", "elevation", "border"):
            low, high = getattr(look, name)
            assert low <= lesion.numbers[name] <= high, name


def test_the_draw_is_the_generators_alone():
    a, b = (draw_lesion("melanoma", np.random.default_rng(3)) for _ in range(2))
    assert a.numbers == b.numbers
    assert all(np.array_equal(a.maps[name], b.maps[name]) for name in a.maps)


def test_melanoma_is_about_as_thick_as_published():
    """Invasive melanoma: 1.44 +- 0.8 mm (cut to 0.35 to 3.4); thin ones are flat."""
    drawn = lesions("melanoma", 400)
    thickness = np.array([lesion.numbers["thickness"] for lesion in drawn])
    assert thickness.mean() == pytest.approx(1.5, abs=0.12)
    assert all((lesion.shape == "fusiform") == (lesion.numbers["thickness"] < 0.9) for lesion in drawn)


def test_chances_are_met():
    signs = [lesion.signs for lesion in lesions("basal cell carcinoma", 400)]
    assert np.mean([s["ulcer"] for s in signs]) == pytest.approx(0.33, abs=0.08)
    assert np.mean([s["cavities"] for s in signs]) == pytest.approx(0.2, abs=0.07)


def test_an_ulcer_takes_horn_and_pigment_away():
    lesion = next(x for x in lesions("squamous cell carcinoma", 60) if x.signs["ulcer"] and x.signs["keratin"])
    core = lesion.maps["ulcer"] > 0.99
    assert core.any()
    assert lesion.maps["keratin"][core].max() < 0.01


def test_cyst_and_lipoma_share_their_surface():
    """From above nothing but chance tells them apart: the same ranges for all that a photo shows."""
    cyst, lipoma = APPEARANCES["epidermal cyst"], APPEARANCES["lipoma"]
    shown = (
        "diameter", "elongation", "irregular", "elevation", "plateau", "rolled", "pigment", "uneven_pigment",
        "lopsided", "fade", "blood", "halo", "lobules", "saturation", "gloss", "pearly", "keratin", "whiteness",
        "warts", "ulcer_chance", "vessels_chance", "keratin_chance", "blue_chance", "pale_middle_chance",
        "amelanotic_chance",
    )  # fmt: skip
    for name in shown:
        assert getattr(cyst, name) == getattr(lipoma, name), name


def test_spots_overlap_between_classes():
    """The mean numbers in a slice of those that have any lie within each other's range."""
    for label in ("naevus", "seborrhoeic keratosis"):
        assert APPEARANCES[label].spots[1] > APPEARANCES["basal cell carcinoma"].spots[0]


@pytest.mark.parametrize("shape", ["oval", "strip", "fusiform", "mushroom", "flat"])
def test_profiles_fall_from_the_middle_to_the_outline(shape):
    values = profile(shape, np.linspace(0.0, 1.2, 50))
    assert values[0] == pytest.approx(1.0)
    assert np.all(np.diff(values) <= 1e-6)
    assert values[-1] == pytest.approx(0.0, abs=1e-6)


def test_a_map_is_sampled_where_it_says():
    lesion = draw_lesion("naevus", np.random.default_rng(0))
    axis = np.linspace(-lesion.half, lesion.half, LATTICE)
    got = lesion.at("radius", axis[[20, 100]], axis[[30, 90]])
    assert got == pytest.approx(lesion.maps["radius"][[30, 90], [20, 100]], rel=1e-4)
