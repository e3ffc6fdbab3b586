"""Faults of the diagnoses of a case table: missing, unknown, or too few to be learnt and tried."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import polars as pl

from agfnet.data.doubts import stands_for_none
from agfnet.data.table import PARTS
from agfnet.data.tablefile import Fault, RawTable


def label_faults(raw: RawTable, classes: Sequence[str] | None, min_patients: int, need_labels: bool) -> list[Fault]:
    """What is wrong with the labels; for the arguments see `agfnet.data.checks.check_table`."""
    faults: list[Fault] = []
    learnt = pl.col("split") == "train" if min_patients > 0 and "split" in raw.frame.columns else pl.lit(value=False)
    needed = raw.frame.select(need=learnt.fill_null(value=False) | need_labels)["need"]
    if "label" not in raw.frame.columns:
        if needed.any():
            remedy = "Add the column with the diagnosis of every case."
            message = "there is no column label"
            fault = Fault(cause="missing-column", message=message, remedy=remedy, row=1, column="label")
            faults.append(fault)
        return faults
    labels = pl.DataFrame({"row": raw.rows, "label": raw.frame["label"]})
    what = "case" if need_labels else "training case"
    remedy = "Write the diagnosis, or delete the row."
    for row in labels.filter(pl.col("label").is_null() & needed)["row"]:
        message = f"the {what} has no label"
        faults.append(Fault(cause="missing-label", message=message, remedy=remedy, row=row, column="label"))
    known = labels.drop_nulls()
    if classes is not None:
        for row, label in known.filter(~pl.col("label").is_in(list(classes))).rows():
            if stands_for_none(label):  # a fault by itself
                continue
            folded = {name.casefold(): name for name in classes}
            close = [folded[name] for name in difflib.get_close_matches(label.casefold(), folded)]
            remedy = f"Did you mean {close[0]!r}?" if close else f"Write one of: {', '.join(classes)}."
            message = f"{label!r} is no known class"
            faults.append(Fault(cause="unknown-label", message=message, remedy=remedy, row=row, column="label"))
    if min_patients > 0 and known.height and "patient_id" in raw.frame.columns:
        faults += _class_size_faults(raw.frame, min_patients)
    if min_patients > 0 and "split" in raw.frame.columns:
        faults += _class_part_faults(raw.frame)
    return faults


def _class_size_faults(frame: pl.DataFrame, min_patients: int) -> list[Fault]:
    faults: list[Fault] = []
    sizes = frame.drop_nulls("label").group_by("label").agg(pl.col("patient_id").drop_nulls().n_unique())
    for label, size in sizes.filter(pl.col("patient_id") < min_patients).sort("label").rows():
        message = f"class {label!r} has {size} patient(s), fewer than the {min_patients} that splitting needs"
        remedy = "Add patients, merge the class with another, or correct the label if it is a slip."
        faults.append(Fault(cause="few-patients", message=message, remedy=remedy, column="label"))
    if sizes.height == 1:
        message = f"every label is {sizes['label'][0]!r}"
        remedy = "A classifier needs cases of two classes or more."
        faults.append(Fault(cause="one-class", message=message, remedy=remedy, column="label"))
    return faults


def _class_part_faults(frame: pl.DataFrame) -> list[Fault]:
    """Classes that a part of the table, where it has that part, is without."""
    faults: list[Fault] = []
    known = frame.select("label", "split").drop_nulls().filter(pl.col("split").is_in(PARTS))
    parts = [part for part in PARTS if part in set(known["split"])]
    for label, own in known.group_by("label").agg(pl.col("split").unique()).sort("label").rows():
        if absent := [part for part in parts if part not in own]:
            message = f"no {' or '.join(absent)} case is {label!r}"
            remedy = "Give each class a patient in every part, as `agfnet split` does; or merge it with another class."
            faults.append(Fault(cause="class-not-in-part", message=message, remedy=remedy, column="split"))
    return faults
