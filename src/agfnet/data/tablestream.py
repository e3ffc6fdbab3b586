"""The case table in pieces, for tables that are too long to be held: same rules as `tablefile`, bounded memory.

Columns and rows are those that `agfnet.data.tablefile.load_table` gives. What is wrong with the whole table stops the
stream; a row with too many or too few cells is told beside the rows that it stands among.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, NamedTuple, cast

import numpy as np
import polars as pl

from agfnet.data.table import table_error
from agfnet.data.tablefile import (
    SUFFIXES,
    Fault,
    MalformedError,
    RawTable,
    as_text,
    csv_header,
    csv_records,
    csv_rows,
    empty_table,
    no_parquet,
    stripped,
    table_sha256,
    unknown_format,
)
from agfnet.types import TableError

# Damaged files can make the reader abort the whole process, so it has one of its own. For each file it sends a message
# without content, then one without rows, then the rows; a message is its length in 8 bytes and Arrow's IPC bytes.
_PARQUET_TO_MESSAGES = """
import io, sys
import polars as pl

def send(content):
    sys.stdout.buffer.write(len(content).to_bytes(8, "little") + content)
    sys.stdout.buffer.flush()

def send_frame(frame):
    stream = io.BytesIO()
    frame.write_ipc(stream)
    send(stream.getvalue())

for path in sys.stdin.read().split("\\0"):
    send(b"")
    table = pl.scan_parquet(path, glob=False)
    send_frame(table.head(0).collect())
    for frame in table.collect_batches(chunk_size=int(sys.argv[1]), maintain_order=True):
        send_frame(frame)
"""


class Piece(NamedTuple):
    """Consecutive rows of a table.

    Attributes:
        raw: the rows that can be used; may be none.
        faults: of the rows that cannot.
    """

    raw: RawTable
    faults: list[Fault]


def stream_table(path: Path, height: int) -> Iterator[Piece]:
    """Read a table piece by piece.

    Args:
        path: a .csv or .parquet file, or a folder of Parquet files, read in the order of their names; rows are counted
            through all of them.
        height: most rows of a piece.

    Raises:
        TableError: the whole table, or one of its columns, cannot be used.
    """
    files = table_files(path)
    pieces = _csv_pieces(path, height) if path.suffix.lower() == ".csv" else _parquet_pieces(path, files, height)
    some = False
    for piece in pieces:
        some = some or piece.raw.frame.height > 0 or bool(piece.faults)
        yield piece
    if not some:
        raise table_error(path, [empty_table(path)])


def table_files(path: Path) -> list[Path]:
    """The files of a table: itself, or the Parquet files in a folder, sorted by their paths in it.

    Files and folders whose names begin with a dot or an underscore are passed over, as other readers do.

    Raises:
        TableError: there is none, or one of another format.
    """
    if not path.is_dir():
        if path.suffix.lower() not in SUFFIXES:
            raise table_error(path, [unknown_format(path)])
        if not path.is_file():
            raise table_error(path, [_missing(f"there is no table {path}")])
        return [path]
    found = sorted(file for suffix in ("parquet", "pq") for file in path.rglob(f"*.{suffix}"))
    files = [file for file in found if not any(part[0] in "._" for part in file.relative_to(path).parts)]
    if not files:
        raise table_error(path, [_missing(f"the folder {path} holds no Parquet file")])
    return files


def _missing(message: str) -> Fault:
    return Fault(cause="missing-table", message=message, remedy="Correct the path of the table.")


def stream_sha256(path: Path) -> str:
    """SHA-256, 64 hexadecimal digits: of a file's bytes, or of the names and sums of a folder's files."""
    if not path.is_dir():
        return table_sha256(path)
    sums = (f"{table_sha256(file)} {file.relative_to(path).as_posix()}\n" for file in table_files(path))
    return hashlib.sha256("".join(sums).encode()).hexdigest()


def _csv_pieces(path: Path, height: int) -> Iterator[Piece]:
    try:
        records = csv_records(lambda: path.open("rb"))
        named = list(islice(records, 1))
        if not named:
            return
        header = csv_header(named)
        first = 2
        while piece := list(islice(records, height)):
            raw, faults, of_columns = csv_rows(header, piece, first)
            if of_columns:
                raise table_error(path, of_columns)
            yield Piece(raw, faults)
            first += len(piece)
    except MalformedError as error:
        raise table_error(path, [error.fault]) from error


def _parquet_pieces(path: Path, files: Sequence[Path], height: int) -> Iterator[Piece]:
    first, columns = 2, None
    for file, frame in _parquet_frames(files, height):
        text, faults = as_text(frame)
        if text is None or faults:
            raise table_error(file, faults)
        if columns is not None and set(text.columns) != columns:
            odd = ", ".join(sorted(columns ^ set(text.columns)))
            raise TableError(
                f"{file}: its columns are not those of {files[0]} ({odd}). Write all parts of {path} alike."
            )
        columns = set(text.columns)
        yield Piece(RawTable(stripped(text), np.arange(first, first + text.height, dtype=np.int64)), [])
        first += text.height


def _parquet_frames(files: Sequence[Path], height: int) -> Iterator[tuple[Path, pl.DataFrame]]:
    """For each file a frame without rows, then its rows; one process reads them all."""
    command = [sys.executable, "-P", "-c", _PARQUET_TO_MESSAGES, str(height)]
    with TemporaryFile() as names, TemporaryFile() as said:
        names.write("\0".join(map(str, files)).encode())
        names.seek(0)
        with subprocess.Popen(command, stdin=names, stdout=subprocess.PIPE, stderr=said) as process:  # noqa: S603
            messages = cast("IO[bytes]", process.stdout)
            try:
                rest, file = iter(files), files[0]
                while head := messages.read(8):
                    length = int.from_bytes(head, "little")
                    if length == 0:
                        file = next(rest)
                    else:
                        yield file, pl.read_ipc(io.BytesIO(messages.read(length)))
            except BaseException:
                process.kill()  # no more is wanted
                raise
        if process.returncode != 0:
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
            reason = lines[-1] if lines and process.returncode > 0 else "reading it crashed"
            raise table_error(file, [no_parquet(reason)])
