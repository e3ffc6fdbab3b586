"""One part of bulk prediction: the same function in every engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

import agfnet
from agfnet.data.locate import locate_images
from agfnet.data.table import as_cases, structural_faults
from agfnet.data.tablefile import Fault, RawTable
from agfnet.files import write_atomically
from agfnet.places import place
from agfnet.prediction.bulk_plan import PLAN, PREDICTIONS, QUARANTINE, part_file, read_part, read_work, unread
from agfnet.prediction.output import outcome_table
from agfnet.prediction.predictor import Predictor
from agfnet.types import BundleError, Case, ConfigError

_REASONS = {"row": pl.Int64, "case_id": pl.String, "reason": pl.String}


class PartPredictor:
    """Predicts parts of a planned folder.

    Args:
        folder: see `agfnet.prediction.bulk_plan`.
        predictor: of the bundle and with the settings that the work was planned for.

    Raises:
        BundleError: it is of another bundle.
        ConfigError: the folder is not planned, or by another version of this package.
    """

    def __init__(self, folder: Path, predictor: Predictor) -> None:
        self.folder = folder
        self.predictor = predictor
        self.work = read_work(folder)
        found, planned = predictor.bundle.sha256, self.work.bundle_sha256
        if found != planned:
            raise BundleError(f"the bundle (SHA-256 {found}) is not that of {folder} ({planned}). Copy that one here.")
        if self.work.settings.version != agfnet.__version__:
            raise ConfigError(
                f"{folder}: was planned by agfnet {self.work.settings.version}, and this is {agfnet.__version__}. Have "
                "one version on all machines."
            )

    def __call__(self, part: int) -> None:
        """Predict a part: its quarantine is written first, its predictions last.

        Rows are in quarantine for their own faults, in the table or in the image files. Of a part that is done the rows
        whose images could not be read are asked about again; then the predictions, which hold what was there before,
        are written first, so that a stop loses none.
        """
        staged = read_part(self.folder, PLAN, part)
        file = part_file(self.folder, PREDICTIONS, part)
        if not file.exists():
            told, bad = self._asked(staged)
            self._write(QUARANTINE, part, bad)
            self._write(PREDICTIONS, part, told)
            return
        again = unread(self.folder, part)
        if not len(again):
            return
        told, bad = self._asked(staged.filter(pl.col("row").is_in(again.to_list())))
        before, kept = (read_part(self.folder, kind, part) for kind in (PREDICTIONS, QUARANTINE))
        told = pl.concat([before.filter(~pl.col("row").is_in(told["row"].to_list())), told])
        kept = pl.concat([kept.filter(~pl.col("row").is_in(again.to_list())), bad])
        self._write(PREDICTIONS, part, told.sort("row"))
        self._write(QUARANTINE, part, kept.sort("row"))

    def _asked(self, staged: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The predictions of staged rows, and the quarantine of the others."""
        cases, reasons = self._cases(staged)
        outcomes = list(self.predictor.predict(cases, batch_size=self.work.settings.batch))
        reasons |= {outcome.case.row: outcome.error for outcome in outcomes if outcome.error is not None}
        bad = [
            (row, case_id, reasons[row]) for row, case_id in staged.select("row", "case_id").rows() if row in reasons
        ]
        good = [outcome for outcome in outcomes if outcome.error is None]
        told = outcome_table(good, self.predictor)
        rows = pl.Series("row", [outcome.case.row for outcome in good], dtype=pl.Int64)
        return told.drop("error").insert_column(0, rows), pl.DataFrame(bad, schema=_REASONS, orient="row")

    def _cases(self, staged: pl.DataFrame) -> tuple[list[Case], dict[int, str]]:
        """The cases of a part, and row -> reason of the rows that cannot be used."""
        views, settings = self.work.views, self.work.settings
        reasons = dict(staged.select("row", "reason").drop_nulls("reason").rows())
        reasons |= _by_row(structural_faults(_usable(staged, reasons), views, ()))
        raw = _usable(staged, reasons)
        images, outside = locate_images(raw, views, place(settings.table_folder), settings.data_root)
        reasons |= _by_row(outside)
        return [case for case in as_cases(raw, views, (), images) if case.row not in reasons], reasons

    def _write(self, kind: str, part: int, frame: pl.DataFrame) -> None:
        write_atomically(part_file(self.folder, kind, part), frame.write_parquet)


def _usable(staged: pl.DataFrame, reasons: Mapping[int, str]) -> RawTable:
    """The rows for which there is no reason yet."""
    kept = staged.filter(~pl.col("row").is_in(list(reasons)))
    return RawTable(kept.drop("row", "reason"), kept["row"].to_numpy())


def _by_row(faults: Sequence[Fault]) -> dict[int, str]:
    said: dict[int, list[str]] = {}
    for fault in faults:
        if fault.row is not None:
            said.setdefault(fault.row, []).append(str(fault))
    return {row: " ".join(own) for row, own in said.items()}
