from __future__ import annotations

import os
from pathlib import Path

import polars as pl
import pytest
from broken import picture

from agfnet.data.checks import check_table
from agfnet.data.derm7pt import CRITERIA, DIAGNOSES, derm7pt_table
from agfnet.data.table import read_cases
from agfnet.types import TableError

HEADER = (
    "case_num,diagnosis,seven_point_score,pigment_network,streaks,pigmentation,regression_structures,"
    "dots_and_globules,blue_whitish_veil,vascular_structures,level_of_diagnostic_difficulty,elevation,location,"
    "sex,management,clinic,derm,case_id,notes"
)


@pytest.fixture
def release(tmp_path) -> Path:
    """A drawn release: 20 cases, one per diagnosis; every fourth is a test case and cannot be parsed."""
    root = tmp_path / "release_v0"
    (root / "meta").mkdir(parents=True)
    (root / "images" / "Ab").mkdir(parents=True)
    rows, parts = [HEADER], {"train": [], "valid": [], "test": []}
    for index, diagnosis in enumerate(DIAGNOSES):
        criteria = [list(groups)[index % len(groups)] for groups in CRITERIA.values()]
        clinic, derm = f"Ab/c{index}.jpg", f"Ab/d{index}.jpg"
        for number, name in ((2 * index, clinic), (2 * index + 1, derm)):
            picture(number).save(root / "images" / name)
        clinic = derm if index == 1 else clinic
        row = [
            index + 1,
            diagnosis,
            3,
            *criteria,
            "low",
            "flat",
            "back",
            "male",
            "excision",
            clinic,
            derm,
            "",
            "",
        ]
        part = ("train", "train", "valid", "test")[index % 4]
        rows.append("a test row, which nobody reads" if part == "test" else ",".join(map(str, row)))
        parts[part].append(index)
    (root / "meta" / "meta.csv").write_text("\n".join(rows) + "\n")
    for part, indices in parts.items():
        if part != "test":  # without them being asked for, even the list of test cases is not needed
            (root / "meta" / f"{part}_indexes.csv").write_text("\n".join(["indexes", *map(str, indices)]) + "\n")
    return root


@pytest.mark.parametrize("parent", [False, True])
def test_table_of_a_drawn_release(release, parent, tmp_path):
    out = tmp_path / "derm7pt.csv"
    made = derm7pt_table(release.parent if parent else release, out)
    assert any("patient" in note for note in made.notes)
    cases = read_cases(out, extra_labels=[*CRITERIA, "diagnosis"])
    assert [case.case_id for case in cases[:4]] == [
        "derm7pt-0001",
        "derm7pt-0002",
        "derm7pt-0003",
        "derm7pt-0005",
    ]
    assert {case.split for case in cases} == {"train", "validation"}
    assert len(cases) == 15
    assert set(cases[0].views) == {"clinical", "dermoscopy"}
    for case in cases:
        assert case.patient_id == case.case_id
        assert case.label == DIAGNOSES[case.extra_labels["diagnosis"]]
        assert case.reference_standard is None
        assert set(case.attributes) == {
            "sex",
            "location",
            "elevation",
            "level_of_diagnostic_difficulty",
            "management",
        }
    assert cases[2].extra_labels["pigmentation"] == "regular"
    assert cases[2].extra_labels["vascular_structures"] == "regular"
    report = check_table(out, level="deep", min_patients_per_class=0)
    assert report.ok, [str(fault) for fault in report.faults]


def test_repeated_dermoscopic_image_is_an_absent_clinical_view(release, tmp_path):
    derm7pt_table(release, tmp_path / "derm7pt.csv")
    second = read_cases(tmp_path / "derm7pt.csv")[1]
    assert second.views["clinical"] == ()
    assert len(second.views["dermoscopy"]) == 1


def test_test_rows_are_read_only_when_asked_for(release, tmp_path):
    (release / "meta" / "test_indexes.csv").write_text("indexes\n3\n")
    assert "test" not in derm7pt_table(release, tmp_path / "derm7pt.csv").frame["split"].to_list()
    with pytest.raises(TableError, match=r"meta\.csv, row 5"):
        derm7pt_table(release, tmp_path / "derm7pt.csv", include_test=True)


def test_test_rows_carry_the_official_split(release, tmp_path):
    meta = release / "meta" / "meta.csv"
    lines = meta.read_text().splitlines()
    lines[4] = lines[3].replace("3,", "4,", 1)
    meta.write_text("\n".join(lines))
    (release / "meta" / "test_indexes.csv").write_text("indexes\n3\n")
    without = derm7pt_table(release, tmp_path / "trained-from.csv").frame
    derm7pt_table(release, tmp_path / "trained-from.csv")  # the same again
    with pytest.raises(TableError, match="is there already, with other content"):
        derm7pt_table(release, tmp_path / "trained-from.csv", include_test=True)
    assert len(without) == len(pl.read_csv(tmp_path / "trained-from.csv"))
    frame = derm7pt_table(release, tmp_path / "derm7pt.csv", include_test=True).frame
    assert frame.filter(pl.col("split") == "test")["case_id"].to_list() == ["derm7pt-0004"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("clark nevus", "mole", "row 4, column diagnosis: 'mole' is not known"),
        (",vascular_structures,", ",vessels,", "column vascular_structures: there is no such column"),
    ],
)
def test_unknown_values_are_named(release, old, new, message, tmp_path):
    meta = release / "meta" / "meta.csv"
    meta.write_text(meta.read_text().replace(old, new))
    with pytest.raises(TableError, match=message):
        derm7pt_table(release, tmp_path / "derm7pt.csv")


def test_incomplete_release_is_an_error(release, tmp_path):
    with pytest.raises(TableError, match="release_v0"):
        derm7pt_table(tmp_path / "elsewhere", tmp_path / "derm7pt.csv")
    index = release / "meta" / "valid_indexes.csv"
    index.write_text("indexes\n0\n")
    with pytest.raises(TableError, match="index 0 is in train too"):
        derm7pt_table(release, tmp_path / "derm7pt.csv")
    index.write_text("indexes\n99\n")
    with pytest.raises(TableError, match="name 11 cases, 10 are there"):
        derm7pt_table(release, tmp_path / "derm7pt.csv")
    index.write_text("indexes\nfive\n")
    with pytest.raises(TableError, match="row numbers"):
        derm7pt_table(release, tmp_path / "derm7pt.csv")


@pytest.mark.derm7pt
@pytest.mark.skipif("AGFNET_DERM7PT" not in os.environ, reason="AGFNET_DERM7PT does not name the release")
def test_real_release_without_its_test_part(tmp_path):
    out = tmp_path / "derm7pt.csv"
    frame = derm7pt_table(os.environ["AGFNET_DERM7PT"], out).frame
    assert dict(frame["split"].value_counts().rows()) == {"train": 413, "validation": 203}
    counts = dict(frame["label"].value_counts().rows())
    assert counts == {"BCC": 26, "NEV": 356, "MEL": 151, "MISC": 57, "SK": 26}
    assert check_table(out, level="quick", need_labels=True, extra_labels=list(CRITERIA)).ok
