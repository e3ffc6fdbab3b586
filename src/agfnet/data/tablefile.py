"""The case table as a file: CSV or Parquet in and out, as text, with every fault of the file itself.

Every value is read as text and stripped of surrounding blanks, so that an id such as 007 stays what it is and
`P1 ` is not a second patient; an empty cell is null. Meaning is given to the columns in `table.py`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import IO

import numpy as np
import polars as pl
import polars.selectors as cs
from numpy.typing import NDArray

from agfnet.places import place
from agfnet.types import Place, TableError

SEPARATORS = (",", ";", "\t")
SUFFIXES = {".csv": "CSV", ".parquet": "Parquet", ".pq": "Parquet"}
_PARQUET_TO_ARROW = (
    "import io, sys, polars;polars.read_parquet(io.BytesIO(sys.stdin.buffer.read())).write_ipc(sys.stdout.buffer)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that is wrong with a case table.

    Attributes:
        cause: short code such as `missing-file`; the same cause has the same code everywhere.
        message: what is wrong, with the values concerned.
        remedy: what to do about it.
        row: the row as a spreadsheet counts (the header is row 1), or None where it concerns the whole table.
        column: the column, or None.
    """

    cause: str
    message: str
    remedy: str
    row: int | None = None
    column: str | None = None

    def __str__(self) -> str:
        where = [f"row {self.row}"] if self.row is not None else []
        where += [f"column {self.column}"] if self.column is not None else []
        told = ", ".join(where)
        return f"{told + ': ' if told else ''}{self.message}. {self.remedy} [{self.cause}]"


@dataclass(frozen=True, slots=True)
class RawTable:
    """A case table as text.

    Attributes:
        frame: N rows, all columns of type String; empty cells are null.
        rows: (N,) int64, the row of each in the file, the header being row 1.
    """

    frame: pl.DataFrame
    rows: NDArray[np.int64]


def load_table(path: str | Place) -> tuple[RawTable | None, list[Fault]]:
    """Read a table file and list what is wrong with the file.

    Args:
        path: a .csv (UTF-8, with or without byte-order mark; see `csv_records`) or .parquet file, local or by URL.

    Returns:
        The table without the rows and columns that cannot be used, or None where nothing can be read; and the
        faults. A table that comes with no faults is complete.
    """
    path = place(path)
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        return None, [unknown_format(path)]
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        message = f"the table {path} cannot be opened ({reason})"
        return None, [Fault(cause="missing-table", message=message, remedy="Correct the path of the table.")]
    if not content.strip():
        return None, [empty_table(path)]
    raw, faults = _from_csv(content) if kind == "CSV" else _from_parquet(content)
    if raw is not None and raw.frame.height == 0 and not faults:
        faults.append(empty_table(path))
    return raw, faults


def table_sha256(path: str | Place) -> str:
    """SHA-256 of the table's bytes, 64 hexadecimal digits, to be recorded with every run.

    Raises:
        TableError: the file cannot be read.
    """
    try:
        with place(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # IO has no readinto
    except OSError as error:
        message = f"the table {path} cannot be opened ({error.strerror}). Correct the path of the table."
        raise TableError(message) from error


def unknown_format(path: Place) -> Fault:
    """The fault of a table whose name ends otherwise."""
    remedy = "Save the table as .csv (UTF-8) or .parquet."
    return Fault(cause="unknown-format", message=f"{path.name} is not CSV or Parquet", remedy=remedy)


def empty_table(path: Place) -> Fault:
    """The fault of a table without cases."""
    return Fault(
        cause="empty-table",
        message=f"{path.name} holds no cases",
        remedy="Give it a header and one row per case.",
    )


class MalformedError(TableError):
    """A file that cannot be read on, with its fault."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


def _from_csv(content: bytes) -> tuple[RawTable | None, list[Fault]]:
    records: list[list[str]] = []
    broken: list[Fault] = []
    try:
        records.extend(csv_records(partial(io.BytesIO, content)))
    except MalformedError as error:
        if error.fault.cause == "wrong-encoding":
            return None, [error.fault]
        broken = [error.fault]
    try:
        header = csv_header(records)
    except MalformedError as error:
        return None, broken or [error.fault]
    raw, faults, of_columns = csv_rows(header, records[1:], 2)
    return raw, [*broken, *faults, *of_columns]


def csv_records(again: Callable[[], IO[bytes]]) -> Iterator[list[str]]:
    """The records of a CSV file, its header first.

    Columns are separated by commas, semicolons or tabs: by what parts the header into most of them, since spreadsheets
    write semicolons where the comma is a decimal one; or as a first line `sep=;` says, which is no row, as spreadsheets
    do not show it.

    Args:
        again: opens the file at its start, each time that it is called.

    Raises:
        MalformedError: its encoding is another, or its quotes are broken; what came before is right.
    """
    with again() as file:
        if file.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            raise _encoded("the table is written in UTF-16, not UTF-8")
        file.seek(0)
        separator, said = csv_separator(again)
        if said:
            file.readline()
        row = 1
        try:
            text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
            for record in csv.reader(text, delimiter=separator, strict=True):
                yield record
                row += 1
        except csv.Error as error:
            if other := _undecodable(again):  # quotes of another encoding may only look broken
                raise other from error
            remedy = 'Close every quote, write a quote inside quotes as "", and save the table again.'
            fault = Fault(cause="malformed-csv", message=f"broken CSV ({error})", remedy=remedy, row=row)
            raise MalformedError(fault) from error
        except UnicodeDecodeError as error:
            raise _undecodable(again) or _encoded("its end is not UTF-8") from error


def csv_separator(again: Callable[[], IO[bytes]]) -> tuple[str, bool]:
    """What separates the columns of a CSV file, and whether its first line says it; see `csv_records`."""
    with again() as file:
        said = _SAID_SEPARATOR.fullmatch(file.readline())
    return (said[1].decode(), True) if said else (max(SEPARATORS, key=lambda one: _columns(again, one)), False)


_SAID_SEPARATOR = re.compile(rb'(?:\xef\xbb\xbf)?"?sep=([,;\t|])"?[\s,;]*', re.IGNORECASE)


def _columns(again: Callable[[], IO[bytes]], separator: str) -> int:
    """Into how many columns a separator parts the first record."""
    with again() as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace", newline="")
        try:
            return len(next(csv.reader(text, delimiter=separator), []))
        except csv.Error:
            return 0


def _encoded(message: str, row: int | None = None) -> MalformedError:
    return MalformedError(Fault(cause="wrong-encoding", message=message, remedy="Save it as `CSV UTF-8`.", row=row))


def _undecodable(again: Callable[[], IO[bytes]]) -> MalformedError | None:
    """The first line of another encoding, which a reader, decoding far ahead of its rows, does not tell."""
    with again() as lines:
        for row, line in enumerate(lines, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                byte = line[error.start]
                return _encoded(f"byte 0x{byte:02x} is not UTF-8; the table has another encoding", row)
    return None


def csv_header(records: Sequence[list[str]]) -> list[str]:
    """The names of the columns, from the first record.

    Raises:
        MalformedError: there is none.
    """
    header = [name.strip() for name in records[0]] if records else []
    if not any(header):
        remedy = "Begin the table with a header of column names in row 1."
        raise MalformedError(Fault(cause="missing-header", message="row 1 is empty", remedy=remedy, row=1))
    return header


def csv_rows(
    header: Sequence[str], records: Sequence[list[str]], first: int
) -> tuple[RawTable, list[Fault], list[Fault]]:
    """The rows that can be used, the faults of those that cannot, and those of columns.

    Blank records, and those of empty cells alone, as spreadsheets leave at the end, are no cases, but count as rows.

    Args:
        header: the columns' names.
        records: consecutive ones.
        first: the row of the first of them.
    """
    numbered = [(row, record) for row, record in enumerate(records, first) if any(cell.strip() for cell in record)]
    whole = [(row, record) for row, record in numbered if len(record) == len(header)]
    faults = [_ragged_row(row, len(record), len(header)) for row, record in numbered if len(record) != len(header)]
    columns = list(zip(*(record for _, record in whole), strict=True)) or [()] * len(header)
    used, of_columns = _usable_columns(header, [any(cell.strip() for cell in column) for column in columns])
    frame = pl.DataFrame([pl.Series(header[index], columns[index], dtype=pl.String) for index in used])
    return RawTable(stripped(frame), np.array([row for row, _ in whole], dtype=np.int64)), faults, of_columns


def _ragged_row(row: int, cells: int, columns: int) -> Fault:
    """The fault of a row whose number of cells is not that of the header."""
    message = f"{cells} cells where the header has {columns}"
    remedy = "Add or remove what separates the columns; put a value that holds it in quotes."
    return Fault(cause="ragged-row", message=message, remedy=remedy, row=row)


def _usable_columns(header: Sequence[str], filled: Sequence[bool]) -> tuple[list[int], list[Fault]]:
    """Positions of the columns to keep; unnamed empty ones are dropped without a fault."""
    used: list[int] = []
    faults: list[Fault] = []
    for index, name in enumerate(header):
        if not name:
            if filled[index]:
                message = f"column {index + 1} has values but no name"
                remedy = "Name it in row 1, or delete it."
                faults.append(Fault(cause="unnamed-column", message=message, remedy=remedy, row=1))
        elif name in header[:index]:
            message = "the name stands twice in the header"
            remedy = "Rename or delete one of the two columns."
            faults.append(Fault(cause="duplicate-column", message=message, remedy=remedy, row=1, column=name))
        else:
            used.append(index)
    return used, faults


def _from_parquet(content: bytes) -> tuple[RawTable | None, list[Fault]]:
    if not (content.startswith(b"PAR1") and content.endswith(b"PAR1")):
        return None, [no_parquet("it lacks Parquet's signature")]
    # A damaged file can make the reader abort the whole process, so it is read in one of its own.
    command = [sys.executable, "-P", "-c", _PARQUET_TO_ARROW]
    result = subprocess.run(command, input=content, capture_output=True, check=False)  # noqa: S603  fixed command
    if result.returncode != 0:
        lines = result.stderr.decode(errors="replace").strip().splitlines()
        return None, [no_parquet(lines[-1] if lines and result.returncode > 0 else "reading it crashed")]
    text, faults = as_text(pl.read_ipc(io.BytesIO(result.stdout)))
    if text is None:
        return None, faults
    return RawTable(stripped(text), np.arange(2, text.height + 2, dtype=np.int64)), faults


def as_text(frame: pl.DataFrame) -> tuple[pl.DataFrame | None, list[Fault]]:
    """The columns of a Parquet file as text, without those that hold no plain values; None where it has no text."""
    nested = [name for name, dtype in frame.schema.items() if dtype.is_nested() or dtype == pl.Binary]
    faults = [
        Fault(
            cause="nested-column",
            message=f"its values are of type {frame.schema[name]}, not text or numbers",
            remedy="Write one plain value per cell; join several image paths with `;`.",
            column=name,
        )
        for name in nested
    ]
    try:
        known = frame.drop(nested).rename(str.strip).with_columns(cs.float().fill_nan(None))  # NaN: pandas has no other
        return known.select(pl.all().cast(pl.String)), faults
    except pl.exceptions.PolarsError as error:
        return None, [no_parquet(str(error).partition("\n")[0])]


def no_parquet(reason: str) -> Fault:
    """The fault of a file that cannot be read as Parquet."""
    message = f"it is no Parquet file ({reason})"
    return Fault(cause="malformed-parquet", message=message, remedy="Write the Parquet file again.")


def stripped(frame: pl.DataFrame) -> pl.DataFrame:
    """Text without surrounding blanks; empty cells are null."""
    clean = pl.all().str.strip_chars()
    return frame.with_columns(pl.when(clean != "").then(clean).otherwise(None).name.keep())
