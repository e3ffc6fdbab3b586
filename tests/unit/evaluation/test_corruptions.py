from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agfnet.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt

ALL = [(kind, name) for kind in ("photo", "ultrasound") for name in CORRUPTIONS[kind]]


def picture(kind):
    """Coarse and fine detail without noise, grey in a scan."""
    y, x = np.mgrid[0:1:224j, 0:1:300j]
    waves = (
        0.5
        + 0.2 * np.sin(9 * x + 4 * y)
        + 0.15 * np.sin(40 * y) * np.cos(31 * x)
        - 0.25 * (np.hypot(x - 0.5, y - 0.5) < 0.2)
    )
    colour = (1.0, 0.8, 0.7) if kind == "photo" else (1.0, 1.0, 1.0)
    return np.uint8(np.rint(255 * waves[..., None] * colour))


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_a_corruption_keeps_shape_is_repeatable_and_grows(kind, name):
    pixels = picture(kind)
    before = pixels.copy()
    moved = []
    for severity in SEVERITIES:
        made = [corrupt(pixels, CORRUPTIONS[kind][name], severity, np.random.default_rng([3, 4])) for _ in range(2)]
        assert made[0].shape == pixels.shape
        assert made[0].dtype == np.uint8
        assert np.array_equal(*made)
        moved.append(np.abs(made[0].astype(int) - pixels).mean())
    assert np.array_equal(pixels, before)
    assert moved[0] > 0
    # Gain and contrast saturate, and what is covered may by chance look like what covers it; none shrinks as a whole.
    assert moved[-1] > 1.3 * moved[0]
    assert np.polyfit(SEVERITIES, moved, 1)[0] > 0


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_a_severity_means_the_same_at_any_resolution(kind, name):
    """At three times the size, seen at the same size again, a corruption does about as much."""
    small = picture(kind)
    large = small.repeat(3, 0).repeat(3, 1)
    moved = []
    for pixels, step in ((small, 1), (large, 3)):
        change = [
            corrupt(pixels, CORRUPTIONS[kind][name], 3, np.random.default_rng(seed)).astype(float) - pixels
            for seed in range(4)
        ]
        h, w, _ = small.shape
        seen = [c.reshape(h, step, w, step, 3).mean((1, 3)) for c in change]
        moved.append(np.mean([np.abs(c).mean() for c in seen]))
    assert 0.5 < moved[1] / moved[0] < 2.0


@given(st.sampled_from(ALL), st.tuples(st.integers(8, 60), st.integers(8, 60)), st.sampled_from(SEVERITIES))
@settings(max_examples=150, deadline=None)
def test_any_size_works(which, shape, severity):
    kind, name = which
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert corrupt(pixels, CORRUPTIONS[kind][name], severity, np.random.default_rng(1)).shape == pixels.shape


def test_a_scan_is_never_lit_or_haired_and_a_photo_has_no_gain():
    assert not set(CORRUPTIONS["photo"]) & set(CORRUPTIONS["ultrasound"])


def test_a_severity_that_there_is_not():
    with pytest.raises(ValueError, match="severity"):
        corrupt(picture("photo"), CORRUPTIONS["photo"]["light"], 6, np.random.default_rng(0))
