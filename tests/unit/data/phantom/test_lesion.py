from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from agfnet.data.phantom.appearance import APPEARANCES, MALIGNANT, PREVALENCE, Appearance
from agfnet.data.phantom.lesion import LATTICE, SLAB, draw_lesion, profile
from agfnet.data.phantom.settings import SITES, draw_skin


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
            if label == "melanoma" and name == "thickness":  # what is raised is counted there, and taken off here
                low = 0.5 * low
            assert low <= lesion.numbers[name] <= high, name


def test_the_draw_is_the_generators_alone():
    a, b = (draw_lesion("melanoma", np.random.default_rng(3)) for _ in range(2))
    assert a.numbers == b.numbers
    assert all(np.array_equal(a.maps[name], b.maps[name]) for name in a.maps)


def drawn_thickness(lesion):
    """From the top of the tumour to its bottom, in the middle, mm."""
    return float((lesion.maps["bottom"] - lesion.maps["top"])[lesion.maps["radius"] < 0.1].max())


def test_melanoma_is_about_as_thick_as_published():
    """Invasive melanoma: 1.44 +- 0.8 mm (cut to 0.35 to 3.4), measured on what is drawn; thin ones are flat."""
    drawn = lesions("melanoma", 300)
    thickness = np.array([drawn_thickness(lesion) for lesion in drawn])
    assert thickness.mean() == pytest.approx(1.5, abs=0.15)
    assert thickness.std() == pytest.approx(0.7, abs=0.15)
    thin = thickness < 0.8
    assert all(lesion.shape == "fusiform" for lesion, is_thin in zip(drawn, thin, strict=True) if is_thin)
    assert max(lesion.numbers["elevation"] for lesion, is_thin in zip(drawn, thin, strict=True) if is_thin) < 0.5
    border = np.array([lesion.numbers["border"] for lesion in drawn])
    assert np.corrcoef(thickness, border)[0, 1] > 0.8  # less distinct when advanced


def test_basal_cell_carcinoma_reaches_the_subcutis_in_about_a_fifth():
    skins = [draw_skin(SITES["north"], np.random.default_rng([s, 8])) for s in range(300)]
    deep = [
        x.maps["bottom"].max() > skin.dermis
        for x, skin in zip(lesions("basal cell carcinoma", 300), skins, strict=True)
    ]
    assert np.mean(deep) == pytest.approx(0.22, abs=0.1)


def test_a_rolled_border_is_higher_than_the_middle():
    lesion = next(x for x in lesions("basal cell carcinoma") if x.numbers["rolled"] > 0.6 and not x.signs["ulcer"])
    radius, height = lesion.maps["radius"], lesion.maps["elevation"]
    assert height[np.abs(radius - 0.72) < 0.03].mean() > height[radius < 0.1].mean()


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
    """From above nothing but chance tells them apart: they differ only in what lies in depth."""
    depth = {"top", "thickness", "shapes", "base_noise", "border", "echo", "uneven_echo", "absorbs", "absorbs_chance",
             "rim_chance", "striae_chance", "flow"}  # fmt: skip
    cyst, lipoma = APPEARANCES["epidermal cyst"], APPEARANCES["lipoma"]
    differ = {f.name for f in fields(Appearance) if getattr(cyst, f.name) != getattr(lipoma, f.name)}
    assert differ <= depth


def spots_in_a_slice(lesion):
    return int((np.abs(lesion.spots[:, 1]) < SLAB).sum())


def test_spots_do_not_give_the_class_away():
    """A slice through the middle shows about as many as the appearance says, and the classes' counts overlap."""
    counts = {
        label: np.array([spots_in_a_slice(x) for x in lesions(label, 150) if x.signs["spots"]])
        for label in ("basal cell carcinoma", "naevus", "seborrhoeic keratosis")
    }
    for label, found in counts.items():
        assert found.mean() == pytest.approx(np.mean(APPEARANCES[label].spots), rel=0.3), label
    for label in ("naevus", "seborrhoeic keratosis"):
        best = max(0.5 * ((counts["basal cell carcinoma"] >= t).mean() + (counts[label] < t).mean()) for t in range(15))
        assert best < 0.75, label


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
