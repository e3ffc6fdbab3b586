"""Tables as files: written whole or not at all, and not over others."""

from __future__ import annotations

import codecs
import io
import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import polars as pl

from agfnet.data.tablefile import SEPARATORS, SUFFIXES, csv_separator, load_table
from agfnet.files import write_atomically
from agfnet.places import local
from agfnet.types import Case, Place, TableError

log = logging.getLogger("agfnet")


def write_bad_cases(bad: Sequence[tuple[Case, str]], path: Path) -> None:
    """List cases whose images could not be read, each with what is wrong, and say so."""
    listed = {
        "case_id": [case.case_id for case, _ in bad],
        "row": [case.row for case, _ in bad],
        "error": [error for _, error in bad],
    }
    write_table(pl.DataFrame(listed), path)
    log.warning("%d cases with unreadable images are left out; see %s", len(bad), path)


def write_table(frame: pl.DataFrame, path: str | Path, *, like: Place | None = None) -> None:
    """Write a table under a temporary name, then rename it, so that no half-written table is ever seen.

    Args:
        frame: the table.
        path: ends in .csv or .parquet; local.
        like: a table that it is made of: if both are CSV, columns are separated as there, and a byte-order mark is
            kept, so that the spreadsheet that wrote the one opens the other.

    Raises:
        TableError: the suffix is neither, or the file cannot be written.
    """
    path = writable_table(path)
    try:
        write_atomically(path, _csv_writer(frame, like) if path.suffix.lower() == ".csv" else frame.write_parquet)
    except OSError as error:
        message = f"{path}: the table cannot be written ({error}). Choose a folder that may be written to."
        raise TableError(message) from error


def _csv_writer(frame: pl.DataFrame, like: Place | None) -> Callable[[Path], object]:
    if like is None or like.suffix.lower() != ".csv":
        return frame.write_csv
    try:
        content = like.read_bytes()
    except OSError as error:  # long work is not lost for its looks
        log.warning("%s: cannot be read any more (%s); columns are separated by commas", like, error)
        return frame.write_csv
    separator, _ = csv_separator(partial(io.BytesIO, content))
    marked = content.startswith(codecs.BOM_UTF8)
    return partial(frame.write_csv, separator=separator if separator in SEPARATORS else ",", include_bom=marked)


def writable_table(path: str | Path, *, source: Place | None = None, over: str | None = None) -> Path:
    """The local path of a table that may be written there: to be asked before long work.

    Args:
        path: where the table is to go.
        source: the table that is read.
        over: a column of the tables that may be written over; None: any may.

    Raises:
        TableError: the suffix is neither .csv nor .parquet, it is a folder, it is not local, it is the source, it is
            another table than may be written over, or its folder may not be written to.
    """
    try:
        path = local(path)
    except ValueError as error:
        raise TableError(f"{error}.") from error
    if path.suffix.lower() not in SUFFIXES:
        message = f"{path}: a table is written as .csv or .parquet. Choose a name with one of these endings."
        raise TableError(message)
    if path.is_dir():
        raise TableError(f"{path}: is a folder. Choose the name of a file.")
    if isinstance(source, Path) and path.exists() and source.exists() and path.samefile(source):
        raise TableError(f"{path}: is the table that is read. Choose another name for what is written.")
    if over is not None and path.exists():
        raw, _ = load_table(path)
        if raw is None or over not in raw.frame.columns:
            raise TableError(f"{path}: is there already, and was not written by such a call. Name a new file.")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not os.access(folder, os.W_OK | os.X_OK) or not folder.is_dir():
        raise TableError(f"{path}: the table cannot be written there. Choose a folder that may be written to.")
    return path


def check_not_over(output: Path, frame: pl.DataFrame) -> None:
    """Refuse to write a table over another one, on whose parts a network may have been trained.

    Raises:
        TableError: there is one of that name with other content.
    """
    output = writable_table(output)
    if not output.exists():
        return
    raw, faults = load_table(output)
    if raw is None or faults or not raw.frame.equals(frame.select(pl.all().cast(pl.String))):
        raise TableError(
            f"{output}: is there already, with other content. Name a new file; or delete it, if no network was trained "
            "on its parts."
        )
