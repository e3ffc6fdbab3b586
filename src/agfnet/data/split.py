"""Patient-disjoint parts and folds, stratified by label: one deterministic mechanism for both.

Within each class the patients are ordered by a keyed hash of their id, so the result depends on the seed and
the ids alone, not on the order of rows. Classes are dealt out rarest first; what rounding gives one part too
much in a class is made good in the next, so the sizes of the parts stay right over all classes.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from agfnet.data.doubts import doubtful_faults
from agfnet.data.table import PARTS, infer_views, structural_faults, table_error
from agfnet.data.tablefile import load_table
from agfnet.data.tablewrite import check_not_over, write_table
from agfnet.places import joined, place
from agfnet.types import Case, ConfigError, Place, TableError

log = logging.getLogger("agfnet")
UNEVEN = 0.1
"""A part whose share of the cases is off by more, where one patient has more, is told of."""

DEFAULT_FRACTIONS: Mapping[str, float] = {
    "train": 0.6,
    "validation": 0.15,
    "calibration": 0.1,
    "test": 0.15,
}


def split_table(
    table: pl.DataFrame | Sequence[Case],
    *,
    fractions: Mapping[str, float] = DEFAULT_FRACTIONS,
    seed: int = 0,
) -> list[str]:
    """Give every row its part, so that no patient is in two and every class is in each.

    A patient with several labels counts by the one that the fewest patients have. Rows without a label are
    split too, as a class of their own that need not be in every part.

    Args:
        table: a frame with `patient_id` and, optionally, `label`; or cases.
        fractions: part -> share of the patients; shares are over 0 and sum to 1.
        seed: of the draw.

    Returns:
        The part of each row, in the table's order.

    Raises:
        ConfigError: the fractions are not as they must be.
        TableError: a class has too few patients to be in every part, or a row has no patient.
    """
    unknown = set(fractions) - set(PARTS)
    if unknown or not fractions:
        message = f"fractions name {sorted(unknown) or 'nothing'}. Name some of: {', '.join(PARTS)}."
        raise ConfigError(message)
    if min(fractions.values()) <= 0 or not math.isclose(sum(fractions.values()), 1, abs_tol=1e-6):
        told = ", ".join(f"{part} {share:g}" for part, share in fractions.items())
        message = f"the parts' shares ({told}) sum to {sum(fractions.values()):g}. Give shares of 1, none below 0."
        raise ConfigError(message)
    patients, labels = _columns(table)
    parts = [part for part in PARTS if part in fractions]
    shares = np.array([fractions[part] for part in parts])
    places = _deal(patients, labels, shares / shares.sum(), seed, "parts")
    return [parts[places[patient]] for patient in patients]


def patient_folds(cases: Sequence[Case], k: int, seed: int = 0) -> list[NDArray[np.int64]]:
    """Cut cases into k folds, so that no patient is in two and every class is in each.

    Args:
        cases: labelled cases.
        k: number of folds, 2 or more.
        seed: of the draw.

    Returns:
        k arrays of indices into `cases`, each sorted; together they hold each index once.

    Raises:
        ConfigError: k is under 2.
        TableError: a class has fewer than k patients.
    """
    if k < 2:
        message = f"{k} folds are not possible. Ask for 2 or more."
        raise ConfigError(message)
    patients, labels = _columns(cases)
    places = _deal(patients, labels, np.full(k, 1 / k), seed, "folds")
    fold_of = np.array([places[patient] for patient in patients], dtype=np.int64)
    return [np.flatnonzero(fold_of == fold).astype(np.int64) for fold in range(k)]


def _columns(table: pl.DataFrame | Sequence[Case]) -> tuple[list[str], list[str | None]]:
    if isinstance(table, pl.DataFrame):
        if "patient_id" not in table.columns:
            message = "the table has no column patient_id, which a split keeps together. Add it."
            raise TableError(message)
        text = table.select(pl.all().cast(pl.String))
        patients = text["patient_id"].to_list()
        labels = text["label"].to_list() if "label" in table.columns else [None] * table.height
        rows = range(2, table.height + 2)
    else:
        patients, labels = [case.patient_id for case in table], [case.label for case in table]
        rows = [case.row for case in table]  # type: ignore[assignment]
    for row, patient in zip(rows, patients, strict=True):
        if not patient:
            message = f"row {row} has no patient_id, which a split keeps together. Give every row its patient."
            raise TableError(message)
    if not patients:
        message = "the table holds no cases. Give it one row per case."
        raise TableError(message)
    return patients, [label or None for label in labels]


def _deal(
    patients: Sequence[str],
    labels: Sequence[str | None],
    shares: NDArray[np.float64],
    seed: int,
    what: str,
) -> dict[str, int]:
    """Patient -> index of its part or fold."""
    labels_of: dict[str, set[str]] = defaultdict(set)
    for patient, label in zip(patients, labels, strict=True):
        labels_of[patient] |= {label} if label else set()
    sizes = Counter(label for own in labels_of.values() for label in own)
    strata: dict[str, list[str]] = defaultdict(list)
    for patient, own in labels_of.items():
        strata[min(own, key=lambda label: (sizes[label], label), default="")].append(patient)

    for label, size in sorted(sizes.items()):
        if size < len(shares):
            raise _too_few(label, size, len(shares), what)
    places: dict[str, int] = {}
    owed = np.zeros(len(shares))
    for label in sorted(strata, key=lambda name: (len(strata[name]), name)):
        members = sorted(strata[label], key=lambda patient: _draw(seed, patient))
        wanted = len(members) * shares
        counts = _whole(wanted, owed, at_least=int(bool(label) and len(members) >= len(shares)))
        owed += wanted - counts
        places.update(zip(members, np.repeat(np.arange(len(shares)), counts).tolist(), strict=True))

    reached: dict[str, set[int]] = defaultdict(set)
    for patient, own in labels_of.items():
        for label in own:
            reached[label].add(places[patient])
    for label, size in sorted(sizes.items()):
        if len(reached[label]) < len(shares):
            raise _too_few(label, size, len(shares), what)
    return places


def _whole(wanted: NDArray[np.float64], owed: NDArray[np.float64], at_least: int) -> NDArray[np.int64]:
    """Whole numbers near `wanted`, with the same sum and each `at_least`; ties go to who is owed most."""
    counts = np.maximum(np.floor(wanted + 1e-9), at_least).astype(np.int64)
    total = round(float(wanted.sum()))
    while counts.sum() < total:
        counts[np.argmax(wanted - counts + owed)] += 1
    while counts.sum() > total:
        surplus = np.where(counts > at_least, counts - wanted - owed, -np.inf)
        counts[np.argmax(surplus)] -= 1
    return counts


def _draw(seed: int, patient: str) -> bytes:
    return hashlib.sha256(f"{seed}:{patient}".encode()).digest()


def _too_few(label: str, size: int, needed: int, what: str) -> TableError:
    remedy = "merge it with another class" + (
        f" or ask for at most {size} folds" if what == "folds" and size > 1 else ""
    )
    shared = " that can be told apart from rarer classes" if size >= needed else ""
    again = "try another seed, " if shared else ""
    return TableError(
        f"class {label!r} has {size} patient(s), too few{shared} to be in each of {needed} {what}. "
        f"Add patients, {again}or {remedy}."
    )


def split_to_file(
    path: str | Place,
    output: Path,
    *,
    fractions: Mapping[str, float] = DEFAULT_FRACTIONS,
    seed: int = 0,
    views: Sequence[str] | None = None,
) -> dict[str, int]:
    """Split a table and write it with the column `split`; an older `split` column is replaced, and the log says so.

    So it does of one patient in two spellings, who may come into two parts. Where the output lies in another folder,
    relative image paths are made absolute, so that they still lead to the same files.

    Args:
        path: the table.
        output: the file to write.
        fractions: see `split_table`.
        seed: of the draw.
        views: the view columns; None infers them.

    Returns:
        The number of cases of each part.

    Raises:
        TableError, ConfigError: see `read_cases` and `split_table`; or the output is there and has other content: cases
            that a network was trained on must not come into another part.
    """
    path = place(path)
    raw, faults = load_table(path)
    if raw is None:
        raise table_error(path, faults)
    frame = raw.frame.drop("split", strict=False)
    views = infer_views(frame) if views is None else views
    faults += structural_faults(replace(raw, frame=frame), views, ())
    if faults:
        raise table_error(path, faults)
    folder = path.parent.resolve()  # of a link, where it lies and not what it leads to
    if output.resolve().parent != folder:
        of_images = dict.fromkeys([*views, *infer_views(frame)])
        frame = frame.with_columns(pl.col(v).map_elements(partial(_absolute, folder), pl.String) for v in of_images)
    if "label" not in frame.columns:
        log.warning("%s: has no column label; the parts are drawn without regard to the diagnoses", path)
    if doubts := doubtful_faults(raw):
        more = f" And {len(doubts) - 1} more; `agfnet check` names each." if len(doubts) > 1 else ""
        log.warning("%s: %s%s", path, doubts[0], more)
    parts = split_table(frame, fractions=fractions, seed=seed)
    _warn_of_uneven(path, frame["patient_id"], parts, fractions)
    made = frame.with_columns(split=pl.Series(parts))
    if "label" in frame.columns and 0 < (bare := frame["label"].null_count()) < frame.height:
        log.warning("%s: %d cases have no label; they are in no part: nothing is trained or tested on them", path, bare)
        made = made.with_columns(split=pl.when(pl.col("label").is_not_null()).then("split"))
    if "split" in raw.frame.columns:
        moved = (raw.frame["split"] != made["split"]).sum()
        log.warning("%s: has parts; they are drawn anew, and %d cases come into another", path, moved)
    if output.resolve() == path.resolve():
        raise TableError(f"{output}: is the table itself. Name a new file for the table with its parts.")
    check_not_over(output, made)
    write_table(made, output, like=path)
    counted = made["split"].to_list()
    return {part: counted.count(part) for part in PARTS if part in counted}


def _warn_of_uneven(table: Place, patients: pl.Series, parts: Sequence[str], fractions: Mapping[str, float]) -> None:
    """Shares are of patients: where one has many of the cases, those of the cases are others."""
    patient, count = patients.value_counts(sort=True).row(0)
    shares = {part: parts.count(part) / len(parts) for part in fractions}
    far = [part for part, share in shares.items() if abs(share - fractions[part]) > UNEVEN]
    if far and count > UNEVEN * len(parts):
        log.warning(
            "%s: patient %s has %d of %d cases, so that %s has %.0f %% of the cases, not %.0f %%. Another --seed puts "
            "this patient into another part.",
            table, patient, count, len(parts), far[0], 100 * shares[far[0]], 100 * fractions[far[0]],
        )  # fmt: skip


def _absolute(folder: Place, cell: str) -> str:
    return ";".join(str(joined(folder, one.strip())) for one in cell.split(";") if one.strip())
