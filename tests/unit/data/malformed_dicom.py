"""Malformed DICOM files, each with the cause that reading must name. Other tests import `MALFORMED`."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import numpy as np
import pydicom
from dicom_files import PLANTED, changed, content_of, dicom, jpeg, palette, region, smooth, with_regions
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    MPEG4HP41,
    JPEG2000Lossless,
    RLELossless,
)

from agfnet.data.imagefile import ImageLimits

RGB = smooth()
GREY = np.ascontiguousarray(RGB[..., 0])
WIDE = GREY.astype(np.uint16) * 257
GOOD = content_of(dicom(RGB))
TINY = ImageLimits(max_bytes=2**20, max_pixels=10_000)


def header(*elements: bytes, syntax: bytes = b"1.2.840.10008.1.2.1\0") -> bytes:
    meta = struct.pack("<HH2sH", 2, 16, b"UI", len(syntax)) + syntax
    return b"\0" * 128 + b"DICM" + meta + b"".join(elements)


def element(group: int, number: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    size = len(value) if length is None else length
    if vr in {b"OB", b"OW", b"SQ", b"UN"}:
        return struct.pack("<HH2sHI", group, number, vr, 0, size) + value
    return struct.pack("<HH2sH", group, number, vr, size) + value


def deflated(size: int) -> bytes:
    press = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = press.compress(element(0x0009, 0x1001, b"OB", b"\0" * size)) + press.flush()
    return header(body, syntax=b"1.2.840.10008.1.2.1.99")


def as_jpeg(**changes: object) -> Dataset:
    return changed(jpeg(dicom(RGB, "YBR_FULL_422"), RGB), **changes)


def encapsulated(content: bytes, **changes: object) -> bytes:
    """A JPEG file whose pixel data is this, whatever it is."""
    ds = as_jpeg(**changes)
    return content_of(ds).replace(ds.PixelData, content)


def as_rle(stream: bytes) -> bytes:
    ds = dicom(RGB)
    ds.compress(RLELossless)
    return content_of(ds).replace(ds.PixelData, encapsulate([stream]))


def codestream() -> bytes:
    return next(pydicom.encaps.generate_frames(as_jpeg().PixelData, number_of_frames=1))


RLE_HEADER = struct.pack("<16I", 3, 64, 66, 68, *[0] * 12)
NESTED = element(9, 0x1001, b"SQ", b"", 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, 0)


def regions_of(content: bytes, length: int = 0xFFFFFFFF) -> bytes:
    return header(element(0x18, 0x6011, b"SQ", content, length))


Made = Callable[[], bytes]
MALFORMED: dict[str, tuple[str, Made]] = {
    "cut in the preamble": ("not-an-image", lambda: GOOD[:100]),
    "nothing after the signature": ("unreadable-image", lambda: GOOD[:132]),
    "cut in the meta information": ("truncated-image", lambda: GOOD[:150]),
    "cut in the header": ("truncated-image", lambda: GOOD[: GOOD.index(b"RGB") + 1]),
    "cut in the pixels": ("truncated-image", lambda: GOOD[:-100]),
    "no transfer syntax": ("unreadable-image", lambda: header(syntax=b"")),
    "unknown transfer syntax": ("unsupported-dicom", lambda: header(syntax=b"1.2.3.4\0")),
    "video": ("unsupported-dicom", lambda: GOOD.replace(b"1.2.840.10008.1.2.1\0", MPEG4HP41.encode()[:20])),
    "header of garbage": ("unreadable-image", lambda: header(
        element(8, 0x60, b"CS", b"US"), b"\x08\0\x70\0\xff\xfe\x01\x02rest")),
    "no pixel data": ("no-pixels", lambda: content_of(dicom(RGB, PixelData=None))),
    "only a header": ("no-pixels", lambda: header(element(8, 0x60, b"CS", b"US"))),
    "all samples under a name of shared ones": ("unreadable-image", lambda: content_of(dicom(RGB, "YBR_FULL_422"))),
    "no rows": ("unreadable-image", lambda: content_of(dicom(RGB, Rows=None))),
    "zero rows": ("no-pixels", lambda: content_of(dicom(RGB, Rows=0))),
    "too many rows": ("truncated-image", lambda: content_of(dicom(RGB, Rows=41))),
    "huge rows and columns": ("oversized-image", lambda: content_of(dicom(RGB, Rows=65535, Columns=65535))),
    "three columns": ("too-small-image", lambda: content_of(dicom(RGB, Columns=3))),
    "a thread": ("extreme-aspect", lambda: content_of(dicom(smooth(rows=8, columns=400)))),
    "rows of three bytes": ("unreadable-image", lambda: GOOD.replace(
        element(0x28, 0x10, b"US", b"\x28\0"), element(0x28, 0x10, b"US", b"\x28\0\0"))),
    "zero frames": ("no-pixels", lambda: content_of(dicom(RGB, modality="US", NumberOfFrames=0) )),
    "absurdly many frames": ("oversized-image", lambda: content_of(changed(dicom(RGB), NumberOfFrames=2**31 - 1))),
    "frames that are not there": ("truncated-image", lambda: content_of(changed(dicom(RGB), NumberOfFrames=5))),
    "frames of another word": ("unreadable-image", lambda: header(
        element(0x28, 2, b"US", b"\3\0"), element(0x28, 4, b"CS", b"RGB "), element(0x28, 8, b"IS", b"many"),
        element(0x28, 0x10, b"US", b"\x08\0"), element(0x28, 0x11, b"US", b"\x08\0"),
        element(0x28, 0x100, b"US", b"\x08\0"), element(0x7FE0, 0x10, b"OB", b"\0" * 192))),
    "twelve bits allocated": ("unsupported-dicom", lambda: content_of(dicom(RGB, BitsAllocated=12))),
    "thirty-two bits": ("unsupported-dicom", lambda: content_of(dicom(RGB, BitsAllocated=32))),
    "no bits": ("unsupported-dicom", lambda: content_of(dicom(RGB, BitsStored=0))),
    "more bits stored than there are": ("unsupported-dicom", lambda: content_of(dicom(RGB, BitsStored=9))),
    "a shifted high bit": ("unsupported-dicom", lambda: content_of(
        dicom(WIDE, "MONOCHROME2", BitsStored=12, HighBit=15))),
    "four samples": ("unreadable-image", lambda: content_of(dicom(RGB, SamplesPerPixel=4))),
    "one sample of RGB": ("unreadable-image", lambda: content_of(dicom(RGB, SamplesPerPixel=1))),
    "signed colours": ("unsupported-dicom", lambda: content_of(dicom(RGB, PixelRepresentation=1))),
    "unknown photometric interpretation": ("unsupported-dicom", lambda: content_of(dicom(RGB, "HSV"))),
    "no photometric interpretation": ("unsupported-dicom", lambda: content_of(
        dicom(RGB, PhotometricInterpretation=None))),
    "palette missing": ("unreadable-image", lambda: content_of(dicom(GREY, "PALETTE COLOR"))),
    "palette too short": ("unreadable-image", lambda: content_of(palette(16, BluePaletteColorLookupTableData=b"\0\1"))),
    "palette of 16 bits with values of 8": ("unreadable-image", lambda: content_of(_misstated_palette(16))),
    "palette of 8 bits with values of 16": ("unreadable-image", lambda: content_of(_misstated_palette(8))),
    "palette of three bits": ("unreadable-image", lambda: content_of(
        palette(8, RedPaletteColorLookupTableDescriptor=[256, 0, 3]))),
    "palette far too long": ("unreadable-image", lambda: content_of(
        palette(16, RedPaletteColorLookupTableData=b"\0" * 400_000))),
    "window of no width": ("unreadable-image", lambda: content_of(
        dicom(GREY, "MONOCHROME2", WindowCenter=1, WindowWidth=0))),
    "twelve bits that are said to be sixteen": ("unsupported-dicom", lambda: content_of(
        dicom(WIDE >> 4, "MONOCHROME2"))),
    "twelve bits with a sign that are said to be sixteen": ("unsupported-dicom", lambda: content_of(
        dicom((WIDE >> 4).astype(np.int16) - 2048, "MONOCHROME2"))),
    "slope of nothing": ("unreadable-image", lambda: content_of(dicom(GREY, "MONOCHROME2", RescaleSlope=0))),
    "encapsulation of garbage": ("unreadable-image", lambda: encapsulated(b"garbage " * 50)),
    "encapsulation cut off": ("truncated-image", lambda: content_of(as_jpeg())[:-200]),
    "encapsulation without its end": ("truncated-image", lambda: content_of(as_jpeg())[:-8]),
    "encapsulation that is empty": ("truncated-image", lambda: encapsulated(ITEM)),
    "fragments without end": ("oversized-image", lambda: encapsulated(ITEM * 110_000)),
    "compressed pixels without encapsulation": ("unreadable-image", lambda: GOOD.replace(
        b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0")),
    "uncompressed pixels with encapsulation": ("unreadable-image", lambda: content_of(as_jpeg()).replace(
        b"1.2.840.10008.1.2.4.50", b"1.2.840.10008.1.2.1\0\0\0")),
    "a codestream of garbage": ("unreadable-image", lambda: encapsulated(encapsulate([b"\xff\xd8" + b"\x01" * 200]))),
    "a codestream of nothing": ("unreadable-image", lambda: encapsulated(encapsulate([b"\0\0"]))),
    "a codestream cut off": ("truncated-image", lambda: encapsulated(encapsulate([codestream()[:-400]]))),
    "a codestream without content": ("unreadable-image", lambda: encapsulated(
        encapsulate([codestream()[: codestream().index(b"\xff\xda")] + b"\xff\xd9"]))),
    "a codestream that unpacks to more": ("unreadable-image", lambda: content_of(
        jpeg(dicom(RGB, "YBR_FULL_422"), smooth(rows=90, columns=90)))),
    "JPEG 2000 of another size": ("unreadable-image", lambda: content_of(_j2k(dicom(RGB), Rows=20))),
    "JPEG 2000 of 8 bits under a header of 12": ("unreadable-image", lambda: content_of(_j2k(
        dicom(GREY, "MONOCHROME2"), BitsAllocated=16, BitsStored=12, HighBit=11))),
    "JPEG 2000 of RGB under a header of YBR": ("unreadable-image", lambda: content_of(_j2k(
        dicom(RGB, "YBR_RCT"), PhotometricInterpretation="YBR_FULL"))),
    "a codestream of very many scans": ("unreadable-image", lambda: encapsulated(encapsulate([
        codestream()[:-2] + codestream()[codestream().index(b"\xff\xda"):-2] * 100 + b"\xff\xd9"]))),
    "JPEG 2000 cut off": ("truncated-image", lambda: content_of(_j2k_cut())),
    "RLE of garbage": ("unreadable-image", lambda: as_rle(b"\7" * 200)),
    "RLE bomb": ("unreadable-image", lambda: as_rle(RLE_HEADER + b"\x81\0" * 50_000)),
    "RLE cut off": ("unreadable-image", lambda: as_rle(RLE_HEADER + b"\x81\0" * 3)),
    "deflated bomb": ("oversized-image", lambda: deflated(50 * 2**20)),
    "deflated garbage": ("unreadable-image", lambda: header(b"\xff" * 90, syntax=b"1.2.840.10008.1.2.1.99")),
    "deflated and cut off": ("truncated-image", lambda: deflated(2**16)[:-40]),
    "sequences nested without end": ("unreadable-image", lambda: header(NESTED * 5000)),
    "a sequence of very many items": ("oversized-image", lambda: header(
        element(9, 0x1001, b"SQ", ITEM * 120_000, 0xFFFFFFFF))),
    "a sequence without its end": ("truncated-image", lambda: header(NESTED)),
    "regions that are no items": ("unreadable-image", lambda: regions_of(b"\x08\0\x05\0CS\2\0ab")),
    "regions of very many items": ("oversized-image", lambda: regions_of(ITEM * 120_000)),
    "a region cut off": ("truncated-image", lambda: regions_of(
        struct.pack("<HHI", 0xFFFE, 0xE000, 90) + b"\x18\0\x12")),
    "a region of a wrong length": ("unreadable-image", lambda: content_of(
        with_regions(dicom(RGB, modality="US"), region())).replace(
        element(0x18, 0x6012, b"US", b"\1\0"), element(0x18, 0x6012, b"US", b"\1\0\0"))),
    "a value longer than the file": ("truncated-image", lambda: header(element(8, 0x60, b"CS", b"US", 60_000))),
    "a code of a megabyte": ("unreadable-image", lambda: header(element(0x28, 4, b"UN", b"A" * 900_000))),
    "a length of four gigabytes": ("truncated-image", lambda: header(element(9, 0x1002, b"OB", b"ab", 0xFFFFFFFE))),
    "spacing of a word": ("unreadable-image", lambda: content_of(dicom(RGB, modality="US")).replace(
        element(0x28, 0x10, b"US", b"\x28\0"),
        element(0x28, 0x10, b"US", b"\x28\0") + element(0x28, 0x30, b"DS", PLANTED.encode()))),
}  # fmt: skip


def _j2k(ds: Dataset, **changes: object) -> Dataset:
    ds.compress(JPEG2000Lossless)
    return changed(ds, **changes)


def _misstated_palette(bits: int) -> Dataset:
    ds = palette(24 - bits)
    for name in ("Red", "Green", "Blue"):
        data = np.frombuffer(ds[f"{name}PaletteColorLookupTableData"].value, np.uint8 if bits == 16 else np.uint16)
        setattr(ds, f"{name}PaletteColorLookupTableDescriptor", [256, 0, bits])
        setattr(ds, f"{name}PaletteColorLookupTableData", data.astype(np.uint16).tobytes())
    return ds


def _j2k_cut() -> Dataset:
    ds = dicom(RGB)
    ds.compress(JPEG2000Lossless)
    stream = next(pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=1))
    ds.PixelData = encapsulate([stream[:150]])
    return ds
