from __future__ import annotations

import io
import time

import numpy as np
import pytest
from dicom_files import smooth
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from agfnet.data.codestream import MAX_SCANS, walk_jpeg
from agfnet.data.images import read_image
from agfnet.types import ImageError


def jpeg(pixels: np.ndarray | None = None, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(smooth(rows=40, columns=48) if pixels is None else pixels).save(stream, "JPEG", **options)
    return stream.getvalue()


@pytest.mark.parametrize(("options", "scans"), [({}, 1), ({"progressive": True}, 10), ({"restart_marker_rows": 1}, 1)])
def test_what_a_codestream_says(options, scans):
    head = walk_jpeg(jpeg(**options))
    assert head is not None
    assert (head.rows, head.columns, head.bits, head.scans) == (40, 48, 8, scans)


def test_a_thumbnail_and_what_follows_the_end_do_not_count():
    thumbnail = b"\xff\xe1" + (2 + len(jpeg())).to_bytes(2, "big") + jpeg()
    content = jpeg()[:2] + thumbnail + jpeg()[2:] + jpeg(progressive=True) * 20
    head = walk_jpeg(content)
    assert head is not None
    assert head.scans == 1
    np.testing.assert_array_equal(read_image(content), read_image(jpeg()))


@pytest.mark.parametrize("progressive", [False, True])
def test_a_small_file_that_takes_a_decoder_minutes_is_refused(progressive):
    """Pillow, and every viewer, goes over the image again for each scan."""
    good = jpeg(progressive=progressive)
    last = good.rindex(b"\xff\xda")
    bomb = good[:-2] + good[last:-2] * MAX_SCANS + b"\xff\xd9"
    first = bomb.index(b"\xff\xda")
    for junk in (b"", b"\0", b"\xff\xd0"):  # which decoders step over
        with pytest.raises(ImageError, match="more than 100 scans"):
            read_image(bomb[:first] + junk + bomb[first:])


def test_no_content_takes_long_to_walk():
    started = time.perf_counter()
    for content in (b"\xff" * 2**20, b"\xff" * 2**20 + b"\0", b"\xff\xda\0\2" * 2**18):
        walk_jpeg(b"\xff\xd8" + content)
    assert time.perf_counter() - started < 5.0


@given(st.integers(0, 2000), st.binary(max_size=40))
def test_any_damage_is_walked(place, damage):
    good = jpeg(progressive=True)
    walk_jpeg(good[: place % len(good)] + damage + good[place % len(good) + len(damage) :])
    walk_jpeg(b"\xff\xd8" + damage)
    assert walk_jpeg(damage.replace(b"\xff\xd8", b"")) is None
