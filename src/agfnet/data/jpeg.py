"""What a JPEG or JPEG-LS codestream says of itself, walked without decoding (ITU-T T.81 annex B, T.87 annex C)."""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

MAX_SCANS = 100
"""A progressive image has about ten. A decoder goes over the whole image for each, and a scan may be empty."""
_MARKER = re.compile(rb"\xff([\x80-\xcf\xd8-\xfe])")  # not `\xff+`, which is slow on a long run of them
_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_SCAN, _END = 0xDA, 0xD9


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
