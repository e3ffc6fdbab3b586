from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from agfnet.data.phantom.doppler import colour_flow
from agfnet.data.phantom.marks import draw_marks


@pytest.mark.parametrize(("kind", "mode"), [("ruler", "RGB"), ("pen", "RGB"), ("calipers", "L"), ("text", "L")])
@pytest.mark.parametrize("seed", range(5))
def test_marks_change_a_little_of_the_image(kind, mode, seed):
    image = Image.new(mode, (224, 160), 90 if mode == "L" else (200, 160, 140))
    marked = draw_marks(image, kind, 0.08, np.random.default_rng(seed))
    changed = np.mean(np.asarray(marked) != np.asarray(image))
    assert 0.0005 < changed < 0.35
    assert marked.size == image.size


def test_none_changes_nothing_and_an_unknown_kind_is_an_error():
    image = Image.new("L", (100, 60), 90)
    assert np.array_equal(draw_marks(image, "none", 0.1, np.random.default_rng(0)), image)
    with pytest.raises(ValueError, match="calipers"):
        draw_marks(image, "stamp", 0.1, np.random.default_rng(0))


def test_the_rulers_millimetres_are_millimetres():
    image = Image.new("RGB", (400, 400), (200, 160, 140))
    marked = np.asarray(draw_marks(image, "ruler", 0.05, np.random.default_rng(1)))
    dark = (marked < 60).all(axis=-1)
    row = int(dark.sum(axis=1).argmax())
    ticks = np.flatnonzero(dark[row])
    assert np.median(np.diff(ticks[np.diff(ticks, prepend=-9) > 1])) == pytest.approx(20.0, abs=0.5)


def test_doppler_shows_flow_in_colour_and_leaves_the_rest_grey():
    image = np.full((150, 224), 80, np.uint8)
    flow = np.zeros((150, 224), np.float32)
    flow[50:90, 80:150] = 0.9
    coloured = colour_flow(image, flow, np.random.default_rng(0)).astype(int)
    colourful = np.ptp(coloured, axis=-1) > 50
    inside, outside = colourful[51:89, 81:149].mean(), colourful[100:140, 20:200].mean()
    assert inside > 0.05
    assert outside < 0.01
    still = colour_flow(image, np.zeros_like(flow), np.random.default_rng(0))
    assert (np.ptp(still.astype(int), axis=-1) > 50)[51:89, 81:149].mean() < 0.01
