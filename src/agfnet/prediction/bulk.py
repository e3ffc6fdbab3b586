"""Bulk prediction: a table of any length into a folder, on one machine or past it; see docs/bulk.md."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import polars as pl

from agfnet.files import hold_folder, remove_leftovers
from agfnet.places import shown
from agfnet.prediction.asking import SCALES_ARE_IN_THE_TABLE, parse_prevalence, say_uncalibrated
from agfnet.prediction.bulk_part import PartPredictor
from agfnet.prediction.bulk_plan import (
    LOCK,
    PREDICTIONS,
    QUARANTINE,
    RECORD,
    Settings,
    Work,
    parts_to_do,
    plan_work,
    stopped_plan,
)
from agfnet.prediction.predictor import Predictor
from agfnet.types import ConfigError, Place

ENGINES = ("local", "ray")
PART_ROWS = 1000
_SECONDS_BETWEEN_LINES = 5.0
log = logging.getLogger("agfnet")


class Tally(NamedTuple):
    """What a folder of bulk prediction holds once it is done.

    Attributes:
        folder: the folder.
        rows: of the table.
        quarantined: of these, rows without a prediction.
    """

    folder: Path
    rows: int
    quarantined: int

    def said(self) -> str:
        """One sentence."""
        told = f"{self.folder / PREDICTIONS}: {self.rows - self.quarantined:,} of {self.rows:,} cases are predicted"
        if self.quarantined:
            return f"{told}; {self.quarantined:,} could not be, see the column `reason` in {self.folder / QUARANTINE}"
        return told


def predict_bulk(
    source: Path,
    table: Place | None,
    folder: Path | None,
    *,
    engine: str,
    views: Sequence[str] = (),
    scales: Sequence[str] = (),
    part_rows: int | None = None,
    batch_size: int = 16,
    prevalence: str | None = None,
    provider: str = "cpu",
    data_root: Place | None = None,
    threads: int = 0,
    workers: int | None = None,
    address: str | None = None,
    retry: bool = False,
) -> Tally:
    """Predict every row of a table into a folder, or go on with a folder that was begun.

    Args:
        source: a run folder or a bundle.
        table: .csv or .parquet, local or by URL, or a local folder of Parquet files.
        folder: for the results.
        engine: one of `ENGINES`.
        views: must be empty: bulk prediction is of a table.
        scales: must be empty as well: a table has its own.
        part_rows: rows that are predicted, written and, after a stop, repeated together; None: `PART_ROWS`.
        batch_size: looks that go through the network at once.
        prevalence: see `agfnet.prediction.asking.parse_prevalence`.
        provider: what computes.
        data_root: the folder that every image must lie in.
        threads: processor threads, of each worker of a Ray cluster; 0 lets ONNX Runtime choose, or is 1 there.
        workers: processes of the Ray engine; None: as many as there are processors (and GPUs) for.
        address: of the Ray cluster; None starts one on this machine.
        retry: also ask again about rows whose images could not be read.

    Raises:
        ConfigError: the arguments do not fit together, the folder was begun otherwise, or another run works in it.
        BundleError: the source cannot be used.
        TableError: the table as a whole cannot be used.
    """
    if engine not in ENGINES:
        raise ConfigError(f"--engine {engine!r} is not known: {' or '.join(ENGINES)}.")
    if table is None or views:
        raise ConfigError("--engine is for a TABLE. Leave it out to predict the files of --view.")
    if scales:
        raise ConfigError(SCALES_ARE_IN_THE_TABLE)
    if folder is None:
        raise ConfigError("--engine writes a folder. Name it with -o.")
    if engine == "local" and (workers is not None or address is not None):
        raise ConfigError("--workers and --address are for --engine ray. The local engine takes --threads.")
    ray = import_module("agfnet.prediction.bulk_ray") if engine == "ray" else None  # Ray is an extra
    predictor = Predictor(
        source,
        threads=threads,
        provider="cpu" if ray else provider,  # a cluster's machines may have what this one has not
        prevalence=parse_prevalence(prevalence),
    )
    say_uncalibrated(predictor)
    settings = Settings(
        part_rows=part_rows or PART_ROWS,
        batch=batch_size,
        provider=provider,
        prevalence=parse_prevalence(prevalence),
        table_folder=str((table if isinstance(table, Path) and table.is_dir() else table.parent).resolve()),
        data_root=None if data_root is None else str(data_root.resolve()),
    )
    for name in (settings.table_folder, settings.data_root or ""):
        if shown(name) != name:
            raise ConfigError(f"{shown(name)}: its path is not UTF-8, as what is written is. Rename file and folder.")
    folder = folder.resolve()
    if isinstance(table, Path) and table.is_dir() and folder.is_relative_to(table.resolve()):
        raise ConfigError(f"{folder}: lies in the folder of the table, whose files it would add to. Name another.")
    with _held(folder):
        work = plan_work(folder, table, predictor.specs, predictor.bundle.sha256, settings)
        todo = parts_to_do(folder, work, retry=retry)
        log.info("%s: %s rows in %d parts, %d of them to do", folder, f"{work.rows:,}", work.parts, len(todo))
        if ray and todo:
            done = ray.predicted_parts(folder, source, todo, threads=threads or 1, workers=workers, address=address)
        else:
            done = _predicted_parts(PartPredictor(folder, predictor), todo)
        _follow(work, todo, done)
        remove_leftovers(folder / PREDICTIONS, folder / QUARANTINE)
    bad = pl.scan_parquet(sorted((folder / QUARANTINE).glob("*.parquet")), glob=False).select(pl.len()).collect().item()
    return Tally(folder, work.rows, bad)


def _held(folder: Path) -> AbstractContextManager[object]:
    """The folder, made where it is not there, for this run alone until the context is left."""
    if not (folder / RECORD).exists():
        stopped_plan(folder)  # nothing is put into a folder of something else
    return hold_folder(folder / LOCK)


def refuse_without_engine(**options: object) -> None:
    """Refuse options that only bulk prediction has.

    Raises:
        ConfigError: one of them is given.
    """
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
    if given:
        raise ConfigError(f"{' and '.join(given)}: only with --engine. Add --engine local or --engine ray.")


def _predicted_parts(predict: PartPredictor, todo: Sequence[int]) -> Iterator[int]:
    for part in todo:
        predict(part)
        yield part


def _follow(work: Work, todo: Sequence[int], done: Iterable[int]) -> None:
    """Say how far the work is, as its parts come."""
    before = work.rows - sum(map(work.rows_of, todo))
    started = said = time.monotonic()
    rows = 0
    for part in done:
        rows += work.rows_of(part)
        now = time.monotonic()
        if now - said >= _SECONDS_BETWEEN_LINES or before + rows == work.rows:
            said, rate = now, rows / (now - started)
            left = timedelta(seconds=round((work.rows - before - rows) / rate))
            log.info("%s of %s rows, %.1f rows/s, %s left", f"{before + rows:,}", f"{work.rows:,}", rate, left)
