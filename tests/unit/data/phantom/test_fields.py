from __future__ import annotations

import numpy as np
import pytest

from agfnet.data.phantom.fields import decibels, fractal_field, smooth_field, smoothstep, stream


def test_a_stream_depends_on_its_key_alone():
    first = stream(0, "lesion", 7).uniform(size=3)
    stream(0, "lesion", 8).uniform(size=100)
    assert np.array_equal(first, stream(0, "lesion", 7).uniform(size=3))
    assert not np.array_equal(first, stream(1, "lesion", 7).uniform(size=3))
    assert not np.array_equal(first, stream(0, "lesion", 8).uniform(size=3))


@pytest.mark.parametrize("make", [smooth_field, fractal_field])
def test_fields_have_mean_0_and_deviation_1(make):
    field = make((90, 120), (9.0, 12.0), np.random.default_rng(0))
    assert field.shape == (90, 120)
    assert field.dtype == np.float32
    assert abs(field.mean()) < 0.05
    assert field.std() == pytest.approx(1.0, abs=0.02)


def test_cells_set_the_scale():
    """Neighbours are alike within a cell, and strangers some cells on."""
    field = smooth_field((400, 400), (20.0, 20.0), np.random.default_rng(1))

    def correlation(lag):
        return float(np.corrcoef(field[:, :-lag].ravel(), field[:, lag:].ravel())[0, 1])

    assert correlation(4) > 0.9
    assert abs(correlation(80)) < 0.15


def test_the_step_is_smooth_and_reaches_both_ends():
    x = np.array([-1.0, 0.0, 0.5, 1.0, 2.0])
    assert smoothstep(x, 0.0, 1.0) == pytest.approx([0.0, 0.0, 0.5, 1.0, 1.0])


def test_decibels():
    assert decibels(20.0) == pytest.approx(10.0)
    assert decibels(np.array([0.0, -6.0206])) == pytest.approx([1.0, 0.5], rel=1e-4)
