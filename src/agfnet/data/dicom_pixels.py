"""One frame of a DICOM image as 8-bit RGB (DICOM PS3.3 C.7.6.3 and C.11, PS3.5 section 8).

The header has been walked by `agfnet.data.dicom_header`; pydicom and its plug-ins see only the bytes of the one frame
and the numbers that describe it.
"""

from __future__ import annotations

import logging
import struct
import threading
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agfnet.data.codestream import coding_of, with_colours
from agfnet.data.dicom_header import (
    DEFLATED,
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    Header,
    HeaderFault,
    check_fragments,
    decimals,
    numbers,
    text,
)

MAX_FRAMES = 20_000
"""Over ten minutes at 30 frames a second; more than that is no clip of a lesion, or a damaged number."""
NATIVE = (IMPLICIT_LITTLE, EXPLICIT_LITTLE, DEFLATED, EXPLICIT_BIG)
_RLE = "1.2.840.10008.1.2.5"
_BASELINE, _EXTENDED = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"
_COMPRESSED = {
    _BASELINE: "JPEG baseline",
    _EXTENDED: "JPEG extended",
    "1.2.840.10008.1.2.4.57": "lossless JPEG",
    "1.2.840.10008.1.2.4.70": "lossless JPEG",
    "1.2.840.10008.1.2.4.80": "JPEG-LS",
    "1.2.840.10008.1.2.4.81": "JPEG-LS",
    "1.2.840.10008.1.2.4.90": "JPEG 2000",
    "1.2.840.10008.1.2.4.91": "JPEG 2000",
    "1.2.840.10008.1.2.4.201": "high-throughput JPEG 2000",
    "1.2.840.10008.1.2.4.202": "high-throughput JPEG 2000",
    "1.2.840.10008.1.2.4.203": "high-throughput JPEG 2000",
    _RLE: "RLE",
}
_GREY = ("MONOCHROME1", "MONOCHROME2")
_SAMPLES = {
    **dict.fromkeys((*_GREY, "PALETTE COLOR"), 1),
    **dict.fromkeys(("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"), 3),
}
SAMPLES, PHOTOMETRIC, PLANAR, FRAMES, ROWS, COLUMNS = (
    0x00280002, 0x00280004, 0x00280006, 0x00280008, 0x00280010, 0x00280011
)  # fmt: skip
ALLOCATED, STORED, HIGH_BIT, SIGNED = 0x00280100, 0x00280101, 0x00280102, 0x00280103
CENTRE, WIDTH, INTERCEPT, SLOPE, WINDOW_FUNCTION = 0x00281050, 0x00281051, 0x00281052, 0x00281053, 0x00281056
_PALETTE = ((0x00281101, 0x00281201), (0x00281102, 0x00281202), (0x00281103, 0x00281203))
PIXEL_TAGS = frozenset(
    {SAMPLES, PHOTOMETRIC, PLANAR, FRAMES, ROWS, COLUMNS, ALLOCATED, STORED, HIGH_BIT, SIGNED}
    | {CENTRE, WIDTH, INTERCEPT, SLOPE, WINDOW_FUNCTION}
    | {tag for pair in _PALETTE for tag in pair}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How pixels are stored; every value is one that is supported.

    Attributes:
        rows, columns: of a frame.
        frames: their number.
        photometric: the photometric interpretation.
        samples: a pixel's, 1 or 3.
        allocated: bits of a sample, 8 or 16.
        stored: of them used.
        signed: whether samples are.
        planar: whether each colour has a plane of its own.
    """

    rows: int
    columns: int
    frames: int
    photometric: str
    samples: int
    allocated: int
    stored: int
    signed: bool
    planar: bool

    @property
    def frame_bytes(self) -> int:
        """Length of an uncompressed frame."""
        # 4:2:2 shares the two colour samples between two pixels.
        samples = 2 if self.photometric == "YBR_FULL_422" else self.samples
        return self.rows * self.columns * samples * self.allocated // 8


def read_layout(header: Header) -> Layout:
    """Check what the header says of its pixels.

    Raises:
        HeaderFault: there are no pixels, or none that can be read.
    """
    if header.syntax not in (*NATIVE, *_COMPRESSED):
        kind = "video" if header.syntax.startswith("1.2.840.10008.1.2.4.10") else "in a transfer syntax of another kind"
        raise HeaderFault("unsupported-dicom", f"its pixels are {kind}, which is not read")
    if header.pixels_at is None:
        raise HeaderFault("no-pixels", "it holds no pixel data")
    photometric = text(header.values.get(PHOTOMETRIC, b""))
    if photometric not in _SAMPLES:
        raise HeaderFault("unsupported-dicom", "its photometric interpretation is not known")
    allocated = _whole(header, ALLOCATED)
    layout = Layout(
        rows=_whole(header, ROWS),
        columns=_whole(header, COLUMNS),
        frames=_frames(header),
        photometric=photometric,
        samples=_whole(header, SAMPLES),
        allocated=allocated,
        stored=_whole(header, STORED, allocated),
        signed=_whole(header, SIGNED, 0) == 1,
        planar=_whole(header, PLANAR, 0) == 1,
    )
    if layout.rows == 0 or layout.columns == 0:
        raise HeaderFault("no-pixels", "its images have no rows or no columns")
    if layout.samples != _SAMPLES[photometric]:
        raise HeaderFault("unreadable-image", f"{photometric} does not go with {layout.samples} samples a pixel")
    if allocated not in {8, 16} or not 1 <= layout.stored <= allocated:
        problem = f"samples of {layout.stored} bits in {allocated} are not read"
        raise HeaderFault("unsupported-dicom", problem)
    if _whole(header, HIGH_BIT, layout.stored - 1) != layout.stored - 1:
        raise HeaderFault("unsupported-dicom", "its samples do not fill the low bits")
    if layout.signed and photometric not in _GREY:
        raise HeaderFault("unsupported-dicom", "its colours have a sign")
    return layout


def _whole(header: Header, tag: int, absent: int | None = None) -> int:
    found = numbers(header.values, tag, header.order, "H")
    if found:
        return int(found[0])
    if absent is None:
        raise HeaderFault("unreadable-image", f"({tag >> 16:04X},{tag & 0xFFFF:04X}), which describes it, is missing")
    return absent


def _frames(header: Header) -> int:
    count = next(iter(decimals(header.values, FRAMES)), 1.0)
    if not 1.0 <= count < float("inf") or count != int(count):
        raise HeaderFault("no-pixels", "its number of frames is none")
    if count > MAX_FRAMES:
        raise HeaderFault("oversized-image", f"it has more than {MAX_FRAMES:,} frames")
    return int(count)


def decode_frame(header: Header, layout: Layout, index: int) -> NDArray[np.uint8]:
    """Decode one frame, and no other.

    Grey values go through the first window that the file gives, on rescaled values; without one, the full range that
    the stored bits can hold becomes 0 to 255, and 16 bits of which 12 are used are refused, as of other formats. Of a
    palette's or a colour's 16 bits the high byte is kept.

    Args:
        header: with the place of the pixel data.
        layout: of `read_layout`.
        index: of the frame, from 0.

    Returns:
        (rows, columns, 3) uint8.

    Raises:
        HeaderFault: it cannot be decoded.
    """
    stored = _stored(header, layout, index)
    if layout.photometric in _GREY:
        grey = _shown(header, layout, stored)
        if layout.photometric == "MONOCHROME1":
            grey = 255 - grey
        return np.repeat(grey[..., None], 3, axis=2)
    if layout.photometric == "PALETTE COLOR":
        return _coloured(header, stored)
    return _eight_bits(stored, layout.stored)


_IMPORTING = threading.Lock()
"""Two threads that import parts of pydicom for the first time may each find the other's half done."""


def _stored(header: Header, layout: Layout, index: int) -> NDArray[Any]:
    """The frame's samples (rows, columns[, 3]) as stored; colours as RGB."""
    with _IMPORTING:
        from pydicom.encaps import encapsulate  # noqa: PLC0415 - the bare install does without
        from pydicom.pixels.decoders.base import get_decoder  # noqa: PLC0415
        from pydicom.uid import UID  # noqa: PLC0415

    native = header.syntax in NATIVE
    decoder = get_decoder(UID(header.syntax))
    plugin = _plugin(header, layout)
    if not decoder.is_available or (plugin and plugin not in decoder.available_plugins):
        kind = f"{layout.stored}-bit {_COMPRESSED[header.syntax]}" if plugin else _COMPRESSED[header.syntax]
        raise HeaderFault("unsupported-dicom", f"no decoder of {kind} is installed")
    data = _native_bytes(header, layout, index) if native else encapsulate([_codestream(header, layout, index)])
    options: dict[str, Any] = {
        "rows": layout.rows, "columns": layout.columns, "samples_per_pixel": layout.samples, "number_of_frames": 1,
        "bits_allocated": layout.allocated, "bits_stored": layout.stored, "pixel_representation": int(layout.signed),
        "photometric_interpretation": "RGB" if _told_colours(header, layout) else layout.photometric,
        "pixel_keyword": "PixelData", "pixel_vr": "OW", "decoding_plugin": plugin,
    }  # fmt: skip
    if layout.samples > 1:
        # What is compressed comes colour by pixel, whatever the header says, or else the plug-in says so.
        options["planar_configuration"] = int(layout.planar and native)
    with _HUSH:
        logging.getLogger("pydicom.pixels.decoders.base").addFilter(_HUSH)
        try:
            pixels = decoder.as_array(data, index=0, **options)[0]
        except Exception as error:  # whatever a plug-in makes of a damaged frame
            kind = "pixel data" if native else f"{_COMPRESSED[header.syntax]} frame"
            raise HeaderFault("unreadable-image", f"its {kind} cannot be decoded") from error
    shape = (layout.rows, layout.columns, 3)[: 3 if layout.samples == 3 else 2]
    if pixels.shape != shape:
        raise HeaderFault("unreadable-image", "its pixel data is of another size than its header says")
    return np.asarray(pixels)


def _plugin(header: Header, layout: Layout) -> str:
    """The decoder to use where there may be several; empty: any.

    Of RLE the faster one panics on damaged segments, which is no exception that can be told from an interrupt. JPEG of
    8 bits is decoded alike whatever else is installed; of more bits one alone can.
    """
    if header.syntax == _RLE:
        return "pydicom"
    if header.syntax in (_BASELINE, _EXTENDED):
        return "pillow" if layout.allocated == 8 else "pylibjpeg"
    return ""


def _told_colours(header: Header, layout: Layout) -> bool:
    """Whether the decoder is told by the codestream how colours are stored, and gives RGB."""
    return _plugin(header, layout) == "pillow" and layout.samples == 3


class _Hush(logging.Filter):
    """Keeps pydicom's log of a failed decoding, which is a traceback, out of the threads that decode here."""

    def __init__(self) -> None:
        super().__init__()
        self._here = threading.local()

    def __enter__(self) -> None:
        self._here.busy = True

    def __exit__(self, *_: object) -> None:
        self._here.busy = False

    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002 - the base class says what is given
        return not getattr(self._here, "busy", False)


_HUSH = _Hush()


def _native_bytes(header: Header, layout: Layout, index: int) -> bytes:
    if header.pixels_at is None or header.pixels_length is None:
        raise HeaderFault("unreadable-image", "its uncompressed pixel data has no length")
    if header.order == ">" and layout.allocated == 8:
        raise HeaderFault("unsupported-dicom", "its bytes are in big-endian words, which is not read")
    size = header.stream.seek(0, 2)
    wanted = layout.frame_bytes * layout.frames
    if header.pixels_length < wanted or header.pixels_at + wanted > size:
        raise HeaderFault("truncated-image", "its pixel data is shorter than its header says")
    if layout.photometric == "YBR_FULL_422" and header.pixels_length >= wanted // 2 * 3:
        # What some converters leave of a JPEG: all samples of each pixel, under the name that they had in it.
        raise HeaderFault("unreadable-image", "its colours are not sampled as its photometric interpretation says")
    header.stream.seek(header.pixels_at + layout.frame_bytes * index)
    return header.stream.read(layout.frame_bytes)


def _codestream(header: Header, layout: Layout, index: int) -> bytes:
    """The compressed bytes of a frame, once they are known not to unpack to more than the header says."""
    from pydicom.encaps import get_frame  # noqa: PLC0415

    if header.pixels_at is None or header.pixels_length is not None:
        raise HeaderFault("unreadable-image", "its compressed pixel data is not encapsulated")
    if check_fragments(header) < layout.frames:
        raise HeaderFault("truncated-image", "it has fewer frames than its header says")
    header.stream.seek(header.pixels_at)
    try:
        data = get_frame(header.stream, index, number_of_frames=layout.frames)
    except Exception as error:  # an offset table that leads nowhere
        raise HeaderFault("unreadable-image", "its frames cannot be told apart") from error
    if header.syntax == _RLE:
        if not _rle_fits(data, layout):
            raise HeaderFault("unreadable-image", "its compressed frame is damaged, or unpacks to more than it says")
        return data
    said = coding_of(data)
    # Some writers code all the allocated bits; of fewer than are stored the picture would be black.
    if (
        said is None
        or (said.rows, said.columns, said.samples) != (layout.rows, layout.columns, layout.samples)
        or not layout.stored <= said.bits <= layout.allocated
    ):
        raise HeaderFault(
            "unreadable-image", "its compressed frame is damaged, or of another size or depth than its header says"
        )
    if (said.rgb and layout.photometric in {"YBR_FULL", "YBR_FULL_422"}) or (said.ybr and layout.photometric == "RGB"):
        raise HeaderFault("unreadable-image", "its compressed frame and its header differ in how colours are stored")
    if not said.whole or not data.rstrip(b"\0\xff").endswith(b"\xff\xd9"):
        # Decoders fill up what is missing in silence.
        raise HeaderFault("truncated-image", "its compressed frame ends too early, or lacks a part")
    if _told_colours(header, layout):
        # One marker that says it: decoders believe several things, some of them only if another is not there.
        return with_colours(data, said.colours or ("RGB" if layout.photometric == "RGB" else "YBR"))
    return data[said.start :]


def _rle_fits(data: bytes, layout: Layout) -> bool:
    """Whether the segments of an RLE frame (PS3.5 annex G) unpack to no more than a plane each, a little apart."""
    if len(data) < 64:
        return False
    count, *starts = struct.unpack_from("<16I", data)
    if count != layout.samples * layout.allocated // 8:
        return False
    bounds = [*starts[:count], len(data)]
    most = layout.rows * layout.columns + 128  # some writers pad a segment with a last run
    for start, end in pairwise(bounds):
        place, unpacked = start, 0
        # A control byte that unpacks to nothing counts as well: a segment has no reason to be full of them.
        while place < min(end, len(data)) and unpacked <= most and place - start <= 2 * most:
            control = data[place]
            unpacked += control + 1 if control < 128 else 257 - control if control > 128 else 0
            place += control + 2 if control < 128 else 2 if control > 128 else 1
        if not 64 <= start <= end or unpacked > most or place - start > 2 * most:
            return False
    return True


def _shown(header: Header, layout: Layout, stored: NDArray[Any]) -> NDArray[np.uint8]:
    """Grey values as 0 to 255: the window on rescaled values, or else the full range."""
    slope = next(iter(decimals(header.values, SLOPE)), 1.0)
    intercept = next(iter(decimals(header.values, INTERCEPT)), 0.0)
    centre, width = (next(iter(decimals(header.values, tag)), None) for tag in (CENTRE, WIDTH))
    if not np.isfinite([slope, intercept, centre or 0.0, width or 0.0]).all() or slope == 0.0:
        raise HeaderFault("unreadable-image", "its rescaling or its window is no number")
    if centre is None or width is None:
        lowest = 2 ** (layout.stored - 1) if layout.signed else 0
        used = (-(2**11), 2**11) if layout.signed else (0, 2**12)
        if layout.stored == 16 and used[0] <= stored.min() and stored.max() < used[1]:
            problem = "its 16-bit samples use 12 bits at most and have no window: they would be shown nearly even"
            raise HeaderFault("unsupported-dicom", problem)
        grey = _eight_bits(stored.astype(np.int32) + lowest, layout.stored)
        return grey if slope > 0.0 else 255 - grey
    function = text(header.values.get(WINDOW_FUNCTION, b"")) or "LINEAR"
    if function not in {"LINEAR", "LINEAR_EXACT", "SIGMOID"} or width < (1.0 if function == "LINEAR" else 1e-6):
        raise HeaderFault("unreadable-image", "its window is none that the standard knows")
    values = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    if function == "SIGMOID":
        share = 1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - centre) / width, -80.0, 80.0)))
    elif function == "LINEAR_EXACT":
        share = (values - centre) / width + 0.5
    else:  # PS3.3 C.11.2.1.2.1; a width of 1 is a threshold
        share = (values - (centre - 0.5)) / max(width - 1.0, 1e-6) + 0.5
    return np.rint(255.0 * np.clip(share, 0.0, 1.0)).astype(np.uint8)


def _eight_bits(values: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Values of some bits as 0 to 255 over the full range; of more than 8 bits the high byte."""
    if bits >= 8:
        return (values >> (bits - 8)).astype(np.uint8)
    return (values.astype(np.uint16) * 255 // (2**bits - 1)).astype(np.uint8)


def _coloured(header: Header, stored: NDArray[Any]) -> NDArray[np.uint8]:
    """Palette colours (rows, columns, 3); a value outside the palette has its nearest entry's."""
    tables = []
    for description, content in _PALETTE:
        found = numbers(header.values, description, header.order, "H")
        data = header.values.get(content, b"")
        if len(found) != 3 or not data:
            raise HeaderFault("unreadable-image", "its palette is missing")
        entries, first, bits = (int(n) for n in found)
        entries = entries or 2**16  # which does not fit its field
        wide = len(data) >= 2 * entries  # entries of 8 bits come in bytes or in words
        if bits not in {8, 16} or len(data) < entries * (2 if bits == 16 else 1):
            raise HeaderFault("unreadable-image", "its palette is shorter than it says, or of other than 8 or 16 bits")
        kind = np.dtype(f"{header.order}u2" if wide else "u1")
        table = np.frombuffer(data, kind, count=entries).astype(np.uint16)
        tables.append((table, first, bits))
    # Some writers state 16 bits and give 8, or the other way round: black, or any colour, where there is a picture.
    largest = max(int(table.max()) for table, _, _ in tables)
    if any((bits == 16) != (largest > 255) for _, _, bits in tables):
        raise HeaderFault("unreadable-image", "its palette has other bits than it says")
    places = [np.clip(stored.astype(np.int32) - first, 0, len(table) - 1) for table, first, _ in tables]
    return np.stack([_eight_bits(t[place], bits) for (t, _, bits), place in zip(tables, places, strict=True)], axis=-1)
