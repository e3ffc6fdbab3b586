"""What a compressed image says of itself, walked without decoding.

JPEG (ITU-T T.81 annex B), JPEG-LS (T.87 annex C) and JPEG 2000 (T.800 annex A).
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

MAX_SCANS = 100
"""A progressive image has about ten. A decoder goes over the whole image for each, and a scan may be empty."""
_MARKER = re.compile(rb"\xff([\x80-\xcf\xd8-\xfe])")  # not `\xff+`, which is slow on a long run of them
_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_SCAN, _END = 0xDA, 0xD9
_JPEG_2000 = b"\xff\x4f\xff\x51"


class JpegHead(NamedTuple):
    """What was found.

    Attributes:
        rows, columns: of the image.
        bits: of a sample.
        scans: how many; 0 where there is nothing to see, which a decoder need not mind.
    """

    rows: int
    columns: int
    bits: int
    scans: int


def has_many_scans(data: bytes) -> bool:
    """Whether a file that begins as a JPEG has over `MAX_SCANS` scans, or may have them."""
    if data.count(b"\xff\xda") <= MAX_SCANS:  # which is soon said of nearly all
        return False
    head = walk_jpeg(data)
    return head is None or head.scans > MAX_SCANS


def walk_jpeg(data: bytes) -> JpegHead | None:
    """Walk a codestream's markers up to its end; None where it is none, or garbled.

    The picture in a picture (a thumbnail in a segment) is stepped over, and so is what follows the end.
    """
    if data[:2] != b"\xff\xd8":
        return None
    place, scans, frame = 2, 0, None
    while (found := _MARKER.search(data, place)) is not None:  # what is between segments decoders step over, too
        marker, place = found[1][0], found.end()
        if marker == _END:
            break
        segment = data[place : place + 8]
        if len(segment) < 8:
            break
        length, bits, rows, columns = struct.unpack(">HBHH", segment[:7])
        place += length
        if marker in _FRAMES:
            frame = rows, columns, bits
        if marker == _SCAN:
            scans += 1
    return None if frame is None else JpegHead(*frame, scans)


class Coded(NamedTuple):
    """What a compressed frame says of itself.

    Attributes:
        rows, columns: of the image.
        bits: of a sample.
        rgb: it says that its colours become RGB in decoding, whatever the header says; False where it does not say.
    """

    rows: int
    columns: int
    bits: int
    rgb: bool = False


def coding_of(data: bytes) -> Coded | None:
    """What a JPEG, JPEG-LS or JPEG 2000 codestream says; None where it is none, or has no scan or too many."""
    # Some writers leave JPEG 2000 in its file format, where boxes stand before the codestream.
    start = data[:4096].find(_JPEG_2000) if data[4:8] == b"jP  " else 0
    if start >= 0 and data[start : start + 4] == _JPEG_2000:
        return _coded_2000(data, start)
    head = walk_jpeg(data)
    return Coded(head.rows, head.columns, head.bits) if head and 1 <= head.scans <= MAX_SCANS else None


def _coded_2000(data: bytes, start: int) -> Coded | None:
    """Of a JPEG 2000 codestream's main header (ITU-T T.800 annex A): the sizes, and the component transform."""
    try:
        right, low, left, top = struct.unpack_from(">4I", data, start + 8)
        (bits,) = struct.unpack_from("B", data, start + 42)
        place = start + 2
        while True:
            marker, length = struct.unpack_from(">HH", data, place)
            if marker == 0xFF52:
                return Coded(low - top, right - left, (bits & 0x7F) + 1, rgb=data[place + 8] == 1)
            if marker == 0xFF90 or marker < 0xFF00:
                return None
            place += 2 + length
    except (struct.error, IndexError):
        return None
