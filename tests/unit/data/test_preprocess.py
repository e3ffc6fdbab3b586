from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from agfnet.data.preprocess import ViewSpec, fit, middle, normalise, read_frame
from agfnet.types import ImageError

PHOTO = ViewSpec("photo", (64, 96))
SCAN = ViewSpec("ultrasound", (64, 64), mm_per_pixel=0.1)


def test_aspect_is_kept_and_the_rest_padded():
    """A square picture in a wide frame stays square, with the padding beside it."""
    frame = fit(np.full((200, 200, 3), 255, np.uint8), PHOTO)
    assert frame.shape == (64, 96, 3)
    white = (frame == 255).all(-1)
    assert white.any(1).sum() == 64
    assert white.any(0).sum() == 64
    assert (frame[:, 0] == PHOTO.padding).all()


def test_a_scan_keeps_its_skin_side_at_the_top():
    frame = fit(np.full((20, 64, 3), 255, np.uint8), ViewSpec("ultrasound", (64, 64)))
    assert (frame[:20] == 255).all()
    assert (frame[20:] == 0).all()


@pytest.mark.parametrize(("mm", "side"), [(0.1, 40), (0.2, 80), (0.05, 20)])
@pytest.mark.parametrize("enlarge", [1.0, 1.25])
def test_known_scale_is_resampled_to_the_inputs_scale(mm, side, enlarge):
    """A 40-pixel square at 0.2 mm is 8 mm: 80 pixels at 0.1 mm, of which the frame shows 64; the larger ones of a
    larger frame, from which augmentation takes its own."""
    frame = fit(np.full((40, 40, 3), 255, np.uint8), SCAN, mm_per_pixel=mm, enlarge=enlarge)
    white = (frame == 255).all(-1)
    assert white.any(0).sum() == white.any(1).sum() == enlarge * min(side, 64)


def test_an_unknown_scale_is_fitted():
    assert (fit(np.full((40, 40, 3), 255, np.uint8), SCAN) == 255).all()


def test_enlarged_frame():
    assert fit(np.zeros((50, 50, 3), np.uint8), PHOTO, enlarge=1.25).shape == (80, 120, 3)


def test_normalise():
    x = normalise(np.full((2, 4, 5, 3), 255, np.uint8), ViewSpec("photo", (4, 5), (0.5, 0.4, 0.3), (0.5, 0.2, 0.1)))
    assert x.shape == (2, 3, 4, 5)
    assert x.dtype == np.float32
    assert x[0, :, 0, 0] == pytest.approx([1.0, 3.0, 7.0], abs=1e-5)


def test_a_scan_is_never_turned_upside_down():
    assert all(0 not in axes for axes in SCAN.flips)
    assert any(0 in axes for axes in PHOTO.flips)


def test_reading_to_scale_does_not_shrink_the_pixels(tmp_path):
    """A large JPEG may be decoded smaller, but not where millimetres per pixel count."""
    path = tmp_path / "scan.jpg"
    image = np.zeros((1200, 1200, 3), np.uint8)
    image[:, :600] = 255
    Image.fromarray(image).save(path)
    frame = read_frame(
        path, SCAN, mm_per_pixel=0.01
    ).pixels  # 12 mm: 120 pixels of the input, the middle 64 of which are seen
    assert (frame[:, :30] > 200).all()
    assert (frame[:, 34:] < 50).all()
    assert (read_frame(path, SCAN).pixels == read_frame(path, SCAN, mm_per_pixel=None).pixels).all()
    eighth = read_frame(path, SCAN, mm_per_pixel=0.005).pixels  # 6 mm: 60 pixels
    assert abs(int((eighth[30, :, 0] > 128).sum()) - 30) <= 1


def test_the_middle_is_shown_as_large_as_the_whole():
    image = np.zeros((100, 150, 3), np.uint8)
    image[25:75, 38:112] = 200
    assert middle(image, 1.0) is image
    assert middle(image, 0.8).shape == image.shape
    assert (middle(image, 0.5)[3:-3, 3:-3] > 195).all()


def test_a_wrong_unit_is_said():
    with pytest.raises(ImageError, match="Check the unit"):
        fit(np.zeros((40, 40, 3), np.uint8), SCAN, mm_per_pixel=50.0)


@pytest.mark.parametrize(("times", "accepted"), [(15.9, True), (16.1, False), (1 / 63, True), (1 / 65, False)])
@pytest.mark.parametrize("enlarge", [1.0, 1.25])
def test_training_and_prediction_take_the_same_scales(times, accepted, enlarge):
    pixels, mm = np.zeros((40, 40, 3), np.uint8), SCAN.mm_per_pixel * times
    if accepted:
        fit(pixels, SCAN, mm_per_pixel=mm, enlarge=enlarge)
    else:
        with pytest.raises(ImageError, match=f"is {times:.3g} times"):
            fit(pixels, SCAN, mm_per_pixel=mm, enlarge=enlarge)


@pytest.mark.parametrize("kind", ["photo", "ultrasound"])
def test_what_the_frame_cuts_off_is_not_resampled(kind):
    """The same, to one grey level, as when all of it is; and what would become 96,000 pixels wide is done at once."""
    spec = ViewSpec(kind, (64, 70), mm_per_pixel=0.1)
    pixels = np.random.default_rng(0).integers(0, 256, (50, 61, 3), np.uint8)
    whole = np.asarray(Image.fromarray(pixels).resize((213, 175), Image.Resampling.BICUBIC)).astype(int)
    top = 0 if kind == "ultrasound" else 56
    assert np.abs(fit(pixels, spec, mm_per_pixel=0.35) - whole[top : top + 64, 72:142]).max() <= 1
    assert fit(np.zeros((6000, 6000, 3), np.uint8), spec, mm_per_pixel=1.6).shape == (64, 70, 3)
