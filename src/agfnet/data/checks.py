"""Every fault of a case table and its images, each with row and remedy, rather than only the first.

Three levels: `quick` looks at the table and at each file's size, first bytes and DICOM header (of files by URL at the
size alone); `decode` also reads every image; `deep` also looks for the same or nearly the same picture under two
patients.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import polars as pl

from agfnet.cores import cores
from agfnet.data import duplicates
from agfnet.data.classes import label_faults
from agfnet.data.doubts import doubtful_faults, name_faults
from agfnet.data.imagefile import DEFAULT_LIMITS, MM_PER_PIXEL_RANGE, CodedImageError, ImageLimits, check_unopened
from agfnet.data.images import Said, check_shown, read_said, read_scaled_image
from agfnet.data.locate import locate_images, nearly_named
from agfnet.data.said import said_faults
from agfnet.data.table import KNOWN_VIEWS, SCALE_SUFFIX, infer_views, scales_of, structural_faults
from agfnet.data.tablefile import Fault, RawTable, load_table
from agfnet.places import Url, look_up, place
from agfnet.types import Place

Level = Literal["quick", "decode", "deep"]
Progress = Callable[[int, int], None]
MANY, FIRST = 10, 5
"""Of a fault that more than so many rows have in a column, so many are shown."""
ODD_SCALE = 10.0
"""How many times the usual scale of its view's images an image's may be, or go into it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a check found.

    Attributes:
        path: the table.
        level: how far it was checked.
        faults: in the order of rows; those of the whole table first.
        cases: number of rows that could be read.
        patients: number of patients.
        images: view -> number of images listed.
        scaled: view -> number of those whose millimetres per pixel are known, from the table or the file.
        classes: label -> number of cases.
        parts: part of the split -> number of cases.
        unlabelled: number of cases without a label; None: the table has no column for it.
    """

    path: Place
    level: Level
    faults: list[Fault]
    cases: int = 0
    patients: int = 0
    images: Mapping[str, int] = field(default_factory=dict)
    scaled: Mapping[str, int] = field(default_factory=dict)
    classes: Mapping[str, int] = field(default_factory=dict)
    parts: Mapping[str, int] = field(default_factory=dict)
    unlabelled: int | None = None

    @property
    def ok(self) -> bool:
        """Whether there is no fault."""
        return not self.faults

    def lines(self) -> list[str]:
        """A line for each fault; of one that many rows of a column have, for the first, and one for the others."""
        alike: dict[tuple[str, str | None], list[Fault]] = {}
        for fault in self.faults:
            alike.setdefault((fault.cause, fault.column), []).append(fault)
        told = []
        for (cause, column), faults in alike.items():
            shown = faults if len(faults) <= MANY else faults[:FIRST]
            told += [str(fault) for fault in shown]
            if len(shown) < len(faults):
                rows = f"rows {faults[FIRST].row} to {faults[-1].row}" if faults[FIRST].row is not None else "the table"
                where = rows + (f", column {column}" if column else "")
                told.append(f"{where}: {len(faults) - FIRST} more like these; --all shows each. [{cause}]")
        return told


def check_table(
    path: str | Place,
    *,
    views: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    extra_labels: Sequence[str] = (),
    data_root: str | Place | None = None,
    level: Level = "decode",
    min_patients_per_class: int = 4,
    progress: Progress | None = None,
    need_labels: bool = False,
    limits: ImageLimits = DEFAULT_LIMITS,
    workers: int | None = None,
) -> Report:
    """Check a case table and the images that it names.

    Args:
        path: the table, .csv or .parquet, local or by URL.
        views: the view columns; None infers them.
        classes: the labels that are known; None: any label is.
        extra_labels: columns that are further labels.
        data_root: see `agfnet.data.table.read_cases`.
        level: `quick`, `decode` or `deep`. Deep results are kept in `<table>.hashes.sqlite` beside the table,
            or in the working directory for a table by URL, so that a run that was stopped goes on where it was.
        min_patients_per_class: fewest patients of a class, where the table has labels; four parts need four.
            At 0 classes are not counted, as is right for a table to predict or evaluate.
        progress: called with (images done, images in all) at levels `decode` and `deep`.
        need_labels: whether every row must have a label, rather than those of the training part.
        limits: what an image may be.
        workers: threads that decode; None takes one per core.

    Returns:
        Every fault, and counts.

    Raises:
        ConfigError: level `deep` without the imagehash package.
        TableError: level `deep`, and its results cannot be kept beside the table.
    """
    path = place(path)
    raw, faults = load_table(path)
    if raw is None:
        return Report(path=path, level=level, faults=faults)
    guessed = set() if views is not None else {*infer_views(raw.frame)} - {*KNOWN_VIEWS}
    views = infer_views(raw.frame) if views is None else tuple(views)
    faults += structural_faults(raw, views, extra_labels)
    images, outside = locate_images(raw, views, path.parent, data_root)
    faults += outside
    faults += _absent_faults(raw, views, images, {fault.row for fault in outside})
    faults += name_faults(raw.frame, views)
    faults += doubtful_faults(raw, classes or ())
    faults += label_faults(raw, classes, min_patients_per_class, need_labels)
    uses = _with_ids(raw, images)
    faults += _repeat_faults(uses) + _scale_faults(uses)
    wrong, said = _file_faults(
        uses, path, level, limits, guessed=guessed, workers=workers or cores(), progress=progress
    )
    faults += wrong
    known = [path for path, own in said.items() if own.mm_per_pixel is not None]
    scaled = uses.filter(pl.col("mm_per_pixel").is_not_null() | pl.col("path").is_in(known))
    frame = raw.frame
    return Report(
        path=path,
        level=level,
        faults=sorted(faults, key=lambda fault: fault.row or 0),
        cases=frame.height,
        patients=frame["patient_id"].drop_nulls().n_unique() if "patient_id" in frame.columns else 0,
        images={view: images.filter(pl.col("view") == view).height for view in views},
        scaled={view: scaled.filter(pl.col("view") == view).height for view in views},
        classes=_counts(frame, "label"),
        parts=_counts(frame, "split"),
        unlabelled=frame["label"].null_count() if "label" in frame.columns else None,
    )


def _counts(frame: pl.DataFrame, column: str) -> dict[str, int]:
    if column not in frame.columns:
        return {}
    return dict(frame[column].drop_nulls().value_counts().sort(column).rows())


def _absent_faults(raw: RawTable, views: Sequence[str], images: pl.DataFrame, outside: set[int | None]) -> list[Fault]:
    if not any(view in raw.frame.columns for view in views):
        return []
    seen = set(images["row"]) | outside
    remedy = f"Give it an image in at least one of: {', '.join(views)}; or delete the row."
    return [
        Fault(cause="all-views-absent", message="the case has no image", remedy=remedy, row=row)
        for row in raw.rows.tolist()
        if row not in seen
    ]


def _with_ids(raw: RawTable, images: pl.DataFrame) -> pl.DataFrame:
    """The lines of `images` with case, patient, split, label and mm_per_pixel (null where there is no such column)."""
    ids = pl.DataFrame(
        {
            name: raw.frame[column]
            if column in raw.frame.columns
            else pl.Series([None] * raw.frame.height, dtype=pl.String)
            for name, column in zip(
                ("case", "patient", "split", "label"), ("case_id", "patient_id", "split", "label"), strict=True
            )
        }
    ).with_row_index("index")
    names = [name for name in raw.frame.columns if name.endswith(SCALE_SUFFIX)]
    scales = raw.frame.select(scales_of(*names)).with_row_index("index")
    scales = scales.unpivot(index="index", variable_name="view", value_name="mm_per_pixel")
    scales = scales.with_columns(pl.col("view").str.strip_suffix(SCALE_SUFFIX)).filter(
        pl.col("mm_per_pixel").is_between(*MM_PER_PIXEL_RANGE)  # another is a fault by itself
    )
    return images.join(ids, on="index", how="left", maintain_order="left").join(
        scales, on=["index", "view"], how="left", maintain_order="left"
    )


def _repeat_faults(uses: pl.DataFrame) -> list[Fault]:
    """One path under two patients, or two diagnoses of one patient."""
    faults: list[Fault] = []
    for column, same, cause, what, remedy in (
        (
            "patient", ["path"], "image-of-two-patients", "patient",
            "Correct the path or the patient_id: one image shows one patient.",
        ),
        ("label", ["path", "patient"], "image-of-two-diagnoses", "the diagnosis", duplicates.ONE_LESION),
    ):  # fmt: skip
        first = pl.col("row", column).first().over(same).name.prefix("first_")
        shared = uses.drop_nulls(column).with_columns(first).filter(pl.col(column) != pl.col(f"first_{column}"))
        for row, view, path, value, first_row, first_value in shared.select(
            "row", "view", "path", column, "first_row", f"first_{column}"
        ).rows():
            message = f"{path} is listed for {what} {value!r} here and for {first_value!r} in row {first_row}"
            faults.append(Fault(cause=cause, message=message, remedy=remedy, row=row, column=view))
    return faults


def _scale_faults(uses: pl.DataFrame) -> list[Fault]:
    """Millimetres per pixel that are far from those of the view's other images: another unit, most often."""
    usual = pl.col("mm_per_pixel").median().over("view").alias("usual")
    ratio = pl.col("mm_per_pixel") / pl.col("usual")
    odd = uses.with_columns(usual).filter(~ratio.is_between(1 / ODD_SCALE, ODD_SCALE))
    return [
        Fault(
            cause="odd-scale",
            message=f"a pixel of {own:g} mm, and {usual:g} mm in the middle of this view's images",
            remedy="Give millimetres of one pixel of the file as it is stored: not micrometres or centimetres.",
            row=row,
            column=f"{view}{SCALE_SUFFIX}",
        )
        for row, view, own, usual in odd.select("row", "view", "mm_per_pixel", "usual").unique().rows()
    ]


def _file_faults(
    uses: pl.DataFrame,
    table: Place,
    level: Level,
    limits: ImageLimits,
    *,
    guessed: Collection[str],
    workers: int,
    progress: Progress | None,
) -> tuple[list[Fault], Mapping[str, Said]]:
    """What is wrong with the files, and what they say of themselves; `guessed` views may be none."""
    paths: list[str] = uses["path"].unique(maintain_order=True).to_list()
    errors, said = _quick_look(paths, level, limits, workers)
    readable = [path for path in paths if path not in errors]
    shared: list[Fault] = []
    if level == "decode":

        def decoded(where: Place) -> Said:
            made = read_scaled_image(where, limits=limits, at_least=duplicates.DECODE_SIDE)
            check_shown(where, made.pixels)
            return made.said

        failed, more = _looked(decoded, readable, workers, progress)
        errors, said = errors | failed, said | more
    elif level == "deep":
        store = (table.parent if isinstance(table, Path) else Path()) / f"{table.name}.hashes.sqlite"
        hashes, failed = duplicates.hash_images(readable, store, limits=limits, workers=workers, progress=progress)
        errors |= failed
        fetched = {path: own for path, own in hashes.items() if isinstance(place(path), Url)}
        said |= {path: Said(own.mm_per_pixel) for path, own in fetched.items()}
        # Whose an image is can be kept nowhere: only those that name a patient are asked again.
        failed, more = _looked(
            partial(read_said, limits=limits), [path for path, own in fetched.items() if own.names_patient], workers
        )
        errors, said = errors | failed, said | more
        first = uses.unique("path", keep="first", maintain_order=True)
        first_uses = {
            path: duplicates.Use(*rest)
            for path, *rest in first.select("path", "row", "view", "case", "patient", "split", "label").rows()
        }
        shared = duplicates.duplicate_faults(hashes, first_uses)
    there = nearly_named(path for path, error in errors.items() if error.cause == "missing-file")
    unusable = [
        Fault(
            cause=errors[path].cause,
            message=f"{path}: {errors[path].problem}",
            remedy=_remedy(path, errors[path], there.get(path), guessed=view in guessed),
            row=row,
            column=view,
        )
        for row, view, path in uses.select("row", "view", "path").rows()
        if path in errors
    ]
    return [*shared, *said_faults(uses, said), *unusable], said


def _remedy(path: str, error: CodedImageError, there: str | None, *, guessed: bool) -> str:
    """What to do about a file that cannot be used; `there` is a name in its folder that is nearly its own."""
    if there is not None:
        name = os.path.basename(path)  # noqa: PTH119  may be a URL
        if unicodedata.normalize("NFC", there) == unicodedata.normalize("NFC", name):
            form = "nfc" if unicodedata.is_normalized("NFC", name) else "nfd"
            return (
                "The folder holds that name with its accents stored otherwise, as copies between systems make it. "
                f"Rename the files; `convmv -f utf8 -t utf8 --{form} -r --notest FOLDER` does all."
            )
        return f"The folder holds {there!r}: write that, or rename it; capitals count."
    if error.cause == "missing-file" and guessed:
        return f"{error.remedy} If the column is no view, name those that are: --views."
    return error.remedy


_Looked = tuple[dict[str, CodedImageError], dict[str, Said]]
"""Path -> what is wrong with the file, or what it says of itself."""


def _quick_look(paths: Sequence[str], level: Level, limits: ImageLimits, workers: int) -> _Looked:
    """A look without decoding; of files by URL at their size alone, and at nothing where decoding follows."""
    urls = [path for path in paths if isinstance(place(path), Url)]
    errors, said = _looked(partial(read_said, limits=limits), sorted({*paths} - {*urls}), workers)
    if urls and level == "quick":
        look_up([url for url in map(place, urls) if isinstance(url, Url)])
        errors |= _looked(partial(check_unopened, limits=limits), urls, workers)[0]
    return errors, said


def _looked(
    look: Callable[[Place], Said | None], paths: Sequence[str], workers: int, progress: Progress | None = None
) -> _Looked:
    def one(path: str) -> Said | CodedImageError | None:
        try:
            return look(place(path))
        except CodedImageError as error:
            return error

    errors: dict[str, CodedImageError] = {}
    said: dict[str, Said] = {}
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(paths), duplicates.BATCH):
            batch = paths[start : start + duplicates.BATCH]
            for path, found in zip(batch, pool.map(one, batch), strict=True):
                if isinstance(found, CodedImageError):
                    errors[path] = found
                elif found is not None and found != Said():
                    said[path] = found
            if progress is not None:
                progress(start + len(batch), len(paths))
    return errors, said
