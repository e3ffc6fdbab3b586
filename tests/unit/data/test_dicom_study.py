from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from dicom_files import PLANTED, content_of, dicom, region, save, smooth, with_regions

from agfnet.data.checks import check_table
from agfnet.data.dicom_study import dicom_table, pseudonym, read_key
from agfnet.data.table import read_cases
from agfnet.types import ConfigError, TableError

KEY = b"a secret of the tests"


def scan(seed: int, delta: float = 0.005, **changes: object):
    return with_regions(dicom(smooth(seed), modality="US", **changes), region(delta=delta))


@pytest.fixture
def export(tmp_path) -> Path:
    """Two patients; the first with two visits."""
    root = tmp_path / "export"
    one = {"PatientID": f"{PLANTED}1"}
    save(root / "b" / "photo2", dicom(smooth(1), **one, AccessionNumber="A1"))
    save(root / "b" / "photo1.dcm", dicom(smooth(2), **one, AccessionNumber="A1 ", BurnedInAnnotation="YES"))
    save(root / "b" / "scan.dcm", scan(3, **one, AccessionNumber="A1"))
    save(root / "a.dcm", dicom(smooth(4), modality="OT", **one, AccessionNumber="A2"))
    clip = np.stack([smooth(k) for k in range(5, 8)])
    lone = {"PatientID": f"{PLANTED}2", "AccessionNumber": None, "StudyInstanceUID": "1.2.3"}
    save(root / "c" / "clip.dcm", dicom(clip, modality="US", NumberOfFrames=3, **lone))
    save(root / "c" / "derm.dcm", dicom(smooth(9), modality="DMS", **lone))
    (root / "notes.txt").write_text(PLANTED)
    return root


def test_photos_and_scans_of_a_visit_are_one_row(export, tmp_path):
    made = dicom_table(export, tmp_path / "cases.csv", key=KEY)
    frame = pl.read_csv(tmp_path / "cases.csv")
    assert frame.columns == [
        "case_id", "patient_id", "clinical", "dermoscopy", "ultrasound", "clinical_mm_per_pixel",
        "dermoscopy_mm_per_pixel", "ultrasound_mm_per_pixel",
    ]  # fmt: skip
    names = [
        {view: [Path(p).name for p in (row[view] or "").split(";") if p] for view in ("clinical", "ultrasound")}
        for row in frame.iter_rows(named=True)
    ]
    assert names == [
        {"clinical": ["a.dcm"], "ultrasound": []},
        {"clinical": ["photo1.dcm", "photo2"], "ultrasound": ["scan.dcm"]},
        {"clinical": [], "ultrasound": ["clip.dcm"]},
    ]
    patients = frame["patient_id"].to_list()
    assert patients[0] == patients[1] != patients[2]
    assert frame["case_id"].n_unique() == 3
    assert frame["ultrasound_mm_per_pixel"].to_list() == [None, 0.05, None]
    assert (made.foreign, made.skipped) == (1, ())
    cases = read_cases(tmp_path / "cases.csv")
    assert cases[1].mm_per_pixel == {"ultrasound": 0.05}
    assert check_table(tmp_path / "cases.csv").ok


def test_notes_say_what_to_look_at(export, tmp_path):
    notes = " ".join(dicom_table(export, tmp_path / "cases.csv", key=KEY).notes)
    assert "1 images say that text is burned into them" in notes
    assert "5 images do not say" in notes
    assert "secondary captures are taken (1 as clinical, 1 as dermoscopy)" in notes
    assert "1 images have several frames" in notes
    assert "1 images of ultrasound have no calibration" in notes
    assert "2 of 3 cases have images of several views." in notes
    assert "never in one accession" not in notes


def test_photo_and_scan_of_two_accessions_are_told(tmp_path):
    """Each would be answered by itself."""
    one = {"PatientID": f"{PLANTED}1"}
    save(tmp_path / "photo.dcm", dicom(smooth(1), **one, AccessionNumber="A1"))
    save(tmp_path / "scan.dcm", scan(3, **one, AccessionNumber="A2"))
    notes = " ".join(dicom_table(tmp_path, tmp_path / "cases.csv", key=KEY).notes)
    assert "0 of 2 cases have images of several views." in notes
    assert "1 patients have images of several views, but never in one accession" in notes
    with pytest.raises(TableError, match=r"written as \.csv or \.parquet"):
        dicom_table(tmp_path, tmp_path / "cases.xlsx", key=KEY)


def test_ids_are_pseudonyms_that_only_the_key_makes_again(export, tmp_path):
    first = dicom_table(export, tmp_path / "1.csv", key=KEY).frame
    assert first.equals(dicom_table(export, tmp_path / "2.csv", key=KEY).frame)
    other = dicom_table(export, tmp_path / "3.csv", key=b"another secret of the tests").frame
    assert not set(first["case_id"]) & set(other["case_id"])
    assert not set(first["patient_id"]) & set(other["patient_id"])
    assert first.drop("case_id", "patient_id").equals(other.drop("case_id", "patient_id"))
    assert first["case_id"].str.contains("^[0-9a-f]{16}$").all()
    for text in (PLANTED, "A1", "1.2.3"):
        assert text not in (tmp_path / "1.csv").read_text().replace(str(export), "")


def test_one_id_of_two_hospitals_is_not_one_patient(tmp_path):
    """And a file that does not say who gave the id may be of either."""
    for i, hospital in enumerate(("North", "South", None)):
        save(tmp_path / f"{i}.dcm", scan(i, **({"IssuerOfPatientID": hospital} if hospital else {})))
    made = dicom_table(tmp_path, tmp_path / "out.csv", key=b"0123456789abcdef")
    assert made.frame["ultrasound"].to_list() == [f"{tmp_path}/0.dcm;{tmp_path}/2.dcm"]
    assert made.skipped[0][0] == "1.dcm"
    assert "another patient in this folder has the same id" in made.skipped[0][1]


def test_one_id_with_two_names_and_birth_dates_is_not_one_patient(tmp_path):
    """As in exports where all have the id 0."""
    for i, (name, born) in enumerate((("Muster^Anna", "19500101"), ("Smith^John", "19990101"), ("MUSTER^A", ""))):
        save(tmp_path / f"{i}.dcm", scan(i, PatientID="0", PatientName=name, PatientBirthDate=born))
    made = dicom_table(tmp_path, tmp_path / "out.csv", key=KEY)
    assert made.frame["ultrasound"].to_list() == [f"{tmp_path}/0.dcm;{tmp_path}/2.dcm"]
    assert [name for name, _ in made.skipped] == ["1.dcm"]
    assert "Smith" not in str(made)


def test_lists_of_identifiers_do_not_run_together():
    assert pseudonym(KEY, b"case", b"ab", b"c") != pseudonym(KEY, b"case", b"a", b"bc")
    assert pseudonym(KEY, b"patient", b"a") != pseudonym(KEY, b"case", b"a")


def test_scales_that_differ_are_left_to_the_files(tmp_path):
    for number, delta in enumerate((0.005, 0.01)):
        save(tmp_path / "x" / f"{number}.dcm", scan(number, delta))
    assert dicom_table(tmp_path / "x", tmp_path / "t.csv", key=KEY).frame["ultrasound_mm_per_pixel"].to_list() == [None]


def test_what_cannot_be_used_is_listed_with_its_reason(export, tmp_path):
    good = dicom(smooth(20))
    save(export / "copy1.dcm", good)
    save(export / "copy2.dcm", good)
    save(export / "ct.dcm", dicom(smooth(21), modality="CT"))
    save(export / "nobody.dcm", dicom(smooth(22), PatientID=""))
    save(export / "nowhere.dcm", dicom(smooth(23), AccessionNumber="", StudyInstanceUID=None))
    save(export / "semi;colon.dcm", dicom(smooth(24)))
    (export / "short.dcm").write_bytes(content_of(dicom(smooth(25)))[:-500])
    (export / "empty.dcm").touch()
    (export / "link.dcm").symlink_to(export / "not there")
    made = dicom_table(export, tmp_path / "t.csv", key=KEY)
    reasons = dict(made.skipped)
    assert list(reasons) == sorted(reasons)
    assert set(reasons) == {
        "copy2.dcm", "ct.dcm", "nobody.dcm", "nowhere.dcm", "semi;colon.dcm", "short.dcm", "empty.dcm"
    }  # fmt: skip
    assert reasons["copy2.dcm"].endswith("copy1.dcm.")
    assert "no patient id" in reasons["nobody.dcm"]
    assert "shorter" in reasons["short.dcm"]
    assert reasons["short.dcm"].endswith("Copy it again from its source.")
    assert PLANTED not in str(made.skipped) + str(made.notes)


def test_a_name_that_is_not_utf_8_is_told(export, tmp_path, agfnet_command):
    """As folders on old media have."""
    folder = export / os.fsdecode(b"M\xfcller")
    folder.mkdir()
    save(folder / "1.dcm", dicom(smooth(30)))
    skipped = dict(dicom_table(export, tmp_path / "t.csv", key=KEY).skipped)
    assert skipped["M\\udcfcller/1.dcm"] == "its path is not UTF-8, as a table is: rename it."
    done = agfnet_command("dicom", folder, "-o", tmp_path / "u.csv")
    assert done.exit_code == 2
    assert "is not UTF-8" in " ".join(done.stderr.replace("\u2502", " ").split())


def test_scans_that_may_be_upside_down_are_told(tmp_path):
    folder = tmp_path / "study"
    folder.mkdir()
    save(folder / "1.dcm", with_regions(dicom(smooth(1), modality="US"), region(PhysicalDeltaY=-0.005)))
    notes = dicom_table(folder, tmp_path / "t.csv", key=KEY).notes
    assert any(note.startswith("1 images say that depth grows upwards") for note in notes)


def test_a_folder_of_nothing_is_an_error(tmp_path):
    with pytest.raises(TableError, match="of 0 files none"):
        dicom_table(tmp_path, tmp_path / "t.csv", key=KEY)
    with pytest.raises(TableError, match="no such folder"):
        dicom_table(tmp_path / "x", tmp_path / "t.csv", key=KEY)
    assert not (tmp_path / "t.csv").exists()


def test_without_pydicom_the_remedy_is_said(export, tmp_path, monkeypatch):
    monkeypatch.setattr("agfnet.data.dicom.find_spec", lambda _: None)
    with pytest.raises(TableError, match=r"pip install 'agfnet\[dicom\]'"):
        dicom_table(export, tmp_path / "t.csv", key=KEY)


def test_a_key_that_others_may_read_is_told(tmp_path, caplog):
    for mode, told in ((0o600, False), (0o640, True), (0o604, True)):
        (tmp_path / "key").write_text("0123456789abcdef\n")
        (tmp_path / "key").chmod(mode)
        read_key(tmp_path / "key")
        assert ("others on this machine may read the key" in caplog.text) == told
        caplog.clear()


def test_keys(tmp_path):
    assert read_key(None) != read_key(None)
    (tmp_path / "key").write_text("0123456789abcdef\n")
    assert read_key(tmp_path / "key") == b"0123456789abcdef"
    (tmp_path / "key").write_text("short\n")
    with pytest.raises(ConfigError, match="at least 16 bytes"):
        read_key(tmp_path / "key")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_key(tmp_path / "none")


def test_the_command(export, tmp_path, agfnet_command):
    (export / "short.dcm").write_bytes(content_of(dicom(smooth(25)))[:-500])
    (tmp_path / "key").write_text("0123456789abcdef\n")
    done = agfnet_command("dicom", export, "-o", tmp_path / "t.csv", "--key", tmp_path / "key")
    assert done.exit_code == 0, done.stderr
    assert "3 cases, 2 patients; 1 DICOM files left out, 1 other files" in done.stdout.replace("\n", " ")
    assert "left out: short.dcm: " in done.stdout
    assert PLANTED not in done.stdout + done.stderr
    again = agfnet_command("dicom", export, "-o", tmp_path / "t.csv", "--key", tmp_path / "key")
    assert again.exit_code == 1  # diagnoses may have been filled in
    assert "is there already" in again.stderr.replace("\n", " ")
    assert "Example:  agfnet dicom" in agfnet_command("dicom", "--help").stdout
