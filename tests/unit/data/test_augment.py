from __future__ import annotations

import numpy as np
import pytest
import torch

from agfnet.data import augment
from agfnet.data.preprocess import ViewSpec, fit

KINDS = list(augment.RECIPES)


def drawn(kind: str, seed: int, strength: float = 1.0) -> augment.Draw:
    return augment.draw(augment.RECIPES[kind], np.random.default_rng(seed), 1.5, strength)


def picture(seed: int = 0) -> np.ndarray:
    """A smooth picture of 3:2."""
    rng = np.random.default_rng(seed)
    return fit(rng.integers(0, 255, (4, 6, 3), np.uint8), ViewSpec("photo", (80, 120))).copy()


@pytest.mark.parametrize("kind", KINDS)
def test_strength_zero_changes_nothing(kind):
    spec = ViewSpec(kind, (80, 120))
    image = torch.from_numpy(picture())[None]
    out = augment.apply(image, [drawn(kind, 3, 0.0)], spec)
    assert torch.allclose(out[0], image[0].permute(2, 0, 1) / 255, atol=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_draw_can_be_replayed_and_does_not_depend_on_the_batch(kind):
    spec = ViewSpec(kind, (64, 96))
    images = torch.from_numpy(np.stack([picture(1), picture(2)]))
    draws = [drawn(kind, 1), drawn(kind, 2)]
    together = augment.apply(images, draws, spec)
    assert together.shape == (2, 3, 64, 96)
    assert together.min() >= 0
    assert together.max() <= 1
    alone = augment.apply(images[1:], draws[1:], spec)
    assert torch.allclose(together[1:], alone, atol=1e-6)


def test_ultrasound_keeps_its_skin_side_up():
    """Whatever is drawn, the bright top of a scan stays above its dark bottom."""
    scan = np.repeat(np.linspace(250, 5, 80).astype(np.uint8)[:, None], 120, axis=1)[..., None].repeat(3, -1)
    spec = ViewSpec("ultrasound", (64, 96))
    for seed in range(50):
        out = augment.apply(torch.from_numpy(scan)[None], [drawn("ultrasound", seed)], spec)[0, 0]
        assert out[8:24].mean() > out[40:56].mean()


def test_left_right_flips_happen_to_ultrasound():
    signs = {np.sign(drawn("ultrasound", seed).affine[0, 0]) for seed in range(20)}
    assert signs == {-1.0, 1.0}


def still(**changes: object) -> augment.Draw:
    """A draw that changes nothing but what is named."""
    nothing: dict[str, object] = {
        "affine": np.eye(2, 3, dtype=np.float32), "colour": np.eye(3, 4, dtype=np.float32), "gamma": 1.0,
        "shade": (0.0, 0.0), "depth_gain": 0.0, "shadow": (0.0, 0.0, 0.0, 0.0), "blur": (0.0, 0.0),
        "speckle": 0.0, "noise_seed": 0, "box": (0.0, 0.0, 0.0, 0.0),
    }  # fmt: skip
    return augment.Draw(**{**nothing, **changes})


def changed(image: np.ndarray, **changes: object) -> np.ndarray:
    """One image (H, W, 3) under one change, as (H, W) in [0, 1]."""
    spec = ViewSpec("ultrasound", image.shape[:2])
    return augment.apply(torch.from_numpy(image)[None], [still(**changes)], spec)[0, 0].numpy()


def test_depth_gain_and_shade():
    grey = np.full((65, 97, 3), 102, np.uint8)
    deep = changed(grey, depth_gain=0.2)
    assert deep[0] == pytest.approx(0.2, abs=1e-5)
    assert deep[32] == pytest.approx(0.4, abs=1e-5)
    assert deep[-1] == pytest.approx(0.6, abs=1e-5)
    lit = changed(grey, shade=(0.5, 0.0))
    assert lit[:, 0] == pytest.approx(0.2, abs=1e-5)
    assert lit[:, -1] == pytest.approx(0.6, abs=1e-5)


def test_a_shadow_falls_straight_down_from_its_top():
    shaded = changed(np.full((80, 100, 3), 204, np.uint8), shadow=(0.3, 0.1, 0.25, 0.4))
    dark = np.zeros((80, 100), bool)
    dark[20:, 30:40] = True
    assert shaded[dark] == pytest.approx(0.4, abs=1e-5)
    assert shaded[~dark] == pytest.approx(0.8, abs=1e-5)


def test_a_blur_is_wider_across_than_along_and_a_faint_one_is_none():
    point = np.zeros((65, 65, 3), np.uint8)
    point[32, 32] = 255
    wide = changed(point, blur=(3 / 65, 1 / 65))
    wide = wide - wide.min()
    place = np.arange(65) - 32
    across, along = (float((wide.sum(axis) * place**2).sum() / wide.sum()) ** 0.5 for axis in (0, 1))
    assert across == pytest.approx(2.6, abs=0.3)  # the kernel ends at two deviations
    assert along == pytest.approx(0.88, abs=0.1)
    assert np.array_equal(changed(point, blur=(0.2 / 65, 0.0)), changed(point))


@pytest.mark.parametrize("kind", KINDS)
def test_each_effect_belongs_to_its_kind_of_image(kind):
    draws = [drawn(kind, seed) for seed in range(60)]
    scan = kind == "ultrasound"
    assert any(d.depth_gain for d in draws) == any(d.shadow[1] for d in draws) == scan
    assert any(d.shade[0] for d in draws) != scan
    if scan:
        assert all(d.blur[0] >= d.blur[1] for d in draws)
        assert 2 < sum(d.shadow[1] > 0 for d in draws) < 20


class Fixed:
    """Draws: no flip, no effect by chance, and of the ranges' units the chosen ones at their end."""

    def __init__(self, *units):
        self.units = units

    def uniform(self, low=0.0, high=1.0, size=None):  # noqa: ARG002
        if low == -1.0:
            return np.isin(np.arange(size), self.units).astype(float)
        return np.ones(size)

    def integers(self, high):  # noqa: ARG002
        return 0


def test_rotation_keeps_the_aspect():
    """A quarter turn maps a horizontal bar to a vertical one of the same length in pixels."""
    image = np.zeros((120, 180, 3), np.uint8)
    image[55:65, 60:120] = 255
    quarter = augment.draw(augment.Recipe(rotation=90.0, zoom=(1.0, 1.0), shift=0.0), Fixed(0), 180 / 120)
    out = augment.apply(torch.from_numpy(image)[None], [quarter], ViewSpec("photo", (120, 180)))[0, 0] > 0.5
    assert abs(int(out.any(1).sum()) - 60) <= 2
    assert abs(int(out.any(0).sum()) - 10) <= 2


@pytest.mark.parametrize(
    ("change", "unit", "seen", "becomes"),
    [
        ({"brightness": 0.2}, 3, (0.5, 0.25, 0.0), (0.7, 0.45, 0.2)),
        ({"contrast": 0.2}, 4, (1.0, 0.5, 0.25), (1.1, 0.5, 0.2)),
        ({"saturation": 0.5}, 5, (0.6, 0.3, 0.3), (0.7, 0.25, 0.25)),
        ({"hue": 120.0}, 6, (0.8, 0.1, 0.2), (0.2, 0.8, 0.1)),
    ],
)
def test_a_change_of_colour_is_the_one_it_is_called(change, unit, seen, becomes):
    recipe = augment.Recipe(rotation=0.0, zoom=(1.0, 1.0), shift=0.0, **change)
    matrix = augment.draw(recipe, Fixed(unit), 1.5).colour
    assert matrix[:, :3] @ np.array(seen) + matrix[:, 3] == pytest.approx(becomes, abs=1e-6)


def test_a_zoom_of_a_half_shows_a_half():
    zoomed = augment.draw(augment.Recipe(rotation=0.0, zoom=(1.0, 0.5), shift=0.0), Fixed(), 1.5)
    assert zoomed.affine[0, 0] == pytest.approx(0.5)


def test_a_box_is_blanked_where_it_is_drawn():
    made = changed(np.full((80, 100, 3), 204, np.uint8), box=(0.25, 0.5, 0.125, 0.2))
    assert (made[20:30, 50:70] == 0).all()
    assert (made == 0).sum() == 10 * 20
