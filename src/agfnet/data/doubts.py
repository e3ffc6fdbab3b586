"""What a table says that can be read, and that is hardly meant: names of columns, formulas, values nearly alike.

None of these faults stops a reader of the table: where it is meant, it may stay.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Sequence

import polars as pl

from agfnet.data.table import PARTS, RESERVED, SCALE_SUFFIX
from agfnet.data.tablefile import Fault, RawTable

_LABEL = ("diagnosis", "lable")
"""What a column of diagnoses is called instead."""

_SPLIT = ("fold", "set", "subset", "partition", "part", "group")
"""What a column of parts is called instead, if it holds what parts are called."""

_PARTS = {*PARTS, "training", "trn", "val", "valid", "dev", "testing", "tst", "calib", "holdout"}


def name_faults(frame: pl.DataFrame, views: Sequence[str]) -> list[Fault]:
    """Columns whose names are nearly those of one that is not there: as a free column they would do nothing."""
    scales = [f"{view}{SCALE_SUFFIX}" for view in views]
    columns = ("case_id", "patient_id", "label", "split", "site", "reference_standard", *scales)
    wanted = [name for name in columns if name not in frame.columns]
    taken = {*RESERVED, *views, *scales}
    free = {name.casefold(): name for name in frame.columns if name not in taken}
    faults = []
    for name in wanted:
        near = [one for one in free if letters(one) == letters(name)]
        near += difflib.get_close_matches(name, free, n=1, cutoff=0.85)
        near += [one for one in _LABEL if name == "label" and one in free]
        near += [one for one in _SPLIT if name == "split" and one in free and _holds_parts(frame[free[one]])]
        if near and name in scales and near[0] == name.casefold():
            view = name.removesuffix(SCALE_SUFFIX)
            remedy = f"Rename {view} to {free[near[0]].removesuffix(SCALE_SUFFIX)}, so that both are written alike."
        elif near:
            remedy = f"Rename {free[near[0]]} to {name}, if it is that."
        if near:
            faults.append(
                Fault(
                    cause="missing-column",
                    message=f"there is no column {name}, but one that looks like it",
                    remedy=remedy,
                    row=1,
                    column=free[near[0]],
                )
            )
    return faults


def letters(name: str) -> str:
    """A name without capitals, blanks and signs."""
    return "".join(filter(str.isalnum, name.casefold()))


_PLACEHOLDERS = {
    "nan", "na", "n/a", "n.a.", "none", "null", "nil", "unknown", "-", "--", "?",
    "#n/a", "#na", "#ref!", "#value!", "#name?", "#num!", "#null!", "#div/0!",
}  # fmt: skip
"""What stands, in any capitals, for a value that is not there, or for a formula that failed."""

_FORMULA = re.compile(r"[=+@]|-(?!\d+([.,]\d+)?$)")
"""How a value begins that spreadsheets run; a negative number is none."""

_ROUNDED = re.compile(r"\d([.,]\d+)?[eE]\+?(1[1-9]|[2-9]\d)")
"""What a spreadsheet makes of a number of 12 digits or more: others that begin alike come out the same."""

_INSTEAD = {
    "case_id": "Give the case an id.",
    "patient_id": "Write whose it is, or delete the row.",
    "label": "Leave the cell empty where the diagnosis is not known. If it is one, name it in --classes.",
}


def _holds_parts(column: pl.Series) -> bool:
    values = {value.casefold() for value in column.drop_nulls()}
    return bool(values) and values <= _PARTS


def doubtful_faults(raw: RawTable, classes: Sequence[str] = ()) -> list[Fault]:
    """Ids and labels that are hardly meant.

    Args:
        raw: the table.
        classes: labels that are meant.

    Returns:
        A fault for each cell whose value says that there is none, is a formula or a rounded number, or cannot be a
        class, and for each patient, or label, that is written in nearly the same way as another and counts as two.
    """
    faults = [fault for column in _INSTEAD for fault in _value_faults(raw, column, classes)]
    return faults + _alike_faults(raw, "patient_id", "patient") + _alike_faults(raw, "label", "diagnosis")


def stands_for_none(value: str) -> bool:
    """Whether a value is what people and programs write where there is none, such as `nan`."""
    return value.casefold() in _PLACEHOLDERS


def _value_faults(raw: RawTable, column: str, meant: Sequence[str]) -> list[Fault]:
    if column not in raw.frame.columns:
        return []
    cells = pl.DataFrame({"row": raw.rows, "value": raw.frame[column]}).drop_nulls()
    faults = []
    for row, value in cells.rows():
        if column == "label" and value in meant:
            continue
        if stands_for_none(value):
            cause, remedy = "placeholder", _INSTEAD[column]
            message = f"{value!r} says that there is none, and counts as one like any other"
        elif _FORMULA.match(value):
            cause, remedy = "formula", "Write it without the sign that it begins with."
            message = f"{value!r} is a formula to a spreadsheet, also in the CSV files that are made of this table"
        elif column != "label" and _ROUNDED.fullmatch(value):
            cause, remedy = "rounded-id", "Format the column as text in the source, and export it again."
            message = f"{value!r} is a long number that a spreadsheet has rounded: others look the same now"
        elif column == "label" and ";" in value:
            cause, remedy = "separator", "Rename it everywhere before the table is split."
            message = f"{value!r}: diagnosis sets are written with `;` between their classes"
        else:
            continue
        faults.append(Fault(cause=cause, message=message, remedy=remedy, row=row, column=column))
    return faults


def plain(value: str) -> str:
    """A value without what a hand or a spreadsheet changes in it: equal for `P-03` and `p3`, for `0003`, `3` and `3.0`.

    Capitals, accents, letters without width, a full stop at the end, and leading zeros are dropped; so are blanks and
    dashes, but between digits, where `1-11` and `11-1` are two.
    """
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", value).casefold())
    text = "".join(c for c in text if unicodedata.category(c) != "Cf" and not "\u0300" <= c <= "\u036f")
    text = re.sub(r"(?<=\w)[\s_\-\u2010-\u2015]+(?=\w)", _between, text.strip().rstrip("."))
    return re.sub(r"(?<![\d.])0+(?=\d)", "", re.sub(r"^(\d+)\.0$", r"\1", text))


def _between(gap: re.Match[str]) -> str:
    before, after = gap.string[gap.start() - 1], gap.string[gap.end()]
    return "-" if before.isdecimal() and after.isdecimal() else ""


def _alike_faults(raw: RawTable, column: str, what: str) -> list[Fault]:
    """Values of a column that a reader takes for one; the rarer spelling is the fault."""
    if column not in raw.frame.columns:
        return []
    values = pl.DataFrame({"row": raw.rows, "value": raw.frame[column]}).drop_nulls()
    counts = values.group_by("value").agg(pl.len(), pl.col("row").min()).sort("len", "row", descending=[True, False])
    faults = []
    first: dict[str, tuple[str, int]] = {}
    for value, _, row in counts.rows():
        other, other_row = first.setdefault(plain(value), (value, row))
        if other != value:
            name = "label" if column == "label" else what
            message = (
                f"the {name}s {value!r} here and {other!r} in row {other_row} differ in case, accents, blanks, leading "
                "zeros or punctuation alone, and count as two"
            )
            remedy = f"Write {other!r} everywhere, if they are one {what}."
            faults.append(Fault(cause=f"alike-{name}s", message=message, remedy=remedy, row=row, column=column))
    return faults
