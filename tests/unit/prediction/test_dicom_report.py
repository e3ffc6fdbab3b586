from __future__ import annotations

import logging
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import PLANTED, changed, dicom, region, save, smooth, with_regions
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from agfnet.data.preprocess import ViewSpec, read_frame
from agfnet.data.table import read_cases
from agfnet.prediction.dicom_report import SCHEME, concept, write_dicom
from agfnet.prediction.explanation import Explanation
from agfnet.types import RESEARCH_USE, Case, ImageError, Prediction, Reason

CLASSES = (
    "Melanom, äußerst tief",
    "naevus",
    "a class whose name is far longer than the sixty-four letters of a meaning",
)
SHA = "ab" * 32
STUDY = generate_uid()


def explanation(*, missing: tuple[str, ...] = (), coverage: float | None = 0.9, **changes: object) -> Explanation:
    own = np.array([0.7, 0.2, 0.1])
    values = {
        "case_id": "c1",
        "probabilities": own,
        "view_probabilities": {"clinical": own, "ultrasound": own[::-1]},
        "view_weights": {"fused": 0.5, "clinical": 0.2, "ultrasound": 0.3},
        "views_present": ("clinical", "ultrasound"),
        "diagnosis_set": (0, 1),
        "referred": (Reason("disagree"), Reason("strange", "ultrasound")),
        **changes,
    }
    frame, heat = smooth(1, 64, 64), np.ones((64, 64), np.float32)
    return Explanation(
        prediction=Prediction(**values),
        shares={"clinical": 0.4, "ultrasound": -0.5},
        baseline=-1.0,
        frames={"clinical": frame, "ultrasound": frame},
        heat={"clinical": heat, "ultrasound": heat},
        mm_per_pixel={"clinical": None, "ultrasound": 0.1},
        images={"clinical": 1, "ultrasound": 1},
        missing=missing,
        coverage=coverage,
    )


def photo(**changes: object) -> Dataset:
    return dicom(smooth(1), StudyInstanceUID=STUDY, **changes)


def case_of(folder: Path, first: Dataset | None = None, **changes: object) -> Case:
    clip = np.stack([smooth(k) for k in range(3)])
    scan = dicom(clip, modality="US", NumberOfFrames=3, StudyInstanceUID=STUDY, **changes)
    views = {
        "clinical": (save(folder / "photo.dcm", first or photo()),),
        "ultrasound": (save(folder / "scan.dcm", scan),),
    }
    return Case(case_id="pseudonym-7", patient_id="p", row=2, views=views)


def written(folder: Path, case: Case | None = None, made: Explanation | None = None) -> tuple[Dataset, Dataset]:
    case = case or case_of(folder)
    files = write_dicom(made or explanation(), case, folder / "0001", classes=CLASSES, bundle_sha256=SHA)
    assert [f.name for f in files] == ["0001-report.dcm", "0001-overlay.dcm"]
    return pydicom.dcmread(files[0]), pydicom.dcmread(files[1])


def items(ds: Dataset) -> list[tuple[str, str, str]]:
    """(type, name, value) of every content item."""
    found = []
    for item in ds.get("ContentSequence", []):
        kind = item.ValueType
        value = {
            "TEXT": lambda i: i.TextValue,
            "CODE": lambda i: i.ConceptCodeSequence[0].CodeMeaning,
            "NUM": lambda i: str(float(i.MeasuredValueSequence[0].NumericValue)),
            "IMAGE": lambda i: i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID,
        }.get(kind, lambda _: "")(item)
        name = item.ConceptNameCodeSequence[0].CodeMeaning if "ConceptNameCodeSequence" in item else ""
        found.append((kind, name, value))
        found += items(item)
    return found


def dciodvfy(path: Path) -> list[str]:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (Debian's dicom3tools) is not installed")
    done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]


@pytest.mark.parametrize("kind", ["full", "uncalibrated", "bare source", "latin-1 source", "regions and burned-in"])
def test_both_files_are_valid(kind, tmp_path):
    case, made = None, explanation()
    if kind == "uncalibrated":
        made = explanation(diagnosis_set=None, referred=None, coverage=None, missing=("dermoscopy",))
    elif kind == "bare source":
        absent = dict.fromkeys(
            ("StudyDate", "StudyTime", "StudyID", "ReferringPhysicianName", "PatientBirthDate", "AccessionNumber")
        )
        case = case_of(tmp_path, photo(**absent), **absent)
    elif kind == "latin-1 source":
        latin = {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Jörg"}
        case = case_of(tmp_path, photo(**latin), **latin)
    elif kind == "regions and burned-in":
        case = case_of(tmp_path, with_regions(photo(BurnedInAnnotation="YES"), region()))
    written(tmp_path, case, made)
    assert dciodvfy(tmp_path / "0001-report.dcm") == []
    assert dciodvfy(tmp_path / "0001-overlay.dcm") == []


def test_a_probability_is_never_rounded_to_certainty(tmp_path):
    made = explanation()
    p = np.array([0.9999997, 2e-7, 1e-7])
    made = replace(made, prediction=replace(made.prediction, probabilities=p))
    report, _ = written(tmp_path, made=made)
    told = [float(value) for _, name, value in items(report) if name.startswith("Probability of")]
    assert told == pytest.approx(p)
    assert max(told) < 1.0
    assert dciodvfy(tmp_path / "0001-report.dcm") == []


def test_the_report_says_what_was_found(tmp_path):
    case = case_of(tmp_path)
    report, _ = written(tmp_path, case, explanation(missing=("dermoscopy",)))
    found = items(report)
    assert ("TEXT", "Missing view", "dermoscopy") in found
    assert ("TEXT", "Calibration", "diagnosis set (90 %; others are not excluded)") in found
    for name, p in zip(CLASSES, ("0.7", "0.2", "0.1"), strict=True):
        assert ("NUM", f"Probability of {name}"[:64], p) in found
    assert ("CODE", "Likeliest diagnosis", CLASSES[0]) in found
    remaining = [value for _, name, value in found if name == "Diagnosis in the set"]
    assert remaining == list(CLASSES[:2])
    assert ("CODE", "Referred to a clinician", "Yes") in found
    for reason in ("views disagree", "ultrasound: unlike the training images"):
        assert ("TEXT", "Reason for referral", reason) in found
    assert ("TEXT", "Notice", RESEARCH_USE) in found
    assert ("TEXT", "SHA-256 of the bundle", SHA) in found
    assert ("TEXT", "Share of ultrasound", "-0.500 log-odds") in found
    assert any(name == "Version of agfnet" for _, name, _ in found)
    sources = {pydicom.dcmread(p[0]).SOPInstanceUID for p in case.views.values()}
    assert {value for kind, name, value in found if name == "Source of Measurement"} == sources
    assert (report.PreliminaryFlag, report.VerificationFlag) == ("PRELIMINARY", "UNVERIFIED")
    assert report.Manufacturer == "agfnet"


def test_an_uncalibrated_bundle_gives_no_set_and_says_so(tmp_path):
    report, _ = written(tmp_path, made=explanation(diagnosis_set=None, referred=None, coverage=None))
    found = items(report)
    (said,) = (value for _, name, value in found if name == "Calibration")
    assert said.startswith("not calibrated: ")
    names = [name for _, name, _ in found]
    assert "Diagnosis in the set" not in names
    assert "Referred to a clinician" not in names


def test_patient_and_study_pass_from_dicom_to_dicom_and_the_pseudonym_does_not(tmp_path):
    latin = {"PatientName": "Müller^Jörg", "SpecificCharacterSet": "ISO_IR 100"}
    unicode = {"PatientName": "MÜLLER^J^=穆勒^约尔格", "SpecificCharacterSet": "ISO IR 192"}
    for made in written(tmp_path, case_of(tmp_path, photo(**latin), **unicode)):
        assert made.PatientID == f"{PLANTED}1"
        assert str(made.PatientName) == "Müller^Jörg"
        assert made.StudyInstanceUID == STUDY
        assert made.AccessionNumber == "A1"
    for name in ("report", "overlay"):
        assert b"pseudonym-7" not in (tmp_path / f"0001-{name}.dcm").read_bytes()


def test_the_overlay_is_a_picture_that_names_its_sources(tmp_path):
    _, overlay = written(tmp_path)
    assert overlay.pixel_array.shape == (overlay.Rows, overlay.Columns, 3)
    assert (overlay.PhotometricInterpretation, overlay.Modality, overlay.Manufacturer) == ("RGB", "OT", "agfnet")
    assert [item.get("ReferencedFrameNumber") for item in overlay.SourceImageSequence] == [None, 2]
    assert overlay.DerivationDescription == RESEARCH_USE


@pytest.mark.parametrize(
    ("first", "second", "said"), [("YES", "NO", "YES"), ("NO", "NO", "NO"), ("NO", None, None), (None, None, None)]
)
def test_burned_in_text_of_a_source_is_passed_on(first, second, said, tmp_path):
    def given(value: str | None) -> dict[str, str]:
        return {} if value is None else {"BurnedInAnnotation": value}

    _, overlay = written(tmp_path, case_of(tmp_path, photo(**given(first)), **given(second)))
    assert overlay.get("BurnedInAnnotation") == said


def test_codes_are_short_and_the_same_everywhere():
    assert concept("naevus").value == concept("naevus").value != concept("naevus", "P").value
    long = concept("a\\b" * 50)
    assert len(long.value) <= 16
    assert len(long.meaning) == 64
    assert "\\" not in long.meaning
    assert long.scheme_designator == SCHEME


@pytest.mark.parametrize(
    ("first", "said"),
    [
        ({"PatientID": "another"}, "is of another patient"),
        ({"PatientID": ""}, "has no PatientID"),
        ({"PatientName": "Other^Anna", "PatientBirthDate": None}, "is of another patient"),
        ({"PatientBirthDate": "19500101"}, "is of another patient"),
        ({"PatientName": f"{PLANTED}^Jörg", "SpecificCharacterSet": "ISO_IR 999"}, "no stated character set"),
        ({"SOPInstanceUID": None}, "has no SOPInstanceUID"),
        ({"Modality": None}, "has no Modality"),
        ({"SOPClassUID": "1.2.3.4"}, "cannot be carried over"),
    ],
)
def test_sources_that_cannot_be_referenced(first, said, tmp_path, caplog, capfd):
    case = case_of(tmp_path, changed(photo(), **first))
    with pytest.raises(ImageError, match=said) as caught:
        written(tmp_path, case)
    printed = capfd.readouterr()
    assert PLANTED not in str(caught.value) + caplog.text + printed.out + printed.err
    assert not list(tmp_path.glob("*-report.dcm"))


def test_one_id_of_two_hospitals_is_two_patients(tmp_path):
    with pytest.raises(ImageError, match="is of another patient"):
        written(tmp_path, case_of(tmp_path, photo(IssuerOfPatientID="North"), IssuerOfPatientID="South"))


def test_letters_of_no_stated_character_set_are_not_guessed(tmp_path):
    path = save(tmp_path / "scan.dcm", dicom(smooth(1), modality="US", PatientName="AAAAAA"))
    path.write_bytes(path.read_bytes().replace(b"AAAAAA", "王小明".encode("gbk")))
    case = Case(case_id="c", patient_id="p", row=2, views={"ultrasound": (path,)})
    with pytest.raises(ImageError, match="no stated character set"):
        written(tmp_path, case, explanation(views_present=("ultrasound",)))


def test_values_that_break_the_standard_are_not_shown(tmp_path, caplog, capfd, recwarn):
    caplog.set_level(logging.DEBUG)
    path = case_of(tmp_path).views["clinical"][0]
    for good in (b"19700101", b"20240102"):
        path.write_bytes(path.read_bytes().replace(good, PLANTED[:8].encode()))
    case = Case(case_id="c", patient_id="p", row=2, views={"clinical": (path,)})
    made = explanation(views_present=("clinical",))
    try:
        write_dicom(made, case, tmp_path / "0001", classes=CLASSES, bundle_sha256=SHA)
        said = ""
    except ImageError as error:
        said = str(error)
    printed = capfd.readouterr()
    text = said + caplog.text + printed.out + printed.err + " ".join(str(w.message) for w in recwarn)
    assert PLANTED[:8] not in text


def test_the_sheets_scale_may_come_from_the_file(tmp_path):
    path = save(tmp_path / "a.dcm", with_regions(dicom(smooth(1), modality="US"), region()))
    scan = ViewSpec("ultrasound", (64, 96))
    assert read_frame(path, scan).mm_per_pixel == pytest.approx(0.025)  # 32 x 32 pixels, doubled
    assert read_frame(path, scan, mm_per_pixel=0.052).mm_per_pixel == pytest.approx(0.026)
    assert read_frame(path, ViewSpec("ultrasound", (64, 96), mm_per_pixel=0.1)).mm_per_pixel == 0.1
    assert read_frame(save(tmp_path / "b.dcm", photo()), ViewSpec("photo", (64, 96))).mm_per_pixel is None


def test_a_case_that_is_not_all_dicom_gets_none(tmp_path, caplog):
    case = case_of(tmp_path)
    (tmp_path / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    case = Case(case_id="c", patient_id="p", row=2, views={**case.views, "clinical": (tmp_path / "photo.png",)})
    assert write_dicom(explanation(), case, tmp_path / "0001", classes=CLASSES, bundle_sha256=SHA) == []
    assert "no DICOM report" in caplog.text


def test_two_patients_under_one_id_are_not_answered(trained, tmp_path, agfnet_command):
    """As in exports where all have the id 0, or none."""
    for number in ("0", ""):
        views = []
        for view, modality, name, born in (
            ("clinical", "XC", "Muster^Anna", "19500101"),
            ("ultrasound", "US", f"{PLANTED}^John", "19990101"),
        ):
            made = dicom(smooth(1), modality=modality, PatientID=number, PatientName=name, PatientBirthDate=born)
            views += ["--view", f"{view}={save(tmp_path / f'{view}.dcm', made)}"]
        done = agfnet_command("predict", trained, *views)
        assert done.exit_code == 1
        assert "ultrasound: this DICOM image is of another patient" in done.stdout
        assert PLANTED not in done.stdout + done.stderr


def test_the_command(trained, drawn, tmp_path, agfnet_command):
    case = next(c for c in read_cases(drawn / "parts.csv") if all(c.views.values()))
    views = []
    for view, modality in (("clinical", "XC"), ("ultrasound", "US")):
        pixels = np.asarray(Image.open(case.views[view][0]).convert("RGB"))
        path = save(tmp_path / f"{view}.dcm", dicom(pixels, modality=modality, StudyInstanceUID=STUDY))
        views += ["--view", f"{view}={path}"]
    done = agfnet_command("explain", trained, *views, "-o", tmp_path / "x", "--dicom", "--threads", 1)
    assert done.exit_code == 0, done.stderr
    assert {p.name for p in (tmp_path / "x").iterdir()} == {
        "0001.png", "0001-report.dcm", "0001-overlay.dcm", "explanations.json"
    }  # fmt: skip
    assert PLANTED not in done.stdout + done.stderr + (tmp_path / "x" / "explanations.json").read_text()
    assert dciodvfy(tmp_path / "x" / "0001-report.dcm") == []
