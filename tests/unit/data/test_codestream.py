from __future__ import annotations

import io
import struct
import time

import numpy as np
import pytest
from dicom_files import content_of, dicom, smooth
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless

from agfnet.data.codestream import MAX_SCANS, coding_of, walk_jpeg
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


def test_a_file_of_empty_segments_is_refused_soon():
    good, started = jpeg(), time.perf_counter()
    for marker in (b"\xff\xe1", b"\xff\xfe"):
        with pytest.raises(ImageError, match="10,000 segments"):
            read_image(good[:2] + marker + b"\0\2" + (marker + b"\0\2") * 2**20 + good[2:])
    assert time.perf_counter() - started < 2.0
    read_image(good[:2] + b"\xff\xe1\0\2" * 500 + good[2:])


@pytest.mark.parametrize(("compression", "bits"), [(1, 8), (2, 4)])
def test_a_bmp_that_takes_a_decoder_seconds_is_refused_soon(compression, bits):
    """Each of its lines is said to end at once."""
    width, height, rows = 35_000, 1_140, b"\0\0" * 1_140 + b"\0\1"
    start = 14 + 40 + 4 * 2**bits
    content = (
        b"BM"
        + struct.pack("<IHHI", start + len(rows), 0, 0, start)
        + struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(rows), 0, 0, 0, 0)
        + bytes(4 * 2**bits)
        + rows
    )
    started = time.perf_counter()
    with pytest.raises(ImageError, match=r"run-length coded, which takes a decoder long\. Save it anew as a PNG"):
        read_image(content)
    assert time.perf_counter() - started < 0.5


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


def jpeg_2000(**options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(smooth(rows=70, columns=100)).save(stream, "JPEG2000", **{"no_jp2": True, **options})
    return stream.getvalue()


def stated(
    width: int, height: int, *, components: bytes = b"\7\1\1" * 3, tile: tuple[int, int] | None = None,
    style: bytes = b"\0\4\4\0\1", sized: bool = False, layers: int = 1, behind: bytes = b"",
) -> bytes:  # fmt: skip
    """A JPEG 2000 codestream of headers alone, with one tile-part; `behind` stands in that one's header."""
    size = struct.pack(">H8IH", 0, width, height, 0, 0, *(tile or (width, height)), 0, 0, len(components) // 3)
    coding = struct.pack(">BBHB", sized, 0, layers, 0) + style
    segments = [(0x51, size + components), (0x52, coding), (0x5C, b"\x40\x40")]
    head = b"\xff\x4f" + b"".join(struct.pack(">BBH", 0xFF, m, 2 + len(c)) + c for m, c in segments)
    part = behind + b"\xff\x93" + bytes(20)
    return head + struct.pack(">HHHIBB", 0xFF90, 10, 0, 12 + len(part), 0, 1) + part + b"\xff\xd9"


@pytest.mark.parametrize(
    "options",
    [
        {}, {"no_jp2": False}, {"tile_size": (32, 32)}, {"precinct_size": (32, 32)}, {"codeblock_size": (4, 4)},
        {"num_resolutions": 1}, {"quality_layers": [40, 20, 10]}, {"progression": "RPCL", "plt": True},
        {"offset": (5, 7), "tile_size": (64, 64)},
    ],
)  # fmt: skip
def test_what_encoders_make_is_whole(options):
    said = coding_of(jpeg_2000(**options))
    assert said is not None
    assert (said.rows, said.columns, said.bits, said.samples, said.whole) == (70, 100, 8, 3, True)


TINY_PRECINCTS = b"\0\4\4\0\1\0"


@pytest.mark.parametrize(
    "content",
    [
        stated(2000, 2000, sized=True, style=TINY_PRECINCTS),
        stated(400, 400, behind=b"\xff\x52\0\x0b\1\0\0\1\0" + TINY_PRECINCTS),
        stated(400, 400, behind=b"\xff\x53\0\x0a\0\1" + TINY_PRECINCTS),
        stated(2000, 2000, layers=60_000, sized=True, style=b"\0\4\4\0\1\x88"),
        stated(6000, 6600, style=b"\0\0\0\0\1"),
        stated(6000, 6600, tile=(25, 25)),
        stated(100, 100, style=b"\x21\4\4\0\1"),
        stated(100, 100, sized=True),
        stated(100, 100, components=b"\7\1\1" * 2 + b"\x0f\1\1"),
        stated(100, 100, components=b"\7\2\2" * 3),
        stated(100, 100, components=b""),
        stated(100, 100, tile=(0, 0)),
        stated(100, 100, behind=b"\xff\x64\0\2" * 100_000),
        stated(100, 100, behind=b"".join(b"\xff\x53\0\x09\0\0" + bytes([n, 4, 4, 0, 1]) for n in range(32)) * 2
               + b"".join(b"\xff\x53\0\x09\0\0" + bytes([n, 3, 3, 0, 1]) for n in range(33))),
    ],
    ids=[
        "precincts", "precincts of a tile", "precincts of a component", "layers", "blocks", "tiles", "levels",
        "sizes that are missing", "components of two depths", "components of another size", "no components",
        "tiles of no size", "segments", "styles",
    ],
)  # fmt: skip
def test_a_header_that_asks_for_too_much_is_refused(content):
    """Each of these few bytes would take a decoder gigabytes or minutes, or is none that DICOM has."""
    assert coding_of(stated(100, 100)) is not None
    assert coding_of(content) is None


def as_dicom(codestream: bytes) -> bytes:
    ds = dicom(smooth(rows=70, columns=100))
    ds.PixelData = encapsulate([codestream])
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
    return content_of(ds)


def test_more_components_than_the_header_says_are_refused():
    with pytest.raises(ImageError, match="of another size"):
        read_image(as_dicom(stated(100, 70, components=b"\7\1\1" * 12)))


@pytest.mark.parametrize("kept", [0, 1, 5, 11])
def test_an_image_without_all_its_tiles_is_cut_off(kept):
    """Decoders leave what is missing black."""
    whole = jpeg_2000(tile_size=(32, 32))
    head, *parts = whole.split(b"\xff\x90\0\x0a")
    assert len(parts) == 12
    cut = b"\xff\x90\0\x0a".join([head, *parts[:kept]]) + b"\xff\xd9"
    read_image(as_dicom(whole))
    with pytest.raises(ImageError, match="lacks a part"):
        read_image(as_dicom(cut))


def test_boxes_around_a_codestream_are_not_decoded():
    """A palette in them may make hundreds of components of one."""
    boxed = jpeg_2000(no_jp2=False)
    np.testing.assert_array_equal(
        read_image(as_dicom(boxed.replace(b"ihdr", b"none"))), read_image(as_dicom(jpeg_2000()))
    )


@given(st.integers(2, 2000), st.binary(max_size=20))
def test_any_damage_of_jpeg_2000_is_walked(place, damage):
    good = jpeg_2000(tile_size=(32, 32))
    coding_of(good[: place % len(good)] + damage + good[place % len(good) + len(damage) :])
    coding_of(good[:4] + damage)
