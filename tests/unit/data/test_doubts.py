from __future__ import annotations

import unicodedata

import polars as pl
import pytest
from broken import write

from agfnet.data.checks import check_table
from agfnet.data.doubts import plain
from agfnet.data.tablefile import load_table


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("P3", "p3"), ("0003", "3"), ("0", "0.0"), ("P-003", "p 3"), ("A_1", "A1"), ("1-01", "1 1"), ("Ｐ3", "P3"),
        ("basal cell", "Basal  cell"), ("basal-cell", "basal_cell"), ("melanoma.", "melanoma"),
        ("SCC in situ", "SCC in-situ"), ("naevus\u200b", "naevus"), ("N\u00e4vus", "Na\u0308vus"),
    ],
)  # fmt: skip
def test_what_a_hand_or_a_spreadsheet_changes_is_no_difference(one, other):
    assert plain(one) == plain(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1-11", "11-1"), ("P1", "P10"), ("0", "00a"), ("0.5", "0.05"), ("HER2+", "HER2-"), ("HER2-", "HER2"),
        ("-1", "1"), ("1.0", "1.1"), ("\u0915\u093f", "\u0915\u0941"),
    ],
)  # fmt: skip
def test_what_may_be_meant_is_one(one, other):
    assert plain(one) != plain(other)


def found(folder, rows, **options):
    path = write(folder, ["case_id,patient_id,label,clinical", *rows])
    faults = check_table(path, level="quick", min_patients_per_class=0, **options).faults
    return [fault for fault in faults if fault.cause != "missing-file"]


def test_a_patient_in_two_spellings_is_named_with_both_rows(tmp_path):
    (fault,) = found(tmp_path, ["1,0003,A,a.jpg", "2,4,A,b.jpg", "3,3,A,c.jpg"])
    assert (fault.cause, fault.row, fault.column) == ("alike-patients", 4, "patient_id")
    assert "'3' here and '0003' in row 2 differ" in fault.message


def test_labels_that_differ_in_blanks_or_punctuation_are_named(tmp_path):
    (fault,) = found(tmp_path, ["1,1,basal cell,a.jpg", "2,2,basal-cell,b.jpg", "3,3,basal cell,c.jpg"])
    assert (fault.cause, fault.row) == ("alike-labels", 3)


def test_what_stands_for_no_value_is_no_value(tmp_path):
    rows = ["1,nan,A,a.jpg", "2,2,N/A,b.jpg", "#REF!,3,unknown,c.jpg", "4,4,none of these,d.jpg"]
    assert [(f.row, f.column, f.cause) for f in found(tmp_path, rows)] == [
        (2, "patient_id", "placeholder"), (3, "label", "placeholder"), (4, "case_id", "placeholder"),
        (4, "label", "placeholder"),
    ]  # fmt: skip
    named = found(tmp_path, rows, classes=["A", "unknown", "none of these"])
    assert [(f.row, f.column) for f in named] == [(2, "patient_id"), (3, "label"), (4, "case_id")]


def test_a_value_that_a_spreadsheet_runs_is_named(tmp_path):
    rows = [
        "=1+1,1,A,a.jpg", "2,@SUM(A1),A,b.jpg", '3,3,"+cmd|\' /C calc\'!A0",c.jpg', "-1+2,4,-x,d.jpg", "-1,-2,A,e.jpg",
        '"-0,5",-2.5,HER2+,f.jpg',
    ]  # fmt: skip
    assert [(f.row, f.column, f.cause) for f in found(tmp_path, rows)] == [
        (2, "case_id", "formula"), (3, "patient_id", "formula"), (4, "label", "formula"), (5, "case_id", "formula"),
        (5, "label", "formula"),
    ]  # fmt: skip
    named = found(tmp_path, rows, classes=["A", "-x", "HER2+"])
    assert [(f.row, f.column) for f in named if f.cause == "formula"][2:] == [(4, "label"), (5, "case_id")]


def test_ids_that_a_spreadsheet_rounded_are_named(tmp_path):
    rows = [
        '"1,234E+11","1,234E+11",A,a.jpg',
        "1E12,7.5e+15,3E12,b.jpg",
        "E12,1E05,A,c.jpg",
        "1234567890123,3e2,A,d.jpg",
    ]
    rounded = {(f.row, f.column) for f in found(tmp_path, rows) if f.cause == "rounded-id"}
    assert rounded == {(row, column) for row in (2, 3) for column in ("case_id", "patient_id")}


def test_a_diagnosis_that_no_set_could_be_written_with_is_named_before_the_training(tmp_path):
    (fault,) = found(tmp_path, ["1,1,cyst; lipoma,a.jpg", "2,2,A,b.jpg"])
    assert (fault.cause, fault.row, fault.column) == ("separator", 2, "label")


def test_columns_of_ids_under_other_names_are_named(tmp_path):
    path = write(tmp_path, ["Case ID,PatientId,clinical", "1,1,a.jpg"])
    remedies = [f.remedy for f in check_table(path, level="quick").faults]
    assert "Rename Case ID to case_id, if it is that." in remedies
    assert "Rename PatientId to patient_id, if it is that." in remedies


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("C:\\Users\\Dr\\a.jpg", "another computer's drive"),
        ("\\\\server\\share\\a.jpg", "another computer's drive or share"),
        ("photos\\a.jpg", "Write `/`"),
        ('"a.jpg, b.jpg"', "separated by `;`"),
        ("a.jpg|b.jpg", "separated by `;`"),
        ("a.jpg", "leave the cell empty"),
    ],
)
def test_why_a_file_is_not_there_is_guessed(cell, said, tmp_path):
    path = write(tmp_path, ["case_id,patient_id,clinical", f"1,1,{cell}"])
    (fault,) = (f for f in check_table(path, level="quick").faults if f.cause == "missing-file")
    assert said in fault.remedy


def test_a_name_whose_accents_are_stored_otherwise_does_not_look_like_another(tmp_path):
    there, written = (unicodedata.normalize(form, "M\u00fcller.jpg") for form in ("NFC", "NFD"))
    (tmp_path / there).write_bytes(b"x")
    path = write(tmp_path, ["case_id,patient_id,clinical", f"1,1,{written}"])
    (fault,) = (f for f in check_table(path, level="quick").faults if f.cause == "missing-file")
    assert "--nfd" in fault.remedy  # as the table has it


def test_a_column_of_remarks_may_only_look_like_a_view(tmp_path):
    path = write(tmp_path, ["case_id,patient_id,clinical,remark", "1,1,a.jpg,see old.jpg"])
    told = {f.column: f.remedy for f in check_table(path, level="quick").faults if f.cause == "missing-file"}
    assert "--views" in told["remark"]
    assert "--views" not in told["clinical"]


def test_numbers_that_are_none_are_empty_cells_of_parquet(tmp_path):
    pl.DataFrame({"case_id": [1, 2], "label": [float("nan"), 1.0]}).write_parquet(tmp_path / "cases.parquet")
    raw, faults = load_table(tmp_path / "cases.parquet")
    assert not faults
    assert raw.frame["label"].to_list() == [None, "1.0"]


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("case_id,patient_id,clinical,Split", "Rename Split to split"),
        ("case_id,patient_id,clinical,Fold", "Rename Fold to split"),
        ("case_id,patient_id,clinical,Site", "Rename Site to site"),
        ("case_id,patient_id,clinical,reference standard", "Rename reference standard to reference_standard"),
        ("case_id,patient_id,Clinical,clinical_mm_per_pixel", "Rename Clinical to clinical, so that both"),
    ],
)
def test_a_column_under_another_name_is_named(header, said, tmp_path):
    path = write(tmp_path, [header, "1,1,a.jpg,train", "2,2,b.jpg,Val"])
    found = [f.remedy for f in check_table(path, level="quick").faults if f.cause == "missing-column"]
    assert sum(said in remedy for remedy in found) == 1


def test_a_column_of_other_things_is_no_split(tmp_path):
    path = write(tmp_path, ["case_id,patient_id,clinical,set,fold", "1,1,a.jpg,blue,1", "2,2,b.jpg,red,2"])
    assert {fault.cause for fault in check_table(path, level="quick").faults} == {"missing-file"}
