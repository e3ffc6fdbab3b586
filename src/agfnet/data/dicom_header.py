"""The few values of a DICOM file that its pixels need, as raw bytes, and where the pixels lie (DICOM PS3.5, PS3.10).

The file may be hostile and holds a patient's identifiers, so it is walked rather than loaded: what was not asked for is
stepped over unread, nothing is nested in memory, and what is counted has a limit. No message holds a value.
"""

from __future__ import annotations

import io
import re
import struct
import unicodedata
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, NamedTuple

IMPLICIT_LITTLE, EXPLICIT_LITTLE = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
DEFLATED, EXPLICIT_BIG = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
PIXEL_DATA = 0x7FE00010
CHARACTER_SET = 0x00080005
MAX_ELEMENTS = 100_000
MAX_DEPTH = 32
MAX_FRAGMENTS = 100_000
MAX_VALUE = 2**18  # a palette of 65,536 entries of 16 bits, twice over
_NAME_LETTERS = 256  # four times what a name may have: combining letters are put in order one by one
_TRANSFER_SYNTAX = 0x00020010
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_CODECS = {
    "": "ascii", "13": "shift_jis", "192": "utf-8", "203": "iso8859-15", "GB18030": "gb18030", "GBK": "gbk",
    **{f"{number}": f"iso_ir_{number}" for number in (6, 100, 101, 109, 110, 126, 127, 138, 144, 148, 166)},
}  # fmt: skip
"""Number of a character set of ISO, or its name, to Python's name."""
_LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}

Values = Mapping[int, bytes]


class HeaderFault(Exception):  # noqa: N818  it is a finding about the file, which the caller words as an `ImageError`
    """The file is no DICOM file that can be walked.

    Attributes:
        cause: the code of the `CodedImageError` that it becomes.
    """

    def __init__(self, cause: str, problem: str) -> None:
        super().__init__(problem)
        self.cause = cause


@dataclass(frozen=True, slots=True)
class Header:
    """What was found.

    Attributes:
        syntax: the transfer syntax.
        values: tag -> its value's bytes.
        items: tag of a sequence -> the values of each of its items.
        stream: what the pixels are read from: the file, or what was inflated from it.
        pixels_at: place of the pixel data's value in the stream, or None where there is none.
        pixels_length: its length in bytes, or None where it is encapsulated.
    """

    syntax: str
    stream: IO[bytes]
    values: Values = field(default_factory=dict)
    items: Mapping[int, list[Values]] = field(default_factory=dict)
    pixels_at: int | None = None
    pixels_length: int | None = None

    @property
    def order(self) -> str:
        """The byte order, as `struct` writes it."""
        return ">" if self.syntax == EXPLICIT_BIG else "<"


class _Element(NamedTuple):
    tag: int
    vr: bytes
    length: int


class _Walk:
    """A position in a stream of data elements."""

    def __init__(self, stream: IO[bytes], *, order: str, implicit: bool) -> None:
        self.stream = stream
        self.order = order
        self.implicit = implicit
        self.seen = 0
        start = stream.tell()
        self.size = stream.seek(0, io.SEEK_END)
        stream.seek(start)

    def exactly(self, count: int) -> bytes:
        found = self.stream.read(count)
        if len(found) < count:
            raise HeaderFault("truncated-image", "it ends within its header")
        return found

    def next(self) -> _Element | None:
        """The next element's tag, value representation and length; None at the end of the stream."""
        if self.stream.tell() == self.size:
            return None
        self.seen += 1
        if self.seen > MAX_ELEMENTS:
            raise HeaderFault("oversized-image", f"its header has more than {MAX_ELEMENTS:,} elements")
        head = self.exactly(8)
        group, element = struct.unpack(f"{self.order}HH", head[:4])
        tag = group << 16 | element
        if self.implicit or group == 0xFFFE:
            return _Element(tag, b"", struct.unpack(f"{self.order}I", head[4:])[0])
        vr = head[4:6]
        if not (vr.isalpha() and vr.isupper()):
            raise HeaderFault("unreadable-image", "its header is garbled: an element has no known type")
        if vr in _LONG:
            return _Element(tag, vr, struct.unpack(f"{self.order}I", self.exactly(4))[0])
        return _Element(tag, vr, struct.unpack(f"{self.order}H", head[6:])[0])

    def value(self, element: _Element) -> bytes:
        if element.length > MAX_VALUE:
            raise HeaderFault("unreadable-image", "an element of its header is far longer than it may be")
        return self.exactly(element.length)

    def skip(self, element: _Element) -> None:
        """Step over an element's value, and over what is nested in it, however deep."""
        if element.length != _UNDEFINED:
            self._forward(element.length)
            return
        outer = self.implicit
        # The content of an unknown element of undefined length is implicit whatever the file is (PS3.5, 6.2.2).
        kinds = [outer or element.vr == b"UN"]
        while kinds:
            self.implicit = kinds[-1]
            inner = self.next()
            if inner is None:
                raise HeaderFault("truncated-image", "it ends within a sequence of its header")
            if inner.tag in {_ITEM_END, _SEQUENCE_END}:
                kinds.pop()
            elif inner.length != _UNDEFINED:
                self._forward(inner.length)
            elif len(kinds) == MAX_DEPTH:
                raise HeaderFault("unreadable-image", f"sequences are nested more than {MAX_DEPTH} deep in its header")
            else:
                kinds.append(kinds[-1] or inner.vr == b"UN")
        self.implicit = outer

    def items(self, element: _Element, wanted: frozenset[int]) -> list[Values]:
        """The wanted values of each item of a sequence."""
        end = self.size if element.length == _UNDEFINED else self.stream.tell() + element.length
        found: list[Values] = []
        while self.stream.tell() < end:
            item = self.next()
            if item is None or item.tag == _SEQUENCE_END:
                break
            if item.tag != _ITEM:
                raise HeaderFault("unreadable-image", "its header is garbled: a sequence holds more than items")
            found.append(self._item(item, wanted))
        return found

    def _item(self, item: _Element, wanted: frozenset[int]) -> Values:
        end = self.size if item.length == _UNDEFINED else self.stream.tell() + item.length
        values: dict[int, bytes] = {}
        while self.stream.tell() < end:
            element = self.next()
            if element is None or element.tag == _ITEM_END:
                break
            if element.tag in wanted and element.length != _UNDEFINED:
                values[element.tag] = self.value(element)
            else:
                self.skip(element)
        return values

    def _forward(self, count: int) -> None:
        if self.stream.tell() + count > self.size:
            raise HeaderFault("truncated-image", "it ends within its header")
        self.stream.seek(count, io.SEEK_CUR)


def read_header(file: IO[bytes], wanted: frozenset[int], sequences: frozenset[int], *, max_bytes: int) -> Header:
    """Walk a DICOM file up to its pixel data.

    Args:
        file: at its start.
        wanted: tags whose values are kept, of the data set and of the items of `sequences`.
        sequences: tags of sequences whose items are looked into.
        max_bytes: what a deflated file may inflate to.

    Raises:
        HeaderFault: it cannot be walked.
    """
    file.seek(132)
    walk = _Walk(file, order="<", implicit=False)
    syntax = _transfer_syntax(walk)
    if syntax == DEFLATED:
        walk = _Walk(_inflated(file, max_bytes), order="<", implicit=False)
    walk.order = ">" if syntax == EXPLICIT_BIG else "<"
    # Some writers name the wrong one, so the first element tells: two letters would make it over 16 kB long.
    start = walk.stream.tell()
    letters = walk.stream.read(6)[4:]
    walk.stream.seek(start)
    walk.implicit = not (letters.isalpha() and letters.isupper())
    values: dict[int, bytes] = {}
    items: dict[int, list[Values]] = {}
    while (element := walk.next()) is not None:
        if element.tag == PIXEL_DATA:
            length = None if element.length == _UNDEFINED else element.length
            return Header(syntax, walk.stream, values, items, walk.stream.tell(), length)
        if element.tag in sequences:
            items[element.tag] = walk.items(element, wanted)
        elif element.tag in wanted and element.length != _UNDEFINED:
            values[element.tag] = walk.value(element)
        else:
            walk.skip(element)
    return Header(syntax, walk.stream, values, items)


def _transfer_syntax(walk: _Walk) -> str:
    """The transfer syntax of the file's meta information; the walk is then at the data set."""
    syntax = b""
    while True:
        start = walk.stream.tell()
        group = walk.stream.read(2)
        walk.stream.seek(start)
        if group != b"\x02\x00":
            break
        element = walk.next()
        if element is None or element.length == _UNDEFINED:
            break
        if element.tag == _TRANSFER_SYNTAX:
            syntax = walk.value(element)
        else:
            walk.skip(element)
    if not syntax:
        raise HeaderFault("unreadable-image", "it names no transfer syntax")
    return text(syntax)


def _inflated(file: IO[bytes], max_bytes: int) -> IO[bytes]:
    try:
        content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(max_bytes), max_bytes + 1)
    except zlib.error:
        raise HeaderFault("unreadable-image", "its deflated content is damaged") from None
    if len(content) > max_bytes:
        raise HeaderFault("oversized-image", f"it inflates to over the limit of {max_bytes / 2**20:.1f} MiB")
    return io.BytesIO(content)


def check_fragments(header: Header) -> int:
    """Walk the fragments of encapsulated pixel data; gives their number, the offset table not counted.

    Raises:
        HeaderFault: they are garbled, cut off or too many.
    """
    if header.pixels_at is None:
        raise HeaderFault("no-pixels", "it holds no pixel data")
    header.stream.seek(header.pixels_at)
    walk = _Walk(header.stream, order="<", implicit=True)
    count = 0
    while True:
        item = walk.next() if walk.seen < MAX_FRAGMENTS else None
        if item is None:
            short = walk.seen < MAX_FRAGMENTS
            raise (
                HeaderFault("truncated-image", "its compressed pixel data ends too early")
                if short
                else HeaderFault("oversized-image", f"its pixel data has more than {MAX_FRAGMENTS:,} fragments")
            )
        if item.tag == _SEQUENCE_END:
            return count - 1
        if item.tag != _ITEM or item.length == _UNDEFINED:
            raise HeaderFault("unreadable-image", "its compressed pixel data is garbled")
        walk.skip(item)
        count += 1


def text(value: bytes) -> str:
    """A code (CS, UI, ...) without its padding; what is no ASCII is replaced."""
    return value.decode("ascii", "replace").strip(" \0")


def family_name(values: Values, tag: int) -> str:
    """The family name of a person, as all writers agree on it: letters without case, accents, blanks and dashes.

    Empty where it is absent, or its letters are in no stated character set and can only be guessed at.
    """
    raw = values.get(tag, b"")
    number = re.sub(r"^ISO[ _-].*IR[ _-]", "", text(values.get(CHARACTER_SET, b"")).partition("\\")[0].strip())
    try:
        # Plain letters are the same in every set, unless one is switched to another by an escape sequence.
        name = raw.decode("ascii" if raw.isascii() else _CODECS[number])
    except (KeyError, UnicodeDecodeError):
        return ""
    family = "" if "\x1b" in name else name.partition("=")[0].partition("^")[0][:_NAME_LETTERS]
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKD", family).casefold()))


def numbers(values: Values, tag: int, order: str, form: str) -> tuple[float, ...]:
    """The numbers of a binary element (`form` as `struct` writes it), empty where it is absent.

    Raises:
        HeaderFault: its length is not that of such numbers.
    """
    return _parsed(values, tag, lambda raw: tuple(n for (n,) in struct.iter_unpack(f"{order}{form}", raw)))


def decimals(values: Values, tag: int) -> tuple[float, ...]:
    r"""The numbers of a text element (DS, IS), separated by `\`; empty where it is absent.

    Raises:
        HeaderFault: it holds something else.
    """
    return _parsed(values, tag, lambda raw: tuple(map(float, text(raw).split("\\"))) if text(raw) else ())


def _parsed(values: Values, tag: int, parse: Callable[[bytes], tuple[float, ...]]) -> tuple[float, ...]:
    try:
        return parse(values.get(tag, b""))
    except (ValueError, struct.error):
        # The value itself is not shown: it may be anything.
        raise HeaderFault("unreadable-image", f"({tag >> 16:04X},{tag & 0xFFFF:04X}) holds no number") from None
