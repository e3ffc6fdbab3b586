from __future__ import annotations

import errno
import io
import os
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from broken import BROKEN, Broken, encoded, huge_bmp, picture
from dicom_files import content_of, dicom
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from agfnet.data.imagefile import CodedImageError, ImageLimits
from agfnet.data.images import read_image, sniff
from agfnet.types import ImageError

RGB = np.asarray(picture(5, (48, 40)))


def save(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {}),
        ("a.tif", {}),
        ("a.tif", {"compression": "tiff_lzw"}),
        ("a.bmp", {}),
        ("a.webp", {"lossless": True}),
    ],
)
def test_lossless_formats_give_their_pixels(name, options, tmp_path):
    pixels = read_image(save(tmp_path / name, Image.fromarray(RGB), **options))
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, RGB)


def test_jpeg_is_near(tmp_path):
    pixels = read_image(save(tmp_path / "a.jpg", Image.fromarray(RGB), quality=95, subsampling=0))
    assert np.abs(pixels.astype(int) - RGB).mean() < 3


def test_format_is_told_by_content_not_by_suffix(tmp_path):
    path = tmp_path / "really_a_png.jpg"
    path.write_bytes(encoded(Image.fromarray(RGB), "PNG"))
    assert sniff(path) == "PNG"
    np.testing.assert_array_equal(read_image(path), RGB)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_keeps_the_high_byte(suffix, tmp_path):
    values = np.linspace(0, 65535, 40 * 48).astype(np.uint16).reshape(40, 48)
    pixels = read_image(save(tmp_path / f"a.{suffix}", Image.fromarray(values)))
    for channel in range(3):
        np.testing.assert_array_equal(pixels[..., channel], values >> 8)


def test_16_bit_white_is_zero_tiff_is_inverted(tmp_path):
    values = np.full((20, 20), 0x1200, dtype=np.uint16)
    values[0] = 0x3400
    pixels = read_image(save(tmp_path / "a.tif", Image.fromarray(values), tiffinfo={262: 0}))
    assert (pixels[1:] == 255 - 0x12).all()
    assert (pixels[0] == 255 - 0x34).all()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_12_bits_in_16_would_be_nearly_black(suffix, tmp_path):
    values = np.linspace(0, 4095, 40 * 48).astype(np.uint16).reshape(40, 48)
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(values))
    with pytest.raises(ImageError, match="use 12 bits at most"):
        read_image(path)


def test_a_preview_after_the_picture_is_no_second_page(tmp_path):
    picture, small = Image.fromarray(RGB), Image.fromarray(RGB).resize((20, 20))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    path = save(tmp_path / "a.tif", picture, save_all=True, append_images=[small])
    np.testing.assert_array_equal(read_image(path), RGB)


@pytest.mark.parametrize(
    ("side", "problem"), [(400, "its tiles are over the limit of 100,000"), (64, "cannot be decoded")]
)
def test_a_tile_that_is_larger_than_any_image_is_refused_before_it_is_made(side, problem):
    values = {256: 64, 257: 64, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side, 324: 8, 325: 4}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in values.items())
    content = b"II*\0" + struct.pack("<IH", 8, len(values)) + entries + bytes(4)
    with pytest.raises(CodedImageError, match=problem):
        read_image(content, limits=ImageLimits(max_pixels=100_000))


def test_grey_palette_and_bilevel(tmp_path):
    grey = Image.fromarray(RGB).convert("L")
    expected = np.repeat(np.asarray(grey)[..., None], 3, axis=2)
    np.testing.assert_array_equal(read_image(save(tmp_path / "l.png", grey)), expected)
    palette = Image.fromarray(RGB).quantize(16)
    np.testing.assert_array_equal(read_image(save(tmp_path / "p.png", palette)), np.asarray(palette.convert("RGB")))
    bits = grey.convert("1")
    assert set(np.unique(read_image(save(tmp_path / "1.png", bits)))) == {0, 255}


def test_transparency_is_laid_on_white(tmp_path):
    alpha = np.zeros((40, 48), dtype=np.uint8)
    alpha[:, 24:] = 255
    rgba = np.dstack([RGB, alpha])
    pixels = read_image(save(tmp_path / "a.png", Image.fromarray(rgba)))
    assert (pixels[:, :24] == 255).all()
    np.testing.assert_array_equal(pixels[:, 24:], RGB[:, 24:])
    palette = Image.fromarray(np.array([[0, 1] * 8] * 16, dtype=np.uint8), mode="P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    pixels = read_image(save(tmp_path / "p.png", palette, transparency=0))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, 1].tolist() == [40, 50, 60]


def test_cmyk_jpeg_and_tiff(tmp_path):
    cmyk = Image.new("CMYK", (32, 32), (0, 255, 255, 0))
    cmyk.paste((255, 0, 0, 0), (0, 0, 8, 8))
    for name in ("a.jpg", "a.tif"):
        red, green, blue = read_image(save(tmp_path / name, cmyk))[16, 16].tolist()
        assert red > 240
        assert green < 15
        assert blue < 15


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation, suffix, tmp_path):
    upright = np.zeros((32, 64, 3), dtype=np.uint8)
    upright[:16, :32, 0] = 255
    upright[16:, 32:, 1] = 255
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.transpose(1, 0, 2), 6: np.rot90(upright), 7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if suffix == "jpg" else {"lossless": True} if suffix == "webp" else {}
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(np.ascontiguousarray(stored)), exif=exif, **options)
    pixels = read_image(path)
    assert pixels.shape == upright.shape
    assert np.abs(pixels.astype(int) - upright).mean() < 6


@pytest.mark.parametrize(
    ("at_least", "size"), [(None, (640, 480)), (300, (640, 480)), (240, (320, 240)), (60, (80, 60))]
)
def test_reduced_decoding_keeps_both_sides_long_enough(at_least, size, tmp_path):
    path = save(tmp_path / "a.jpg", picture(1, (640, 480)))
    assert read_image(path, at_least=at_least).shape == (size[1], size[0], 3)


def test_reduced_decoding_still_finds_truncation(tmp_path):
    path = save(tmp_path / "a.jpg", picture(1, (640, 480)))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ImageError, match="ends too early"):
        read_image(path, at_least=32)


def test_bomb_is_refused_before_decoding_and_pillow_is_left_as_it_was(tmp_path):
    path = tmp_path / "a.bmp"
    path.write_bytes(huge_bmp())
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    with pytest.raises(ImageError, match="30000 x 30000"):
        read_image(path)
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)


def test_own_limit_holds_above_pillows_without_a_warning(tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read_image(save(tmp_path / "a.png", Image.fromarray(RGB))).shape == RGB.shape
    assert not recwarn.list


@pytest.mark.parametrize(
    ("limits", "cause"),
    [
        (ImageLimits(max_bytes=100), "oversized-image"),
        (ImageLimits(max_pixels=40 * 48 - 1), "oversized-image"),
        (ImageLimits(min_side=41), "too-small-image"),
        (ImageLimits(max_aspect=1.1), "extreme-aspect"),
    ],
)
def test_limits(limits, cause, tmp_path):
    path = save(tmp_path / "a.png", Image.fromarray(RGB))
    with pytest.raises(CodedImageError) as caught:
        read_image(path, limits=limits)
    assert caught.value.cause == cause
    assert str(path) in str(caught.value)
    assert "raise" not in caught.value.remedy  # no command has an option for it
    exact = ImageLimits(max_bytes=path.stat().st_size, max_pixels=40 * 48, min_side=40, max_aspect=1.2)
    assert read_image(path, limits=exact).shape == RGB.shape


def test_special_file_is_refused_at_once(tmp_path):

    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="not a regular file"):
        read_image(tmp_path / "pipe.jpg")


def test_impossible_names_are_errors_with_the_name(tmp_path):
    for name in ("a\0b.jpg", "x" * 5000, ""):
        with pytest.raises(ImageError):
            read_image(tmp_path / name)


IMAGE_CAUSES = {
    "not-a-file", "empty-file", "not-an-image", "truncated-image", "unreadable-image", "oversized-image",
    "too-small-image", "extreme-aspect", "several-pages",
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize(
    "case", [c for c in BROKEN if c.cause in IMAGE_CAUSES and not c.check], ids=lambda case: case.name
)
def test_message_names_the_file_and_a_remedy(case: Broken, tmp_path):
    case.build(tmp_path)
    with pytest.raises(CodedImageError) as caught:
        read_image(tmp_path / "c1.jpg")
    assert str(caught.value).startswith(f"{tmp_path / 'c1.jpg'}: ")
    assert caught.value.cause == case.cause
    assert str(caught.value).endswith(caught.value.remedy)


def test_many_threads_may_read(tmp_path):
    path = save(tmp_path / "a.jpg", picture(2, (200, 200)))
    expected, wrong = read_image(path), []

    def work() -> None:
        wrong.extend(k for k in range(20) if not np.array_equal(read_image(path), expected))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


SEEDS = [
    encoded(picture(1), "JPEG"),
    encoded(picture(1), "PNG"),
    encoded(picture(1), "TIFF", compression="tiff_lzw"),
    encoded(picture(1), "WEBP"),
    encoded(picture(1), "BMP"),
    encoded(picture(1).quantize(8), "PNG", transparency=0),
    encoded(picture(1).convert("CMYK"), "JPEG"),
    encoded(Image.fromarray(np.eye(30, dtype=np.uint16)), "TIFF"),
]


def read_or_error(path: Path) -> np.ndarray | ImageError:
    try:
        return read_image(path, limits=ImageLimits(max_pixels=1_000_000))
    except ImageError as error:
        return error


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A real file with some bytes overwritten, cut off or put in."""
    content = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, min(len(content) - 1, 400)))
        content[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=6))
    return bytes(content[: draw(st.integers(1, len(content)))]) if draw(st.booleans()) else bytes(content)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.one_of(st.binary(max_size=300), damaged()))
def test_any_bytes_give_pixels_or_an_image_error(content, tmp_path):
    path = tmp_path / "fuzz.jpg"
    path.write_bytes(content)
    result = read_or_error(path)
    if isinstance(result, ImageError):
        assert str(path) in str(result)
    else:
        assert result.dtype == np.uint8
        assert result.shape[2:] == (3,)


@pytest.mark.parametrize("kind", ["JPEG", "DICOM", "TIFF"])
def test_a_disk_that_fails_while_a_file_is_read_is_an_image_error(kind, tmp_path):
    """From the second read on, as a bad sector or a share that goes away would have it."""
    content = content_of(dicom(RGB)) if kind == "DICOM" else encoded(Image.fromarray(RGB), kind)

    class Failing(io.BytesIO):
        reads = 0

        def read(self, size=-1):
            self.reads += 1
            if self.reads > 1:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().read(size)

    class Bad(type(tmp_path)):
        def open(self, *_args, **_options):
            return Failing(content)

    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ImageError, match="a: "):
        read_image(Bad(tmp_path / "a"))


def test_a_png_of_very_many_chunks_is_refused_before_it_is_decoded():
    good = encoded(picture(1), "PNG")
    chunk = struct.pack(">I4sI", 0, b"abCd", zlib.crc32(b"abCd"))
    assert read_image(good[:33] + chunk * 1000 + good[33:]).shape == read_image(good).shape
    with pytest.raises(ImageError, match="more than 20,000 chunks"):
        read_image(good[:33] + chunk * 20_001 + good[33:])


def test_what_comes_after_a_pngs_end_does_not_count():
    good = encoded(picture(1), "PNG")
    assert read_image(good + bytes(500_000)).shape == read_image(good).shape


def test_a_tiff_that_points_to_no_place_is_unreadable():
    with pytest.raises(ImageError, match="cannot be decoded"):
        read_image(b"II+\0" + struct.pack("<HH", 8, 0) + b"\xff" * 8)


@pytest.mark.parametrize(("order", "magic"), [("<", b"II+\0"), (">", b"MM\0+")])
def test_a_tiff_that_says_it_has_very_many_entries_is_refused(order, magic):
    head = magic + struct.pack(f"{order}HHQQ", 8, 0, 16, 1_000_000)
    with pytest.raises(ImageError, match="more than 20,000 chunks or entries"):
        read_image(head + bytes(1000))
