"""The plan of bulk prediction: the table cut into parts, and the record of what the work is.

A folder of bulk prediction holds

- `bulk.json`: what every worker must know; once it is there, the plan is whole
- `plan/part-000000.parquet`: the rows of each part, as text, and why a row is in quarantine before it is looked at
- `predictions/part-000000.parquet`, `quarantine/part-000000.parquet`: what became of them

The table is read as a stream; what stays in memory is one part and some 60 bytes a row, of which 24 last until every
case_id that comes again is known.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
from numpy.typing import NDArray

import agfnet
from agfnet.data.preprocess import ViewSpec
from agfnet.data.table import SCALE_SUFFIX, duplicate_case, say_scale, structural_faults, table_error
from agfnet.data.tablestream import Piece, stream_sha256, stream_table
from agfnet.files import PRIVATE, write_atomically, write_json
from agfnet.prediction.asking import views_there
from agfnet.types import ConfigError, Place, TableError

RECORD = "bulk.json"
PLAN, PREDICTIONS, QUARANTINE = "plan", "predictions", "quarantine"
FORMAT = 2
LOCK = "bulk.lock"
"""Held by the run that works in the folder."""
_OF_A_PLAN = re.compile(r"part-\d{6,}\.parquet|\.part-\d{6,}\.parquet\.\w+\.tmp")
_DIGEST_BYTES = 16
log = logging.getLogger("agfnet")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What, beside bundle and table, decides the predictions.

    Attributes:
        part_rows: rows of a part; the last may have fewer.
        batch: looks that go through the network at once.
        provider: what computes; see `agfnet.prediction.predictor.PROVIDERS`.
        prevalence: class -> share among the patients that are asked about, or None.
        table_folder: where relative image paths start.
        data_root: the folder that every image must lie in, or None; see `agfnet.data.table.read_cases`.
        version: of this package.
    """

    part_rows: int
    batch: int
    provider: str
    prevalence: Mapping[str, float] | None
    table_folder: str
    data_root: str | None
    version: str = field(default_factory=lambda: agfnet.__version__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The record of a folder of bulk prediction.

    Attributes:
        bundle_sha256: of the bundle.
        table_sha256: of the table; see `agfnet.data.tablestream.stream_sha256`.
        settings: what else decides the predictions.
        views: the bundle's views that the table has a column for.
        rows: rows of the table that are to be predicted or put in quarantine.
        parts: number of parts.
    """

    bundle_sha256: str
    table_sha256: str
    settings: Settings
    views: tuple[str, ...]
    rows: int
    parts: int

    def rows_of(self, part: int) -> int:
        """Rows of a part."""
        return min(self.settings.part_rows, self.rows - part * self.settings.part_rows)


def part_file(folder: Path, kind: str, part: int) -> Path:
    """The file of a part: of its `PLAN`, `PREDICTIONS` or `QUARANTINE`."""
    return folder / kind / f"part-{part:06d}.parquet"


def read_part(folder: Path, kind: str, part: int) -> pl.DataFrame:
    """What the file of a part holds; its path is a name and no pattern, whatever signs are in it."""
    return pl.read_parquet(part_file(folder, kind, part), glob=False)


def parts_to_do(folder: Path, work: Work, *, retry: bool = False) -> list[int]:
    """The parts that have no predictions yet: a part's predictions are the last that is written of it.

    With `retry` also those with `unread` rows.
    """
    done = {file.name for file in (folder / PREDICTIONS).glob("*.parquet")}
    return [
        part
        for part in range(work.parts)
        if part_file(folder, PREDICTIONS, part).name not in done or (retry and len(unread(folder, part)))
    ]


def unread(folder: Path, part: int) -> pl.Series:
    """Rows of a finished part in quarantine because an image could not be read, not for a fault of the table."""
    usable = read_part(folder, PLAN, part).filter(pl.col("reason").is_null())
    rows = read_part(folder, QUARANTINE, part)["row"]
    return rows.filter(rows.is_in(usable["row"].to_list()))


def read_work(folder: Path) -> Work:
    """The record of a planned folder.

    Raises:
        ConfigError: there is none, or one of another version.
    """
    path = folder / RECORD
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}). Name a new folder.") from error
    if told.pop("format", None) != FORMAT:
        raise ConfigError(f"{path}: was written by another version of agfnet. Name a new folder.")
    return Work(**{**told, "settings": Settings(**told["settings"]), "views": tuple(told["views"])})


def plan_work(
    folder: Path, table: Place, specs: Mapping[str, ViewSpec], bundle_sha256: str, settings: Settings
) -> Work:
    """The work in a folder: planned now, or planned before.

    Args:
        folder: a new or empty folder, or one that was begun with the same bundle, table and settings.
        table: see `agfnet.data.tablestream.stream_table`; one by URL is fetched for as long as it is planned.
        specs: the bundle's views.
        bundle_sha256: of the bundle.
        settings: what else decides the predictions.

    Raises:
        ConfigError: the folder holds something else, or work that was begun otherwise; the message says what differs.
        TableError: the table cannot be used.
    """
    if not isinstance(table, Path):
        with TemporaryDirectory() as here:
            return plan_work(folder, _fetched(table, Path(here)), specs, bundle_sha256, settings)
    table_sha256 = stream_sha256(table)
    if (folder / RECORD).exists():
        work = read_work(folder)
        _check_same(folder, work, bundle_sha256, table_sha256, settings)
        return work
    for path in stopped_plan(folder):
        path.unlink()
    views, rows, parts = _stage(folder, table, specs, settings.part_rows)
    work = Work(
        bundle_sha256=bundle_sha256, table_sha256=table_sha256, settings=settings, views=views, rows=rows, parts=parts
    )
    write_json(folder / RECORD, {"format": FORMAT, **asdict(work)})
    return work


def stopped_plan(folder: Path) -> list[Path]:
    """What a planning that was stopped has left in a folder without a record.

    Raises:
        ConfigError: there is something else in it, too.
    """
    halves = sorted(folder.glob(f".{RECORD}.*.tmp"))
    stopped = sorted((folder / PLAN).glob("*"))
    strange = sorted(path for path in folder.glob("*") if path.name not in (PLAN, LOCK) and path not in halves)
    strange += [path for path in stopped if not _OF_A_PLAN.fullmatch(path.name)]
    if strange:
        name = strange[0].relative_to(folder)
        raise ConfigError(f"{folder}: holds other files ({name}). Name a new or empty folder.")
    return [*stopped, *halves]


def _fetched(table: Place, folder: Path) -> Path:
    """A local copy of a table by URL."""
    copy = folder / table.name
    try:
        with table.open("rb") as remote, copy.open("wb") as file:
            shutil.copyfileobj(remote, file)
    except OSError as error:
        raise TableError(f"the table {table} cannot be opened ({error.strerror}). Correct its URL.") from error
    return copy


def _check_same(folder: Path, begun: Work, bundle_sha256: str, table_sha256: str, settings: Settings) -> None:
    before, now = asdict(begun.settings), asdict(settings)
    differs = [f"{name.replace('_', ' ')} {before[name]}, not {now[name]}" for name in now if before[name] != now[name]]
    if begun.table_sha256 != table_sha256:
        differs.insert(0, "another table, or one that has changed since")
    if begun.bundle_sha256 != bundle_sha256:
        differs.insert(0, f"another bundle (SHA-256 {begun.bundle_sha256[:12]}..., not {bundle_sha256[:12]}...)")
    if differs:
        raise ConfigError(
            f"{folder}: was begun with {'; '.join(differs)}. Go on with what it was begun with, or name a new folder."
        )


def _stage(
    folder: Path, table: Path, specs: Mapping[str, ViewSpec], part_rows: int
) -> tuple[tuple[str, ...], int, int]:
    """Write the plan; returns the views that the table has, its rows, and the number of parts."""
    pieces = stream_table(table, part_rows)
    first = next(pieces)
    views = tuple(views_there(first.raw.frame, list(specs), table))
    faults = [f for f in structural_faults(first.raw, views, ()) if f.row is None or f.row == 1]  # those of columns
    if faults:
        raise table_error(table, faults)
    scales = [f"{view}{SCALE_SUFFIX}" for view in views]
    columns = ["case_id", "patient_id", *views, *(name for name in scales if name in first.raw.frame.columns)]
    numbers, digests, parts = array("q"), bytearray(), 0
    having, lacking = Counter[str](), Counter[str]()
    for frame in _refilled((_staged(piece, columns) for piece in chain([first], pieces)), part_rows):
        _write_part(folder, parts, frame)
        numbers.extend(frame["row"])
        digests += b"".join(map(_digest, frame["case_id"], frame["row"]))
        for view, scale in zip(views, scales, strict=True):
            seen = frame.filter(pl.col(view).is_not_null())
            having[view] += seen.height
            lacking[view] += seen[scale].null_count() if scale in columns else seen.height
        parts += 1
        if parts % 100 == 0:
            log.info("planned %s rows", f"{len(numbers):,}")
    for view in views:
        say_scale(view, specs[view].mm_per_pixel, lacking[view], having[view])
    _mark_repeats(folder, np.frombuffer(numbers, np.int64), _first_places(digests), part_rows)
    return views, len(numbers), parts


def _staged(piece: Piece, columns: Sequence[str]) -> pl.DataFrame:
    """The piece as the plan has it: row, the columns, and the reason of rows that are in quarantine from the start."""
    usable = piece.raw.frame.select(columns)
    usable = usable.with_columns(row=pl.Series(piece.raw.rows), reason=pl.lit(None, pl.String))
    bad = {"row": [fault.row for fault in piece.faults], "reason": [str(fault) for fault in piece.faults]}
    faulty = pl.DataFrame(bad, schema={"row": pl.Int64, "reason": pl.String})
    return pl.concat([usable, faulty], how="diagonal").select("row", *columns, "reason").sort("row")


def _refilled(frames: Iterator[pl.DataFrame], height: int) -> Iterator[pl.DataFrame]:
    """The same rows in frames of this height; the last may have fewer."""
    held: pl.DataFrame | None = None
    for frame in frames:
        held = frame if held is None else pl.concat([held, frame])
        while held.height >= height:
            yield held.head(height)
            held = held.tail(-height)
    if held is not None and held.height:
        yield held


def _write_part(folder: Path, part: int, frame: pl.DataFrame) -> None:
    write_atomically(part_file(folder, PLAN, part), frame.write_parquet, mode=PRIVATE)  # ids of patients


def _digest(case_id: str | None, row: int) -> bytes:
    """Sixteen bytes that differ where case_ids do; a row without one is like no other."""
    text = f"row\0{row}" if case_id is None else f"id\0{case_id}"
    return hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).digest()


def _first_places(digests: bytearray) -> NDArray[np.int64]:
    """(N,) the place, counted from 0, of the first row with each row's digest."""
    low, high = np.frombuffer(digests, np.uint64).reshape(-1, 2).T
    order = np.lexsort((low, high))  # stable: of equal ones the first comes first
    new = np.ones(len(order), bool)
    new[1:] = (low[order][1:] != low[order][:-1]) | (high[order][1:] != high[order][:-1])
    first = np.empty_like(order)
    first[order] = order[np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))]
    return first


def _mark_repeats(folder: Path, rows: NDArray[np.int64], first: NDArray[np.int64], part_rows: int) -> None:
    """Give every staged row whose case_id stands in an earlier row its reason.

    Args:
        folder: with the plan.
        rows: (N,) the table's rows, in the order of the plan.
        first: see `_first_places`.
        part_rows: rows of a part.
    """
    repeats = np.flatnonzero(first != np.arange(len(first)))
    for part in np.unique(repeats // part_rows).tolist():
        frame = read_part(folder, PLAN, part)
        start = part * part_rows
        reasons = [
            reason if first[place] == place else str(duplicate_case(case_id, row, int(rows[first[place]])))
            for place, (reason, case_id, row) in enumerate(frame.select("reason", "case_id", "row").rows(), start)
        ]
        _write_part(folder, part, frame.with_columns(reason=pl.Series(reasons, dtype=pl.String)))
