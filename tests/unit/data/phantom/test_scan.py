from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from phantom_views import SHOT, SKIN

from agfnet.data.phantom.bmode import path_loss
from agfnet.data.phantom.lesion import draw_lesion
from agfnet.data.phantom.scan import lay_out, render_scan, scan_line
from agfnet.data.phantom.settings import SCANNERS


def rng():
    return np.random.default_rng(11)


def a_lesion(label, wanted=None):
    drawn = (draw_lesion(label, np.random.default_rng([s, 1])) for s in range(300))
    return next(x for x in drawn if wanted is None or wanted(x))


@pytest.fixture(scope="module")
def cyst():
    return a_lesion("epidermal cyst", lambda x: x.signs["absorbs"] and x.numbers["thickness"] > 3.0)


def test_size_follows_the_device():
    scan = render_scan(a_lesion("naevus"), SKIN, SHOT, 210, rng())
    assert scan.image.shape == (150, 210)
    assert scan.image.dtype == np.uint8
    assert scan.mm_per_pixel == pytest.approx(14.0 / 210)
    assert scan.lesion.shape == scan.evidence.shape == scan.image.shape


def test_the_layers_lie_as_in_skin():
    """Dark gel, a bright entry echo, a bright dermis, a darker subcutis."""
    scan = render_scan(a_lesion("naevus"), SKIN, replace(SHOT, scan_shift=30.0), 224, rng())  # beside the lesion
    rows = scan.image.mean(axis=1)
    mm = scan.mm_per_pixel
    skin = int(rows.argmax())
    assert skin * mm == pytest.approx(SHOT.gel, abs=0.3)
    dermis = rows[skin + round(0.5 / mm) : skin + round(1.2 / mm)].mean()
    fat = rows[skin + round(2.2 / mm) : skin + round(4.0 / mm)].mean()
    gel = rows[: skin - round(0.35 / mm)].mean()
    assert gel < fat < dermis < rows[skin]
    assert not scan.lesion.any()
    assert not scan.evidence.any()


def test_a_cyst_is_darker_than_its_surroundings_and_enhances(cyst):
    scan = render_scan(cyst, SKIN, SHOT, 224, rng())
    grey = scan.image.astype(float)
    middle = scan.image.shape[1] // 2
    column = np.flatnonzero(scan.lesion[:, middle])
    below = slice(column[-1] + 6, column[-1] + 22)
    inside = grey[column[6] : column[-6], middle - 10 : middle + 10].mean()
    assert inside < grey[below, middle - 10 : middle + 10].mean() - 15
    assert grey[below, middle - 10 : middle + 10].mean() > grey[below, :12].mean() + 5
    assert scan.evidence[below, middle].all()  # the enhancement is evidence
    assert not scan.lesion[below, middle].any()


def test_posterior_change_is_beer_lamberts(cyst):
    """The level below the lesion differs by its excess times the path through it, there and back."""
    probe = SCANNERS["H20"].probe
    plain = replace(cyst, numbers={**cyst.numbers, "absorbs": 0.0})
    with_excess, without = (lay_out(x, SKIN, SHOT, rng()) for x in (cyst, plain))
    step = with_excess.step[0]
    change = path_loss(without.attenuation, step, probe) - path_loss(with_excess.attenuation, step, probe)
    column = with_excess.level.shape[1] // 2
    path = with_excess.lesion[:, column].sum() * step / 10.0  # cm
    assert change[-1, column] == pytest.approx(-2.0 * cyst.numbers["absorbs"] * probe.frequency * path, rel=0.05)


def test_what_a_raised_dome_darkens_is_evidence():
    """Raised tissue costs the echo more than the gel beside it."""
    lipoma = a_lesion(
        "lipoma", lambda x: x.numbers["elevation"] > 1.6 and x.numbers["top"] + x.numbers["thickness"] < 5
    )
    scan = render_scan(lipoma, SKIN, SHOT, 224, rng())
    column = np.flatnonzero(scan.lesion[:, 112])
    assert scan.evidence[column[-1] + 5 : column[-1] + 15, 112].all()


def test_a_tilted_skin_is_compensated_as_the_device_does():
    """Compensation knows the depth alone."""
    tissue = lay_out(a_lesion("naevus"), SKIN, replace(SHOT, tilt=0.05), rng())
    assert np.ptp(tissue.compensation, axis=1).max() == 0.0


def test_a_horny_cap_casts_a_shadow_where_it_is():
    lesion = a_lesion(
        "squamous cell carcinoma",
        lambda x: x.signs["keratin"] and not x.signs["ulcer"] and x.numbers["keratin"] > 0.25,
    )
    scan = render_scan(lesion, SKIN, SHOT, 224, rng())
    u = (np.arange(224) + 0.5) * scan.mm_per_pixel - 7.0
    keratin = lesion.at("keratin", *scan_line(lesion, SHOT, u))
    deep = scan.image[90:140].astype(float).mean(axis=0)
    under, beside = keratin > 0.2, np.abs(u) > 6.5
    assert under.any()
    assert deep[under].mean() < deep[beside].mean() - 20
    assert scan.evidence[120, under].all()


def test_an_ulcer_breaks_the_entry_echo_where_the_photo_shows_it():
    lesion = a_lesion("basal cell carcinoma", lambda x: x.signs["ulcer"])
    tissue = lay_out(lesion, SKIN, SHOT, rng())
    u = (np.arange(tissue.level.shape[1]) + 0.5) * tissue.step[1] - 7.0
    ulcer = lesion.at("ulcer", *scan_line(lesion, SHOT, u))
    entry = np.abs(tissue.specular).max(axis=0)
    assert entry[ulcer > 0.95].max() < 0.2 * entry[ulcer < 0.05].max()
    assert tissue.entry[:, ulcer > 0.6].any(axis=0).all()


def test_a_shifted_lesion_lies_aside():
    places = [
        np.nonzero(render_scan(a_lesion("naevus"), SKIN, replace(SHOT, scan_shift=s), 224, rng()).lesion)[1].mean()
        for s in (-2.0, 2.0)
    ]
    assert places[1] - places[0] == pytest.approx(4.0 / (14.0 / 224), rel=0.1)


def test_gain_brightens():
    dim, bright = (
        render_scan(a_lesion("naevus"), SKIN, replace(SHOT, gain=g), 224, rng()).image.mean() for g in (-4.0, 4.0)
    )
    assert bright > dim + 15


def test_flow_does_not_show_in_grey():
    lesion = a_lesion("haemangioma")
    still = replace(lesion, numbers={**lesion.numbers, "flow": 0.0})
    one, other = (render_scan(x, SKIN, SHOT, 224, rng()) for x in (lesion, still))
    assert np.array_equal(one.image, other.image)
    assert one.flow.max() > 0.5
    assert not other.flow.any()
