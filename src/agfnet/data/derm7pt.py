"""The Seven-Point Checklist release (derm7pt; Kawahara et al., IEEE JBHI 2019) as a case table.

Each of its 1,011 cases has a clinical photo and a dermoscopic image: real and paired, but the second view is
dermoscopy, not ultrasound. The release gives no patient ids, so the case stands for the patient; whether two
cases are of one person is not known. How a diagnosis was made is not given either, so `reference_standard` is
empty. Where a clinical photo was missing the release repeats the dermoscopic image in its place; here the
clinical view of such a case is absent. The images may not be redistributed and stay where they are.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from agfnet.data.tablewrite import check_not_over, write_table
from agfnet.types import TableError

NOTES = (
    "The release gives no patient ids: the case stands for the patient.",
    "The second view is dermoscopy, not ultrasound.",
    "Where the release repeats the dermoscopic image for want of a photo, the clinical view is absent.",
    "The images may not be redistributed.",
)
DIAGNOSES: Mapping[str, str] = {
    "basal cell carcinoma": "BCC",
    "blue nevus": "NEV",
    "clark nevus": "NEV",
    "combined nevus": "NEV",
    "congenital nevus": "NEV",
    "dermal nevus": "NEV",
    "recurrent nevus": "NEV",
    "reed or spitz nevus": "NEV",
    "melanoma": "MEL",
    "melanoma (in situ)": "MEL",
    "melanoma (less than 0.76 mm)": "MEL",
    "melanoma (0.76 to 1.5 mm)": "MEL",
    "melanoma (more than 1.5 mm)": "MEL",
    "melanoma metastasis": "MEL",
    "dermatofibroma": "MISC",
    "lentigo": "MISC",
    "melanosis": "MISC",
    "miscellaneous": "MISC",
    "vascular lesion": "MISC",
    "seborrheic keratosis": "SK",
}
_THREE = {"absent": "absent", "regular": "regular", "irregular": "irregular"}
# Grouped as in the paper, table 1.
CRITERIA: Mapping[str, Mapping[str, str]] = {
    "pigment_network": {"absent": "absent", "typical": "typical", "atypical": "atypical"},
    "streaks": _THREE,
    "pigmentation": {
        "absent": "absent",
        "diffuse regular": "regular",
        "localized regular": "regular",
        "diffuse irregular": "irregular",
        "localized irregular": "irregular",
    },
    "regression_structures": {
        "absent": "absent",
        "blue areas": "present",
        "white areas": "present",
        "combinations": "present",
    },
    "dots_and_globules": _THREE,
    "blue_whitish_veil": {"absent": "absent", "present": "present"},
    "vascular_structures": {
        "absent": "absent",
        "arborizing": "regular",
        "comma": "regular",
        "hairpin": "regular",
        "within regression": "regular",
        "wreath": "regular",
        "dotted": "irregular",
        "linear irregular": "irregular",
    },
}
FREE = ("sex", "location", "elevation", "level_of_diagnostic_difficulty", "management")
_SPLITS = {"train": "train_indexes.csv", "validation": "valid_indexes.csv", "test": "test_indexes.csv"}
_REMEDY = "Use release_v0 as it was downloaded."


@dataclass(frozen=True, slots=True)
class Derm7ptTable:
    """The table as written.

    Attributes:
        frame: one row per case.
        notes: what anyone who reports a figure on it has to say.
    """

    frame: pl.DataFrame
    notes: tuple[str, ...] = NOTES


def derm7pt_table(release: str | Path, out: str | Path, *, include_test: bool = False) -> Derm7ptTable:
    """Write the case table of the Seven-Point Checklist release.

    Columns: `case_id`, `patient_id` (equal to it), `label` (BCC, NEV, MEL, MISC, SK), `clinical` and
    `dermoscopy` (absolute paths), `split` (train, validation, test: the official one), `reference_standard`
    (empty), the label columns of `CRITERIA` and `diagnosis`, and the free columns `FREE`.

    Args:
        release: the folder release_v0, or the one that holds it.
        out: the table to write, .csv or .parquet.
        include_test: whether test rows are taken in; else they are neither parsed nor written.

    Returns:
        The table and the notes that belong to it.

    Raises:
        TableError: the release is incomplete, or has a value that is not known.
    """
    root = Path(release).resolve()
    root = root / "release_v0" if (root / "release_v0").is_dir() else root
    split_of: dict[int, str] = {}
    for split, name in _SPLITS.items():
        if split == "test" and not include_test:
            continue
        for index in _indices(root / "meta" / name):
            if split_of.setdefault(index, split) != split:
                message = f"{root / 'meta' / name}: index {index} is in {split_of[index]} too. {_REMEDY}"
                raise TableError(message)
    meta = root / "meta" / "meta.csv"
    lines = _lines(meta)
    header = next(csv.reader([next(lines, "")]), [])
    # A case is one line: those of other parts are passed over as text and never parsed.
    wanted = [(index, line) for index, line in enumerate(lines) if index in split_of]
    if len(wanted) < len(split_of):
        message = f"{meta}: the index files name {len(split_of)} cases, {len(wanted)} are there. {_REMEDY}"
        raise TableError(message)
    records = [
        _record(dict(zip(header, next(csv.reader([line])), strict=False)), meta, index + 2, split_of[index], root)
        for index, line in wanted
    ]
    frame = pl.DataFrame(records, infer_schema_length=None).with_columns(pl.all().cast(pl.String))
    check_not_over(Path(out), frame)
    write_table(frame, out)
    return Derm7ptTable(frame)


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from file
    except (OSError, UnicodeDecodeError) as error:
        message = f"{path} cannot be read ({error}). Name the folder release_v0 of the Seven-Point Checklist."
        raise TableError(message) from error


def _indices(path: Path) -> list[int]:
    lines = [line.strip() for line in _lines(path)]
    try:
        return [int(line) for line in lines[1:] if line]
    except ValueError as error:
        message = f"{path}: it holds more than row numbers ({error}). {_REMEDY}"
        raise TableError(message) from error


def _record(source: dict[str, str], meta: Path, row: int, split: str, root: Path) -> dict[str, str | None]:
    def value(column: str, known: Mapping[str, str] | None = None) -> str:
        text = (source.get(column) or "").strip()
        if column not in source or (known is not None and text not in known):
            what = f"{text!r} is not known" if column in source else "there is no such column"
            message = f"{meta}, row {row}, column {column}: {what}. {_REMEDY}"
            raise TableError(message)
        return text if known is None else known[text]

    clinical, dermoscopy = value("clinic"), value("derm")
    case_id = f"derm7pt-{value('case_num').zfill(4)}"
    return {
        "case_id": case_id,
        "patient_id": case_id,
        "label": value("diagnosis", DIAGNOSES),
        "clinical": None if clinical == dermoscopy else str(root / "images" / clinical),
        "dermoscopy": str(root / "images" / dermoscopy),
        "split": split,
        "reference_standard": None,
        **{criterion: value(criterion, groups) for criterion, groups in CRITERIA.items()},
        "diagnosis": value("diagnosis"),
        **{name: value(name) or None for name in FREE},
    }
