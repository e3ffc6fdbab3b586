from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from phantom_views import SHOT, SKIN

from agfnet.data.phantom.lesion import draw_lesion
from agfnet.data.phantom.photo import render_photo


def shown(label, skin=SKIN, shot=SHOT, seed=0, size=224):
    lesion = draw_lesion(label, np.random.default_rng([seed, 1]))
    photo = render_photo(lesion, skin, shot, size, np.random.default_rng(4))
    return photo, photo.image.astype(float)


def test_size_scale_and_masks():
    photo, pixels = shown("naevus", size=192)
    assert pixels.shape == (192, 192, 3)
    assert photo.mm_per_pixel == pytest.approx(24.0 / 192)
    assert photo.lesion.any()
    assert photo.evidence[photo.lesion].all()


def test_redness_around_is_evidence_and_a_dome_has_none():
    red = next(
        x
        for x in (draw_lesion("squamous cell carcinoma", np.random.default_rng([s, 1])) for s in range(50))
        if x.numbers["halo"] > 0.25 and x.numbers["blood"] > 0.02
    )
    photo = render_photo(red, SKIN, SHOT, 224, np.random.default_rng(4))
    ring = photo.evidence & ~photo.lesion
    assert ring.sum() > 0.1 * photo.lesion.sum()
    redness = photo.image[..., 0] / np.maximum(photo.image[..., 1].astype(float), 1.0)
    assert redness[ring].mean() > redness[~photo.evidence].mean() + 0.03
    dome, _ = shown("lipoma")
    assert np.array_equal(dome.evidence, dome.lesion)


@pytest.mark.parametrize("seed", range(4))
def test_the_mask_is_as_large_as_the_lesion(seed):
    lesion = draw_lesion("seborrhoeic keratosis", np.random.default_rng([seed, 1]))
    photo = render_photo(lesion, SKIN, SHOT, 224, np.random.default_rng(4))
    area = photo.lesion.sum() * photo.mm_per_pixel**2
    assert area == pytest.approx(np.pi / 4 * lesion.numbers["diameter"] ** 2, rel=0.15)


def test_a_naevus_is_darker_than_the_skin_and_a_haemangioma_redder():
    photo, pixels = shown("naevus", seed=2)
    assert pixels[photo.lesion].mean() < pixels[~photo.evidence].mean() - 20
    photo, pixels = shown("haemangioma", seed=1)
    redness = pixels[..., 0] / pixels[..., 1]
    assert redness[photo.lesion].mean() > 1.2 * redness[~photo.evidence].mean()


def test_a_dome_has_the_colour_of_the_skin():
    photo, pixels = shown("lipoma")
    hue = pixels[..., 0] / pixels.sum(axis=-1)
    assert hue[photo.lesion].mean() == pytest.approx(hue[~photo.evidence].mean(), abs=0.02)


def test_darker_skin_is_darker():
    light = shown("naevus")[1].mean()
    dark = shown("naevus", replace(SKIN, skin_type="VI", melanosomes=0.28))[1].mean()
    assert dark < light - 25


def test_hairs_and_exposure():
    plain = shown("naevus")[1]
    assert np.abs(shown("naevus", replace(SKIN, hairs=60.0, hair_grey=0.0))[1] - plain).max() > 40
    assert shown("naevus", shot=replace(SHOT, exposure=1.3))[1].mean() > plain.mean() + 10


def test_the_camera_turns_the_picture():
    photo, _ = shown("melanoma")
    turned, _ = shown("melanoma", shot=replace(SHOT, photo_turn=SHOT.photo_turn + np.pi))
    assert np.mean(photo.lesion == turned.lesion[::-1, ::-1]) > 0.98
