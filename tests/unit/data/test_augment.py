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


def test_rotation_keeps_the_aspect():
    """A quarter turn maps a horizontal bar to a vertical one of the same length in pixels."""
    image = np.zeros((120, 180, 3), np.uint8)
    image[55:65, 60:120] = 255
    quarter = augment.Draw(
        affine=np.array([[0, -120 / 180, 0], [180 / 120, 0, 0]], np.float32),
        colour=np.eye(3, 4, dtype=np.float32), gamma=1.0, speckle=0.0, noise_seed=0, box=(0, 0, 0, 0),
    )  # fmt: skip
    out = augment.apply(torch.from_numpy(image)[None], [quarter], ViewSpec("photo", (120, 180)))[0, 0] > 0.5
    assert abs(int(out.any(1).sum()) - 60) <= 2
    assert abs(int(out.any(0).sum()) - 10) <= 2
