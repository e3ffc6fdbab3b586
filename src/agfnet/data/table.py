"""The case table: one row per lesion; what its columns mean, and the faults that make it unusable.

Columns: `case_id`, `patient_id`, `label` (optional), one per view with image paths (absolute, or relative to
the table's folder; empty where the view is absent; several joined by `;`), and optionally `split`, `site`,
`reference_standard` and `<view>_mm_per_pixel`. Every further column is a free attribute, or a further label
where the caller names it so.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

import polars as pl

from agfnet.config import DataConfig, ViewConfig
from agfnet.data.imagefile import MM_PER_PIXEL_RANGE
from agfnet.data.images import IMAGE_SUFFIXES
from agfnet.data.locate import locate_images
from agfnet.data.preprocess import ViewSpec
from agfnet.data.tablefile import Fault, RawTable, load_table
from agfnet.kinds import KINDS
from agfnet.places import place
from agfnet.types import Case, Place, TableError

log = logging.getLogger("agfnet")
PARTS = ("train", "validation", "calibration", "test")
KNOWN_VIEWS = tuple(kind.view for kind in KINDS.values())
RESERVED = ("case_id", "patient_id", "label", "split", "site", "reference_standard")
SCALE_SUFFIX = "_mm_per_pixel"
_SHOWN_FAULTS = 5


def read_cases(
    path: str | Place,
    *,
    views: Sequence[str] | Callable[[pl.DataFrame], Sequence[str]] | None = None,
    extra_labels: Sequence[str] = (),
    data_root: str | Place | None = None,
) -> list[Case]:
    """Read a case table. Images are not opened; `agfnet.data.checks.check_table` does that.

    Args:
        path: the table, .csv or .parquet, local or by URL; so may be the images.
        views: the view columns, or what tells them from the table's frame; None infers them with `infer_views`.
        extra_labels: columns that are further labels.
        data_root: the folder that every image must lie in, absolute paths included. Without it, relative
            paths must lie in the table's folder and absolute ones may lie anywhere. Relative paths start from
            the table's folder either way.

    Returns:
        One case per row, in the table's order; image paths are absolute, with symbolic links resolved.

    Raises:
        TableError: the table cannot be used; the message names the first faults with row and remedy.
    """
    path = place(path)
    raw, faults = load_table(path)
    if raw is None:
        raise table_error(path, faults)
    chosen = infer_views if views is None else views
    views = tuple(chosen(raw.frame) if callable(chosen) else chosen)
    faults += structural_faults(raw, views, extra_labels)
    images, path_faults = locate_images(raw, views, path.parent, data_root)
    faults += path_faults
    if faults:
        raise table_error(path, faults)
    return as_cases(raw, views, tuple(extra_labels), images)


def own_cases(data: DataConfig) -> list[Case]:
    """The cases of a configuration's table that have an image of one of its views."""
    every = read_cases(data.table, views=list(data.views), extra_labels=data.extra_labels, data_root=data.data_root)
    cases = [case for case in every if case.images]
    if len(cases) < len(every):
        without = f"no image of {' or '.join(data.views)}"
        log.warning(
            "%s: %d of %d cases have %s; they are left out", data.table, len(every) - len(cases), len(every), without
        )
    say_scales(cases, data.views)
    return cases


def say_scales(cases: Sequence[Case], views: Mapping[str, ViewConfig | ViewSpec]) -> None:
    """Warn of images whose scale the table does not give, in views that the network sees at a fixed one."""
    for view, seen in views.items():
        having = [case for case in cases if case.views.get(view)]
        say_scale(view, seen.mm_per_pixel, sum(view not in case.mm_per_pixel for case in having), len(having))


def say_scale(view: str, mm_per_pixel: float | None, lacking: int, having: int) -> None:
    """Warn of cases, of those that have a view, whose images lack a scale where the network sees it at a fixed one."""
    if mm_per_pixel is not None and lacking:
        log.warning(
            "%d of %d cases have no %s%s. The network sees this view at %g mm per pixel; such an image is fitted "
            "to its frame whatever it measures, unless it is a calibrated DICOM file, and may be misjudged.",
            lacking, having, view, SCALE_SUFFIX, mm_per_pixel,
        )  # fmt: skip


def cases_sha256(*parts: Sequence[Case]) -> str:
    """SHA-256 of the ids of cases, part by part, in their order: whether two tables have the same parts."""
    return hashlib.sha256(repr([[case.case_id for case in part] for part in parts]).encode()).hexdigest()


def infer_views(frame: pl.DataFrame) -> tuple[str, ...]:
    """Tell which columns are views, in the table's order.

    A column is a view when most of its non-empty values end in a known image suffix, when it has one of the
    names in `KNOWN_VIEWS`, or when there is a `<column>_mm_per_pixel`.

    Args:
        frame: the table; only columns of type String are looked at.
    """
    views = []
    for name, dtype in frame.schema.items():
        if dtype != pl.String or name in RESERVED or name.endswith(SCALE_SUFFIX):
            continue
        named = name in KNOWN_VIEWS or f"{name}{SCALE_SUFFIX}" in frame.columns
        pattern = "(?i)(" + "|".join(suffix.replace(".", r"\.") for suffix in IMAGE_SUFFIXES) + r")[\s;]*$"
        if named or (frame[name].drop_nulls().str.contains(pattern).mean() or 0.0) > 0.5:  # type: ignore[operator]
            views.append(name)
    return tuple(views)


def table_error(path: Place, faults: Sequence[Fault]) -> TableError:
    """The error for a table with these faults, showing the first of them."""
    faults = sorted(faults, key=lambda fault: fault.row or 0)
    lines = [f"  {fault}" for fault in faults[:_SHOWN_FAULTS]]
    if len(faults) > _SHOWN_FAULTS:
        lines.append(f"  and {len(faults) - _SHOWN_FAULTS} more; `agfnet check {path} --all` lists them")
    return TableError("\n".join([f"{path}: the case table has {len(faults)} fault(s)", *lines]))


def structural_faults(raw: RawTable, views: Sequence[str], extra_labels: Sequence[str]) -> list[Fault]:
    """Faults of columns, ids, splits and scales: those that no reader of the table can work around."""
    frame = raw.frame
    faults = _column_faults(frame, views, extra_labels)
    if "case_id" in frame.columns:
        faults += _id_faults(raw, "case_id")
        ids = pl.DataFrame({"id": frame["case_id"], "row": raw.rows}).drop_nulls("id")
        ids = ids.with_columns(first=pl.col("row").min().over("id"))
        for name, row, first in ids.filter(pl.col("row") != pl.col("first")).rows():
            faults.append(duplicate_case(name, row, first))
    if "patient_id" in frame.columns:
        faults += _id_faults(raw, "patient_id")
    if "split" in frame.columns:
        faults += _split_faults(raw)
    for view in views:
        if f"{view}{SCALE_SUFFIX}" in frame.columns:
            faults += _scale_faults(raw, f"{view}{SCALE_SUFFIX}")
    return faults


def duplicate_case(name: str, row: int, first: int) -> Fault:
    """The fault of a row whose case_id stands in an earlier row."""
    message = f"case {name!r} stands in row {first} already"
    remedy = "Give each lesion its own case_id; join several images of a view with `;` in one row."
    return Fault(cause="duplicate-case", message=message, remedy=remedy, row=row, column="case_id")


def _column_faults(frame: pl.DataFrame, views: Sequence[str], extra_labels: Sequence[str]) -> list[Fault]:
    def missing(name: str, what: str) -> Fault:
        remedy = f"Add the column, or correct its name; the table has: {', '.join(frame.columns)}."
        return Fault(cause="missing-column", message=f"there is no {what}", remedy=remedy, row=1, column=name)

    faults = [missing(name, f"column {name}") for name in ("case_id", "patient_id") if name not in frame.columns]
    faults += [missing(view, f"view column {view}") for view in views if view not in frame.columns]
    faults += [missing(name, f"label column {name}") for name in extra_labels if name not in frame.columns]
    for name in frame.columns:
        view = name.removesuffix(SCALE_SUFFIX)
        if view != name and view not in frame.columns:
            faults.append(missing(view, f"view column {view} for {name}"))
    if not views:
        remedy = f"Add a column of image paths, for example `{KNOWN_VIEWS[0]}`, or name the view columns."
        message = "no column holds image paths"
        faults.append(Fault(cause="no-view-column", message=message, remedy=remedy, row=1))
    return faults


def _id_faults(raw: RawTable, column: str) -> list[Fault]:
    what = "case" if column == "case_id" else "patient"
    remedy = "Give every row an id." if what == "case" else "Give every row its patient; lesions of one share it."
    return [
        Fault(cause="missing-id", message=f"the {what} has no id", remedy=remedy, row=row, column=column)
        for row in raw.rows[raw.frame[column].is_null().to_numpy()].tolist()
    ]


def _split_faults(raw: RawTable) -> list[Fault]:
    faults = []
    splits = pl.DataFrame({"row": raw.rows, "split": raw.frame["split"]})
    for row, split in splits.filter(~pl.col("split").is_in(PARTS)).rows():
        message, remedy = (
            f"{split!r} is no part of a split",
            f"Write one of: {', '.join(PARTS)}; or leave it empty.",
        )
        faults.append(Fault(cause="unknown-split", message=message, remedy=remedy, row=row, column="split"))
    if "patient_id" in raw.frame.columns:
        splits = splits.with_columns(patient=raw.frame["patient_id"]).drop_nulls()
        first = pl.all().sort_by("row").first().over("patient").name.prefix("first_")
        torn = splits.with_columns(first).filter(pl.col("split") != pl.col("first_split"))
        for row, split, patient, first_row, first_split in torn.select(
            "row", "split", "patient", "first_row", "first_split"
        ).rows():
            message = f"patient {patient!r} is in {split} here and in {first_split} in row {first_row}"
            remedy = "Put all rows of a patient in one part; `agfnet split` does so."
            faults.append(Fault(cause="patient-in-two-splits", message=message, remedy=remedy, row=row, column="split"))
    return faults


def _scale_faults(raw: RawTable, column: str) -> list[Fault]:
    low, high = MM_PER_PIXEL_RANGE
    scales = pl.DataFrame({"row": raw.rows, "text": raw.frame[column]}).drop_nulls("text")
    scales = scales.with_columns(value=scales_of("text"))
    good = pl.col("value").is_not_null() & pl.col("value").is_between(low, high)
    remedy = f"Write millimetres per pixel, {low} to {high}; not pixels per mm."
    several = f"Write one value, {low} to {high} mm per pixel, for all images of the view; or leave the cell empty."
    return [
        Fault(
            cause="bad-mm-per-pixel",
            message=f"{text!r} is no scale",
            remedy=several if ";" in text else remedy,
            row=row,
            column=column,
        )
        for row, text in scales.filter(~good).select("row", "text").rows()
    ]


def scales_of(*columns: str) -> pl.Expr:
    """Columns of scales as numbers, null where they are none; a comma is a decimal one."""
    return pl.col(columns).str.replace(",", ".", literal=True).cast(pl.Float64, strict=False)


def as_cases(raw: RawTable, views: Sequence[str], extra_labels: Sequence[str], images: pl.DataFrame) -> list[Case]:
    """One case per row of a table without structural faults.

    Args:
        raw: the table.
        views: its view columns.
        extra_labels: columns that are further labels.
        images: what `agfnet.data.locate.locate_images` gives.
    """
    files: list[dict[str, list[Place]]] = [{view: [] for view in views} for _ in range(raw.frame.height)]
    for index, view, path in images.select("index", "view", "path").rows():
        files[index][view].append(place(path))
    scales = {view: f"{view}{SCALE_SUFFIX}" for view in views if f"{view}{SCALE_SUFFIX}" in raw.frame.columns}
    taken = {*RESERVED, *views, *extra_labels, *scales.values()}
    free = [name for name in raw.frame.columns if name not in taken]
    records = raw.frame.with_columns(scales_of(*scales.values())).iter_rows(named=True)
    return [
        Case(
            case_id=record["case_id"] or "",
            patient_id=record["patient_id"] or "",
            row=row,
            views={view: tuple(paths) for view, paths in files[index].items()},
            label=record.get("label"),
            extra_labels=_some(record, extra_labels),
            mm_per_pixel={view: value for view, name in scales.items() if (value := record[name]) is not None},
            split=record.get("split"),
            site=record.get("site"),
            reference_standard=record.get("reference_standard"),
            attributes=_some(record, free),
        )
        for index, (row, record) in enumerate(zip(raw.rows.tolist(), records, strict=True))
    ]


def _some(record: Mapping[str, str | None], names: Iterable[str]) -> dict[str, str | None]:
    return {name: record[name] for name in names}
