from __future__ import annotations

import io
import logging
import struct
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import PLANTED, content_of, dicom, jpeg, palette, region, save, smooth, with_regions
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from malformed_dicom import GOOD, MALFORMED, RLE_HEADER, TINY, as_jpeg, as_rle
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels.decoders import JPEGExtended12BitDecoder
from pydicom.pixels.processing import convert_color_space
from pydicom.sequence import Sequence
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from agfnet.data.dicom import read_dicom
from agfnet.data.dicom_header import CHARACTER_SET, family_name
from agfnet.data.imagefile import CodedImageError, ImageLimits
from agfnet.data.images import read_image, read_scaled_image, sniff
from agfnet.data.preprocess import ViewSpec, read_frame
from agfnet.types import ImageError

RGB = smooth()
GREY = np.ascontiguousarray(RGB[..., 0])
WIDE = GREY.astype(np.uint16) * 257


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(np.asarray(values, np.uint8)[..., None], 3, axis=2)


def test_a_path_and_its_content_are_the_same(tmp_path):
    path = save(tmp_path / "named_as.jpg", dicom(RGB))
    assert sniff(path) == "DICOM"
    pixels = read_image(path)
    np.testing.assert_array_equal(pixels, RGB)
    np.testing.assert_array_equal(read_image(path.read_bytes()), RGB)
    np.testing.assert_array_equal(read_dicom(path).pixels, RGB)
    assert pixels.flags.writeable
    assert pixels.flags.c_contiguous


def test_a_file_that_is_a_tiff_as_well_is_read_as_dicom():
    content = content_of(dicom(RGB))
    np.testing.assert_array_equal(read_image(b"II*\0" + content[4:]), RGB)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_uncompressed_syntaxes(syntax):
    ds = dicom(RGB)
    ds.file_meta.TransferSyntaxUID = syntax
    np.testing.assert_array_equal(read_image(content_of(ds)), RGB)


def test_a_header_of_another_kind_than_it_says_is_read():
    ds = dicom(RGB)
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    content = content_of(ds)
    meta = struct.pack("<HH2sH", 2, 16, b"UI", 18) + b"1.2.840.10008.1.2\0"
    other = struct.pack("<HH2sH", 2, 16, b"UI", 20) + b"1.2.840.10008.1.2.1\0"
    assert content.count(meta) == 1
    np.testing.assert_array_equal(read_image(content.replace(meta, other)), RGB)


def test_big_endian_words():
    ds = dicom(WIDE.byteswap(), "MONOCHROME2")
    ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    np.testing.assert_array_equal(read_image(content_of(ds)), grey(GREY))


@pytest.mark.parametrize(
    ("syntax", "options", "tolerance"),
    [
        (RLELossless, {}, 0),
        (JPEGLSLossless, {}, 0),
        (JPEGLSNearLossless, {"jls_error": 2}, 2),
        (JPEG2000Lossless, {}, 0),
        (JPEG2000, {"j2k_cr": [2]}, 4),
    ],
)
@pytest.mark.parametrize("kind", ["RGB", "MONOCHROME2", "MONOCHROME1", "16 bit", "transformed"])
def test_compressed_syntaxes(syntax, options, tolerance, kind):
    expected = RGB
    if kind in {"RGB", "transformed"}:
        ds = dicom(RGB)
        if kind == "transformed" and syntax in {JPEG2000Lossless, JPEG2000}:
            ds.PhotometricInterpretation = "YBR_RCT" if syntax == JPEG2000Lossless else "YBR_ICT"
    elif kind == "16 bit":
        ds, expected = dicom(WIDE, "MONOCHROME2"), grey(GREY)
    else:
        ds = dicom(GREY, kind)
        expected = grey(GREY if kind == "MONOCHROME2" else 255 - GREY)
    ds.compress(syntax, **options)
    if kind == "RGB":
        ds.PlanarConfiguration = 1  # of the pixels before: it says nothing of what is compressed
    assert np.abs(read_image(content_of(ds)).astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("photometric", ["YBR_FULL_422", "YBR_FULL", "RGB"])
@pytest.mark.filterwarnings("ignore:The .0028,0004.")
def test_baseline_jpeg(photometric):
    # Pillow's JPEGs say by their JFIF marker that they are YCbCr, whatever the header says.
    pixels = read_image(content_of(jpeg(dicom(RGB, photometric, PlanarConfiguration=1), RGB)))
    assert np.abs(pixels.astype(int) - RGB).mean() < 3


def coded(stored: str, marker: str, names: bytes = b"\1\2\3") -> bytes:
    """A JPEG whose colours are stored as YBR or RGB, with this marker alone, and components of these names."""
    stream = io.BytesIO()
    Image.fromarray(RGB).save(stream, "JPEG", quality=95, subsampling=0, keep_rgb=stored == "RGB")
    data = stream.getvalue()
    data = data[:2] + data[data.index(b"\xff\xdb") :]
    for segment, first, step in ((b"\xff\xc0", 10, 3), (b"\xff\xda", 5, 2)):
        at = data.index(segment) + first
        for i, name in enumerate(names):
            data = data[: at + step * i] + bytes([name]) + data[at + step * i + 1 :]
    transform = {"YBR": b"\1", "RGB": b"\0"}
    markers = {
        "none": b"",
        "JFIF": b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0",
        "Adobe": b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + transform[stored],
    }
    return data[:2] + markers[marker] + data[2:]


@pytest.mark.parametrize(
    ("stored", "marker", "names", "photometric", "read"),
    [
        ("YBR", "none", b"\1\2\3", "YBR_FULL_422", True),
        ("YBR", "JFIF", b"\1\2\3", "RGB", True),
        ("YBR", "Adobe", b"\1\2\3", "YBR_FULL_422", True),
        ("YBR", "Adobe", b"\1\2\3", "RGB", True),
        ("RGB", "none", b"\1\2\3", "RGB", True),
        ("RGB", "none", b"RGB", "RGB", True),
        ("RGB", "none", b"RGB", "YBR_FULL_422", True),
        ("RGB", "Adobe", b"\1\2\3", "RGB", True),
        ("RGB", "Adobe", b"RGB", "YBR_FULL_422", True),
        ("RGB", "Adobe", b"\1\2\3", "YBR_FULL_422", False),
    ],
)
def test_a_jpeg_says_how_its_colours_are_stored(stored, marker, names, photometric, read):
    """Decoders differ in what they make of Adobe's marker, and of a header that says otherwise."""
    ds = jpeg(dicom(RGB, photometric), RGB)
    ds.PixelData = pydicom.encaps.encapsulate([coded(stored, marker, names)])
    if read:
        assert np.abs(read_image(content_of(ds)).astype(int) - RGB).mean() < 2
    else:
        with pytest.raises(CodedImageError, match="differ in how colours are stored"):
            read_image(content_of(ds))


def test_without_a_decoder_of_more_bits_the_kind_is_said(monkeypatch):
    monkeypatch.delitem(JPEGExtended12BitDecoder._available, "pylibjpeg")
    ds = dicom(WIDE, "MONOCHROME2", BitsStored=12, HighBit=11)
    ds.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9"])
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    ds.file_meta.TransferSyntaxUID = JPEGExtended12Bit
    with pytest.raises(CodedImageError, match="no decoder of 12-bit JPEG extended is installed"):
        read_image(content_of(ds))


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.filterwarnings("ignore:The .0028,0004.")
def test_colours_that_are_sampled_less_often_are_no_rgb(marked):
    """Without JFIF's marker a decoder goes by the header: all would be green and violet."""
    stream = io.BytesIO()
    Image.fromarray(RGB).save(stream, "JPEG", quality=95, subsampling=2)
    frame = stream.getvalue()
    assert frame[2:4] == b"\xff\xe0"
    frame = frame if marked else frame[:2] + frame[20:]
    for photometric in ("YBR_FULL_422", "RGB"):
        ds = jpeg(dicom(RGB, photometric), RGB)
        ds.PixelData = pydicom.encaps.encapsulate([frame])
        if marked or photometric != "RGB":
            assert np.abs(read_image(content_of(ds)).astype(int) - RGB).mean() < 5
        else:
            with pytest.raises(CodedImageError, match="differ in how colours are stored"):
                read_image(content_of(ds))


def test_ybr_and_planes():
    ybr = convert_color_space(RGB, "RGB", "YBR_FULL")
    assert np.abs(read_image(content_of(dicom(ybr, "YBR_FULL"))).astype(int) - RGB).max() <= 2
    planes = dicom(RGB, PlanarConfiguration=1, PixelData=np.moveaxis(RGB, -1, 0).tobytes())
    np.testing.assert_array_equal(read_image(content_of(planes)), RGB)
    halved = np.full((40, 48, 3), (120, 90, 180), np.uint8)
    halved[:20] = (60, 100, 140)
    shared = np.stack([halved[:, ::2, 0], halved[:, 1::2, 0], halved[:, ::2, 1], halved[:, ::2, 2]], -1)
    ds = dicom(halved, "YBR_FULL_422", PixelData=shared.tobytes())
    np.testing.assert_array_equal(read_image(content_of(ds)), convert_color_space(halved, "YBR_FULL", "RGB"))


@pytest.mark.parametrize("bits", [8, 16])
def test_palette(bits):
    expected = np.stack([GREY, 255 - GREY, np.zeros_like(GREY)], -1)
    np.testing.assert_array_equal(read_image(content_of(palette(bits))), expected)
    short = np.minimum(GREY, 99)
    pixels = read_image(content_of(palette(bits, entries=100)))
    np.testing.assert_array_equal(pixels[..., 0], short)


def test_grey_without_a_window_keeps_the_full_range():
    np.testing.assert_array_equal(read_image(content_of(dicom(WIDE, "MONOCHROME2"))), grey(WIDE >> 8))
    np.testing.assert_array_equal(read_image(content_of(dicom(WIDE, "MONOCHROME1"))), grey(255 - (WIDE >> 8)))
    twelve = dicom(WIDE >> 4, "MONOCHROME2", BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(read_image(content_of(twelve)), grey(WIDE >> 8))
    signed = dicom((WIDE.astype(np.int32) - 32768).astype(np.int16), "MONOCHROME2")
    np.testing.assert_array_equal(read_image(content_of(signed)), grey(WIDE >> 8))
    four = dicom(GREY >> 4, "MONOCHROME2", BitsStored=4, HighBit=3)
    np.testing.assert_array_equal(read_image(content_of(four)), grey((GREY >> 4) * 17))


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"WindowCenter": 128, "WindowWidth": 256}, lambda v: v),
        ({"WindowCenter": [100.5, 5], "WindowWidth": [101, 7]}, lambda v: (v - 100.0) / 100.0 * 255 + 127.5),
        ({"WindowCenter": 100, "WindowWidth": 100, "VOILUTFunction": "LINEAR_EXACT"}, lambda v: (v - 50.0) / 100 * 255),
        (
            {"WindowCenter": 90, "WindowWidth": 40, "VOILUTFunction": "SIGMOID"},
            lambda v: 255 / (1 + np.exp(-4 * (v - 90.0) / 40)),
        ),
        (
            {"RescaleSlope": 2, "RescaleIntercept": -100, "WindowCenter": 100, "WindowWidth": 201},
            lambda v: (2.0 * v - 100 - 99.5) / 200 * 255 + 127.5,
        ),
        ({"RescaleSlope": -1, "RescaleIntercept": 255}, lambda v: 255.0 - v),
    ],
)
def test_windows(elements, expected):
    pixels = read_image(content_of(dicom(GREY, "MONOCHROME2", **elements)))
    wanted = np.clip(expected(GREY.astype(float)), 0, 255)
    assert np.abs(pixels[..., 0] - wanted).max() <= 0.51


@pytest.mark.parametrize("frames", [1, 4, 5])
@pytest.mark.parametrize("compressed", [False, True])
def test_the_middle_frame_is_taken(frames, compressed):
    clip = np.stack([smooth(k) for k in range(frames)])
    ds = dicom(clip, modality="US", NumberOfFrames=frames)
    if compressed:
        ds.compress(JPEG2000Lossless)
    made = read_dicom(content_of(ds))
    assert (made.facts.frame, made.facts.frames, made.facts.kind) == (frames // 2, frames, "ultrasound")
    np.testing.assert_array_equal(made.pixels, clip[frames // 2])


def test_a_clip_on_disk_may_be_long_as_only_one_frame_is_read(tmp_path):
    clip = np.stack([smooth(k) for k in range(40)])
    ds = dicom(clip, modality="US", NumberOfFrames=40)
    limits = ImageLimits(max_bytes=50_000)
    path = save(tmp_path / "clip.dcm", ds)
    np.testing.assert_array_equal(read_image(path, limits=limits), clip[20])
    with pytest.raises(CodedImageError, match="over the limit"):
        read_image(path.read_bytes(), limits=limits)
    with pytest.raises(CodedImageError, match="over the limit"):
        read_image(path, limits=ImageLimits(max_bytes=50_000, max_clip_bytes=60_000))
    ds.compress(RLELossless)
    with pytest.raises(CodedImageError, match="compressed pixels are over the limit"):
        read_image(save(tmp_path / "rle.dcm", ds), limits=limits)
    ds = dicom(clip, modality="US", NumberOfFrames=40)
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    with pytest.raises(CodedImageError) as caught:
        read_image(save(tmp_path / "deflated.dcm", ds), limits=limits)
    assert caught.value.cause == "oversized-image"


def test_only_that_frame_is_decoded():
    clip = np.stack([smooth(k) for k in range(3)])
    ds = jpeg(dicom(clip, "YBR_FULL_422", "US", NumberOfFrames=3), *clip)
    content = content_of(ds)
    streams = list(pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=3))
    for other in (streams[0], streams[2]):
        content = content.replace(other[20:], b"\0" * len(other[20:]))
    assert np.abs(read_dicom(content).pixels.astype(int) - clip[1]).mean() < 3


def test_a_calibrated_region_is_cut_out_with_its_scale():
    made = read_dicom(content_of(with_regions(dicom(RGB, modality="US"), region())))
    np.testing.assert_array_equal(made.pixels, RGB[4:36, 8:40])
    assert made.facts.mm_per_pixel == pytest.approx(0.05)
    assert made.facts.cropped
    assert read_scaled_image(
        content_of(with_regions(dicom(RGB, modality="US"), region()))
    ).said.mm_per_pixel == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("regions", "scale", "cropped"),
    [
        ([region(), region(RegionSpatialFormat=3, PhysicalUnitsXDirection=4)], 0.05, True),
        ([region(), region(RegionDataType=2)], 0.05, True),
        ([region((0, 0, 10, 10)), region((12, 0, 47, 39), PhysicalUnitsXDirection=0)], None, False),
        ([region((0, 0, 10, 10)), region((12, 0, 47, 39), delta=0.5)], None, False),
        ([region((0, 0, 20, 39)), region((24, 0, 47, 39))], 0.05, False),
        ([region((0, 0, 20, 39)), region((24, 0, 47, 39), delta=0.01)], None, False),
        ([region(delta=-0.005)], 0.05, True),
        ([region((0, 0, 48, 40))], 0.05, True),
        ([region((0, 0, 480, 40))], None, False),
        ([region((30, 4, 8, 35))], None, False),
        ([region((8, 4, 9, 35))], None, False),
        ([region(delta=0.0)], None, False),
        ([region(delta=float("nan"))], None, False),
        ([region(delta=50.0)], None, False),
        ([region(PhysicalUnitsXDirection=4)], None, False),
        ([region(PhysicalDeltaX=None)], None, False),
        ([], None, False),
    ],
)
def test_regions(regions, scale, cropped):
    ds = with_regions(dicom(RGB, modality="US", PixelSpacing=[0.3, 0.3]), *regions)
    made = read_dicom(content_of(ds))
    assert made.facts.mm_per_pixel == (None if scale is None else pytest.approx(scale))
    assert made.facts.cropped == cropped


def test_a_scan_that_says_to_be_upside_down_is_told(tmp_path):
    for side in ([region((0, 0, 20, 39))], [region((0, 0, 20, 39)), region((24, 0, 47, 39))]):
        for name, told in (("PhysicalDeltaX", False), ("PhysicalDeltaY", True)):
            setattr(side[-1], name, -0.005)
            path = save(tmp_path / "scan.dcm", with_regions(dicom(RGB, modality="US"), *side))
            facts = read_dicom(path).facts
            assert facts.mm_per_pixel == pytest.approx(0.05)
            assert facts.upwards == told


def test_pixels_that_are_not_square_are_made_so():
    made = read_dicom(content_of(with_regions(dicom(RGB, modality="US"), region(PhysicalDeltaY=0.0025))))
    assert made.pixels.shape == (16, 32, 3)
    assert made.facts.mm_per_pixel == pytest.approx(0.05)
    made = read_dicom(content_of(dicom(RGB, PixelAspectRatio=["2", "1"])))
    assert made.pixels.shape == (40, 24, 3)
    assert made.facts.mm_per_pixel is None


@pytest.mark.parametrize(
    ("modality", "elements", "scale"),
    [
        ("US", {}, 0.2),
        ("XC", {}, None),
        ("OT", {}, None),
        ("XC", {"PixelSpacingCalibrationType": "FIDUCIAL"}, 0.2),
        ("US", {"PixelSpacing": [0.0, 0.0]}, None),
        ("US", {"PixelSpacing": [20, 20]}, None),
    ],
)
def test_pixel_spacing_counts_where_it_is_meant(modality, elements, scale):
    ds = dicom(RGB, modality=modality, **{"PixelSpacing": [0.2, 0.2], **elements})
    assert read_dicom(content_of(ds)).facts.mm_per_pixel == scale


@pytest.mark.parametrize(("said", "known"), [("YES", True), ("NO", False), (None, None), ("PERHAPS", None)])
def test_burned_in_text(said, known):
    ds = dicom(RGB) if said is None else dicom(RGB, BurnedInAnnotation=said)
    assert read_dicom(content_of(ds)).facts.burned_in is known


@pytest.mark.parametrize(
    ("modality", "kind", "captured"),
    [
        ("US", "ultrasound", False), ("XC", "photo", False), ("OT", "photo", True), ("DMS", "dermoscopy", True),
        ("CT", "other", True),
    ],
)  # fmt: skip
def test_kinds(modality, kind, captured):
    made = read_dicom(content_of(dicom(RGB, modality=modality)))
    assert (made.facts.kind, made.facts.captured) == (kind, captured)


ANNA = {"PatientID": "0", "PatientName": "Muster^Anna", "PatientBirthDate": "19500101"}
LATIN, UTF_8 = {"SpecificCharacterSet": "ISO_IR 100"}, {"SpecificCharacterSet": "ISO_IR 192"}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (ANNA, {**ANNA, "PatientName": "Smith^John", "PatientBirthDate": "19990101"}, False),
        (ANNA, {**ANNA, "PatientName": "Meier^Anna"}, True),  # a married name
        (ANNA, {**ANNA, "PatientName": "MUSTER ^A", "PatientBirthDate": ""}, True),
        (ANNA, {**ANNA, "PatientName": "Smith^John", "PatientBirthDate": None}, False),
        (ANNA, {**ANNA, "PatientID": "", "PatientBirthDate": "19990101"}, False),
        ({"PatientID": ""}, {"PatientID": "", "PatientName": "Smith^John", "PatientBirthDate": None}, False),
        (ANNA, {"PatientID": "0", "PatientName": None, "PatientBirthDate": None}, True),
        (ANNA, {**ANNA, "PatientID": "1"}, False),
        ({**LATIN, "PatientName": "Müller^J"}, {**UTF_8, "PatientName": "MULLER=穆勒", "PatientBirthDate": ""}, True),
        ({**LATIN, "PatientName": "Möller"}, {**UTF_8, "PatientName": "Müller", "PatientBirthDate": ""}, False),
        ({**LATIN, "PatientName": "Öz"}, {"PatientName": "Smith", "PatientBirthDate": "", **UTF_8}, False),
    ],
)
def test_what_two_files_say_of_their_patient_is_held_together(one, other, same):
    first, second = (read_dicom(content_of(dicom(RGB, **values))).facts.patient for values in (one, other))
    assert first.may_be(second) == second.may_be(first) == same


@pytest.mark.parametrize("letters", ["ISO_IR 999", "\\ISO 2022 IR 87", "", "punycode"])
def test_a_name_in_letters_that_are_not_known_says_nothing(letters):
    content = content_of(dicom(RGB, PatientName="AAAA^B", PatientBirthDate="", SpecificCharacterSet="ISO_IR 100"))
    said = letters.encode().ljust(16)
    content = content.replace(b"CS\x0a\0ISO_IR 100", b"CS\x10\0" + said).replace(b"AAAA", b"\xfc\xe9\xff\x80")
    assert read_dicom(content).facts.patient.family == b""


def test_a_frame_is_fitted_by_the_files_own_scale_and_none_that_contradicts_it(tmp_path):
    path = save(tmp_path / "a.dcm", with_regions(dicom(RGB, modality="US"), region()))
    spec = ViewSpec("ultrasound", (32, 32), mm_per_pixel=0.1)
    assert not read_frame(path, spec).pixels[17:].any()  # 32 pixels of 0.05 mm are 16 of 0.1 mm
    assert not read_frame(path, spec, mm_per_pixel=0.054).pixels[18:].any()
    for wrong in (0.1, 0.025):
        with pytest.raises(CodedImageError, match="the scale is given") as error:
            read_frame(path, spec, mm_per_pixel=wrong)
        assert error.value.cause == "two-scales"


def test_without_pydicom_the_remedy_is_said(monkeypatch):
    monkeypatch.setattr("agfnet.data.dicom.find_spec", lambda _: None)
    with pytest.raises(CodedImageError, match=r"pip install 'agfnet\[dicom\]'"):
        read_image(content_of(dicom(RGB)))


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_malformed_is_an_error_with_its_cause(name, tmp_path, caplog, capfd):
    cause, make = MALFORMED[name]
    path = tmp_path / "a.dcm"
    path.write_bytes(make())
    with pytest.raises(CodedImageError) as caught:
        read_dicom(path, limits=TINY)
    said = str(caught.value)
    assert caught.value.cause == cause, said
    assert said.startswith(f"{path}: ")
    assert said.endswith(caught.value.remedy)
    assert "\n" not in said
    printed = capfd.readouterr()
    assert PLANTED not in said + caplog.text + printed.out + printed.err
    assert "Traceback" not in caplog.text + printed.err
    if path.read_bytes()[128:132] == b"DICM":
        with pytest.raises(CodedImageError):
            read_image(path.read_bytes(), limits=TINY)


def test_no_text_of_the_file_comes_out(caplog, capfd, recwarn):
    """A name in every text element, also in place of a code or a number: no result, message, log or warning has it."""
    caplog.set_level(logging.DEBUG)
    content = content_of(with_regions(dicom(RGB, modality="US"), region()))
    said = [repr(read_dicom(content))]
    place = 132
    rest = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True)
    planted = 0
    for found in [*rest.file_meta, *rest]:
        if found.VR in {"SQ", "US", "UL", "OB", "FD"}:
            continue
        name = PLANTED.encode()
        raw = struct.pack("<HH2s", found.tag.group, found.tag.element, found.VR.encode())
        place = content.index(raw)
        length = struct.unpack_from("<H", content, place + 6)[0]
        spoilt = content[: place + 6] + struct.pack("<H", len(name)) + name + content[place + 8 + length :]
        try:
            said.append(repr(read_dicom(spoilt)))
        except ImageError as error:
            said.append(str(error))
        planted += 1
    assert planted > 20
    printed = capfd.readouterr()
    warned = " ".join(str(w.message) for w in recwarn)
    assert PLANTED not in " ".join(said) + caplog.text + printed.out + printed.err + warned


def test_a_failed_decoding_leaves_pydicoms_log_to_others(caplog):
    with pytest.raises(ImageError, match="cannot be decoded"):
        read_dicom(as_rle(RLE_HEADER + b"\x81\0" * 3))
    assert not caplog.records
    logging.getLogger("pydicom").warning("theirs")
    assert [r.message for r in caplog.records] == ["theirs"]


SEEDS = [
    GOOD,
    content_of(with_regions(dicom(RGB, modality="US"), region())),
    content_of(as_jpeg()),
    content_of(palette(8)),
    content_of(dicom(WIDE, "MONOCHROME1", WindowCenter=300, WindowWidth=900)),
]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    content = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(132, min(len(content) - 1, 1500)))
        content[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=6))
    return bytes(content[: draw(st.integers(1, len(content)))]) if draw(st.booleans()) else bytes(content)


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(deadline=None, max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=damaged())
def test_any_damage_gives_pixels_or_an_image_error(content):
    try:
        pixels = read_image(content, limits=ImageLimits(max_pixels=1_000_000))
    except ImageError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.shape[2:] == (3,)


def test_nested_sequences_are_stepped_over():
    inner = Dataset()
    inner.PatientName = PLANTED
    for _ in range(10):
        outer = Dataset()
        outer.RequestAttributesSequence = Sequence([inner])
        inner = outer
    ds = dicom(RGB)
    ds.RequestAttributesSequence = Sequence([inner])
    ds["RequestAttributesSequence"].is_undefined_length = True
    np.testing.assert_array_equal(read_image(content_of(ds)), RGB)


def test_missing_file(tmp_path: Path):
    with pytest.raises(ImageError, match="no such file"):
        read_dicom(tmp_path / "a.dcm")


def test_a_name_of_very_many_accents_keeps_nothing_busy():
    """They are put in order one by one, which took minutes; a name that is too long is as good as its beginning."""
    name = ("\u0301" * 65_000 + "\u0323" * 65_000).encode()
    began = time.monotonic()
    assert family_name({0x00100010: name, CHARACTER_SET: b"ISO_IR 192"}, 0x00100010) == ""
    assert time.monotonic() - began < 1.0
