"""What a compressed image says of itself, walked without decoding.

JPEG (ITU-T T.81 annex B), JPEG-LS (T.87 annex C) and JPEG 2000 (T.800 annex A).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_SCANS = 100
"""A progressive image has about ten. A decoder goes over the whole image for each, and a scan may be empty."""
MAX_SEGMENTS = 10_000
"""Before a scan there are some dozens. Decoders go through them one by one, and a segment may be empty."""
_MARKER = re.compile(rb"\xff([\x80-\xcf\xd8-\xfe])")  # not `\xff+`, which is slow on a long run of them
_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_SCAN, _END = 0xDA, 0xD9
_JFIF, _ADOBE = (0xE0, b"JFIF\0"), (0xEE, b"Adobe")
_RGB_IDS = (b"RGB", b"rgb")
_JPEG_2000 = b"\xff\x4f\xff\x51"
_COD, _COC, _SOT, _SOD = 0xFF52, 0xFF53, 0xFF90, 0xFF93
# Of JPEG 2000, where a few bytes of a header can ask for gigabytes: several times what an image of 100 megapixels has.
_MAX_TILES = 4096
_MAX_PACKETS = 250_000
_MAX_BLOCKS = 1_000_000
_MAX_LEVELS = 32
_MAX_SEGMENTS = 100_000
_MAX_STYLES = 64


class JpegHead(NamedTuple):
    """What was found.

    Attributes:
        rows, columns: of the image.
        bits: of a sample.
        samples: of a pixel.
        ids: of each component in turn, a byte that names it.
        sampling: the same, how often it is sampled across and down.
        scans: how many; 0 where there is nothing to see, which a decoder need not mind.
        marks: where the names of JFIF's and Adobe's markers stand, which say how colours are stored.
        colours: as which they are stored, RGB or YBR, where it says so.
    """

    rows: int
    columns: int
    bits: int
    samples: int
    ids: bytes
    sampling: bytes
    scans: int
    marks: tuple[int, ...]
    colours: str | None


def keeps_busy(data: bytes) -> bool:
    """Whether a file that begins as a JPEG has over `MAX_SCANS` scans or `MAX_SEGMENTS` segments, or may have them."""
    head = walk_jpeg(data)
    if head is None:
        return data.count(b"\xff\xda") > MAX_SCANS or data.count(b"\xff") > MAX_SEGMENTS
    return head.scans > MAX_SCANS


def walk_jpeg(data: bytes) -> JpegHead | None:
    """Walk a codestream's markers up to its end; None where it is none, garbled, or of over `MAX_SEGMENTS` segments.

    The picture in a picture (a thumbnail in a segment) is stepped over, and so is what follows the end.
    """
    if data[:2] != b"\xff\xd8":
        return None
    place, segments, scans, frame = 2, 0, 0, None
    marks: list[int] = []
    said: set[str] = set()
    while (found := _MARKER.search(data, place)) is not None:  # what is between segments decoders step over, too
        marker, place = found[1][0], found.end()
        segments += 1
        if segments > MAX_SEGMENTS:
            return None
        if marker == _END:
            break
        segment = data[place : place + 8]
        if len(segment) < 8:
            break
        length, bits, rows, columns, samples = struct.unpack(">HBHHB", segment)
        if marker in _FRAMES:
            content = data[place + 8 : place + 8 + 3 * samples]
            frame = rows, columns, bits, samples, content[::3], content[1::3]
        if (marker, segment[2:7]) in (_JFIF, _ADOBE):
            marks.append(place + 2)
            rgb = marker == _ADOBE[0] and data[place + 13 : place + 14] == b"\0"
            said.add("RGB" if rgb else "YBR")
        scans += marker == _SCAN
        place += length
    if frame is None:
        return None
    if frame[4] in _RGB_IDS:
        said = {"RGB"}
    colours = "YBR" if "YBR" in said else "RGB" if said else None  # decoders believe JFIF first
    return JpegHead(*frame, scans, tuple(marks), colours)


def with_colours(data: bytes, colours: str) -> bytes:
    """A JPEG codestream of three components that says how its colours are stored, RGB or YBR, and nothing else of it.

    Raises:
        ValueError: it is no such codestream.
    """
    head = walk_jpeg(data)
    if head is None:
        raise ValueError("no JPEG codestream")
    silent = bytearray(data)
    for place in head.marks:
        silent[place : place + 5] = bytes(5)
    marker = b"\xff\xee\0\x0eAdobe\0\x64" + bytes(4) + bytes([colours != "RGB"])
    return bytes(silent[:2] + marker + silent[2:])


class Coded(NamedTuple):
    """What a compressed frame says of itself.

    Attributes:
        rows, columns: of the image.
        bits: of a sample.
        samples: of a pixel.
        rgb: it says by a marker alone that its colours are, or become, RGB, whatever the header says.
        ybr: its colours are not RGB, and only the header can tell a decoder so.
        colours: as which those of a JPEG are stored, RGB or YBR, where it says so.
        start: where the codestream begins. What stands before it may ask a decoder for more than it says.
        whole: whether every part that it announces is there; True where it announces none.
    """

    rows: int
    columns: int
    bits: int
    samples: int
    rgb: bool = False
    ybr: bool = False
    colours: str | None = None
    start: int = 0
    whole: bool = True


def coding_of(data: bytes) -> Coded | None:
    """What a JPEG, JPEG-LS or JPEG 2000 codestream says; None where it is none, or would keep a decoder too busy."""
    # Some writers leave JPEG 2000 in its file format, where boxes stand before the codestream.
    start = data[:4096].find(_JPEG_2000) if data[4:8] == b"jP  " else 0
    if start >= 0 and data[start : start + 4] == _JPEG_2000:
        return _coded_2000(data, start)
    head = walk_jpeg(data)
    if head is None or not 1 <= head.scans <= MAX_SCANS:
        return None
    # Only the two colours beside luminance are sampled less often.
    ybr = len(set(head.sampling)) > 1 and head.colours is None
    rgb = head.colours == "RGB" and head.ids not in _RGB_IDS
    return Coded(head.rows, head.columns, head.bits, head.samples, rgb=rgb, ybr=ybr, colours=head.colours)


class _Style(NamedTuple):
    """How components are coded: levels of decomposition, and exponents of block and, by resolution, precinct sizes."""

    levels: int
    block: tuple[int, int]
    precincts: bytes


@dataclass(slots=True)
class _Walked:
    """What the headers of a JPEG 2000 codestream say behind its sizes.

    Attributes:
        styles: every one that is stated, of the image, a tile or a component.
        layers: the most that are stated.
        transform: of the components into luminance and two colours.
        parts: tile -> how many of its parts are there.
        stated: tile -> how many there should be, where that is said.
    """

    styles: set[_Style] = field(default_factory=set)
    layers: int = 1
    transform: bool = False
    parts: dict[int, int] = field(default_factory=dict)
    stated: dict[int, int] = field(default_factory=dict)


def _coded_2000(data: bytes, start: int) -> Coded | None:
    """Of a JPEG 2000 codestream's headers (ITU-T T.800 annex A); None also where components differ from each other."""
    try:
        right, low, left, top, wide, high, x, y, samples = struct.unpack_from(">8IH", data, start + 8)
    except struct.error:
        return None
    content = data[start + 42 : start + 42 + 3 * samples]
    components = {content[i : i + 3] for i in range(0, len(content), 3)}
    if len(components) != 1 or len(content) < 3 * samples:
        return None
    if not (x <= left < min(x + wide, right) and y <= top < min(y + high, low)):
        return None
    bits, *steps = components.pop()
    across, down = -((x - right) // wide), -((y - low) // high)
    walked = _walk_2000(data, start + 2)
    if steps != [1, 1] or across * down > _MAX_TILES or walked is None or not walked.styles:
        return None
    columns = np.clip(x + wide * np.arange(across + 1), left, right)
    rows = np.clip(y + high * np.arange(down + 1), top, low)
    if any(_is_much(style, walked.layers, samples, columns, rows) for style in walked.styles):
        return None
    whole = walked.parts.keys() == set(range(across * down)) and all(
        walked.parts[tile] >= count for tile, count in walked.stated.items()
    )
    bits = (bits & 0x7F) + 1
    return Coded(low - top, right - left, bits, samples, rgb=walked.transform, start=start, whole=whole)


def _walk_2000(data: bytes, place: int) -> _Walked | None:
    """Walk the headers of a codestream, from its first segment to where its tile-parts end, or it is cut off.

    None where there are more segments or styles than any image has.
    """
    walked, tile, end = _Walked(), 0, len(data)
    for _ in range(_MAX_SEGMENTS):
        try:
            marker, length = struct.unpack_from(">HH", data, place)
            if marker == _SOD:
                if end > len(data):
                    return walked
                walked.parts[tile] = walked.parts.get(tile, 0) + 1
                place = end
                continue
            if marker == _SOT:
                tile, size, _, count = struct.unpack_from(">HIBB", data, place + 4)
                end = place + size if size else len(data)  # the last one may go as far as there is something
                walked.stated[tile] = max(walked.stated.get(tile, 0), count)
            elif marker == _COD:
                walked.transform |= data[place + 8] == 1
                walked.layers = max(walked.layers, *struct.unpack_from(">H", data, place + 6))
                walked.styles.add(_style(data[place + 4], data[place + 9 : place + 2 + length]))
            elif marker == _COC:
                walked.styles.add(_style(data[place + 5], data[place + 6 : place + 2 + length]))
        except (struct.error, IndexError):
            return walked
        if marker < 0xFF01 or len(walked.styles) > _MAX_STYLES:
            return None
        if marker == 0xFF00 | _END:
            return walked
        place += 2 + length
    return None


def _style(how: int, content: bytes) -> _Style:
    levels, block = content[0], (2 + (content[1] & 15), 2 + (content[2] & 15))
    # Where no sizes are given, a precinct is as large as can be.
    return _Style(levels, block, content[5:] if how & 1 else b"\xff" * (levels + 1))


def _is_much(style: _Style, layers: int, samples: int, columns: NDArray[np.int64], rows: NDArray[np.int64]) -> bool:
    """Whether a decoder would have to lay out more packets or blocks than any image has, or cannot at all.

    Args:
        style: of every component and tile.
        layers: how many.
        samples: how many components.
        columns: where tiles begin, and the last one ends.
        rows: the same.
    """
    if style.levels > _MAX_LEVELS or len(style.precincts) <= style.levels:
        return True
    packets = blocks = 0
    for resolution, sizes in enumerate(style.precincts[: style.levels + 1]):
        level, precinct = style.levels - resolution, (sizes & 15, sizes >> 4)
        packets += _cells((columns, rows), level, precinct)
        band = int(resolution > 0)  # above the lowest there are three, of half the size
        block = [max(0, min(b, p - band)) for b, p in zip(style.block, precinct, strict=True)]
        blocks += (1 + 2 * band) * _cells((columns, rows), level + band, block)
    return packets * samples * layers > _MAX_PACKETS or blocks * samples > _MAX_BLOCKS


def _cells(edges: Sequence[NDArray[np.int64]], level: int, powers: Sequence[int]) -> int:
    """How many cells of 2**power samples all tiles have at a level of decomposition (T.800 annex B.6 and B.7)."""
    count = 1
    for edge, power in zip(edges, powers, strict=True):
        at = -(-edge >> level)  # rounded up
        low, high = at[:-1], at[1:]
        count *= int(((-(-high >> power) - (low >> power)) * (high > low)).sum())
    return count
