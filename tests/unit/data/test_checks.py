from __future__ import annotations

import builtins
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest
from broken import BROKEN, HEADER, Broken, encoded, good_lines, picture, write
from dicom_files import content_of, dicom, region, with_regions

from agfnet.data import duplicates
from agfnet.data.checks import check_table
from agfnet.data.duplicates import near_pairs
from agfnet.types import ConfigError, TableError


def test_list_of_broken_tables_is_wide_enough():
    assert len(BROKEN) >= 30
    assert len({case.cause for case in BROKEN}) >= 15
    assert len({case.name for case in BROKEN}) == len(BROKEN)


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.name)
def test_each_broken_table_is_named_by_cause_row_and_remedy(case: Broken, tmp_path, monkeypatch):
    path = case.build(tmp_path)
    monkeypatch.chdir(path.parent)
    report = check_table(path, **case.check)
    assert not report.ok
    found = [fault for fault in report.faults if fault.cause == case.cause]
    assert found, [str(fault) for fault in report.faults]
    assert case.row is None or case.row in {fault.row for fault in found}
    for fault in report.faults:
        assert fault.message
        assert fault.remedy.endswith((".", "?"))
        assert fault.row is None or f"row {fault.row}" in str(fault)


@pytest.mark.parametrize("level", ["quick", "decode", "deep"])
def test_good_table_has_no_fault(level, tmp_path):
    report = check_table(write(tmp_path, good_lines(tmp_path)), level=level, need_labels=True, classes=["A", "B"])
    assert report.ok, [str(fault) for fault in report.faults]
    assert (report.cases, report.patients) == (8, 8)
    assert report.images == {"clinical": 8, "ultrasound": 8}
    assert report.classes == {"A": 4, "B": 4}
    assert report.parts == {}


def test_every_fault_is_found_not_only_the_first(tmp_path):
    lines = good_lines(tmp_path)
    lines[1] = lines[1].replace("c0.jpg", "gone.jpg")
    lines[3] = lines[3].replace("L2", "L1")
    lines[5] = lines[5].replace("u4.png", "../u4.png")
    lines[6] += ",surplus"
    (tmp_path / "c7.jpg").write_bytes(b"")
    report = check_table(write(tmp_path, lines))
    assert [(fault.row, fault.cause) for fault in report.faults if fault.row] == [
        (2, "missing-file"), (4, "duplicate-case"), (6, "path-outside"), (7, "ragged-row"), (9, "empty-file"),
    ]  # fmt: skip


def test_faults_of_no_row_are_told_without(tmp_path, agfnet_command):
    table = tmp_path / "t.csv"
    rows = [f"c{i},p{i},kind {i},c{i}.jpg" for i in range(40)]
    table.write_text("\n".join(["case_id,patient_id,label,clinical", *rows]))
    told = agfnet_command("check", table, "--quick").stdout
    assert "the table, column label: 35 more like these" in told.replace("\n", " ")
    assert "None" not in told


def test_a_fault_of_a_whole_column_is_told_once(tmp_path, agfnet_command):
    table = tmp_path / "t.csv"
    rows = [f"c{i},p{i},c{i}.jpg,0.{i}mm" for i in range(40)]
    table.write_text("\n".join(["case_id,patient_id,clinical,clinical_mm_per_pixel", *rows]))
    told = agfnet_command("check", table, "--quick").stdout
    assert told.count("[bad-mm-per-pixel]") == 6
    assert "rows 7 to 41, column clinical_mm_per_pixel: 35 more like these" in told
    assert agfnet_command("check", table, "--quick", "--all").stdout.count("[bad-mm-per-pixel]") == 40


def test_missing_labels_are_counted_and_a_fault_of_training_cases(tmp_path, agfnet_command):
    table = tmp_path / "t.csv"
    rows = [f"c{i},p{i},{'AB'[i % 2] if i > 2 else ''},c{i}.jpg,{'train' if i % 3 else ''}" for i in range(40)]
    table.write_text("\n".join(["case_id,patient_id,label,clinical,split", *rows]))
    told = agfnet_command("check", table, "--quick").stdout
    assert told.count("the training case has no label") == 2  # of three: one has no part
    assert "cases without a label: 3 of 40" in told
    assert "without a label" not in agfnet_command("check", table, "--quick", "--predict").stdout
    table.write_text("case_id,patient_id,clinical\n1,1,a.jpg")
    assert "no column label: fit for prediction only" in agfnet_command("check", table, "--quick").stdout
    assert "no column label" not in agfnet_command("check", tmp_path / "absent.csv").stdout


def test_classes_that_a_part_is_without_and_cases_without_a_part_are_told(tmp_path, agfnet_command):
    table = tmp_path / "t.csv"
    parts = ["train", "train", "calibration", "test", "", "train"]
    rows = [f"c{i},p{i},{'BA'[i % 6 != 5]},c{i}.jpg,{parts[i % 6]}" for i in range(24)]
    table.write_text("\n".join(["case_id,patient_id,label,clinical,split", *rows]))
    told = agfnet_command("check", table, "--quick").stdout
    assert "column split: no calibration or test case is 'B'" in told  # there is no validation part
    assert told.count("class-not-in-part") == 1
    assert "parts: 4 calibration, 4 test, 12 train, 4 without a part" in told


def test_names_of_other_views_scales_are_no_misspelling(tmp_path):
    header = "case_id,patient_id,view_a,view_b,view_b_mm_per_pixel,dx,labeler"
    (tmp_path / "cases.csv").write_text(f"{header}\n1,1,a.jpg,b.jpg,0.1,x,y\n")
    causes = {fault.cause for fault in check_table(tmp_path / "cases.csv").faults}
    assert "missing-column" not in causes


def test_rows_of_empty_cells_are_no_cases(tmp_path):
    report = check_table(write(tmp_path, [*good_lines(tmp_path), ",,,,", " , ,,,"]))
    assert report.ok, [str(fault) for fault in report.faults]
    assert report.cases == 8


def test_backslashes_and_links_are_named(tmp_path):
    folder = tmp_path / "table"
    folder.mkdir()
    lines = good_lines(folder)
    (folder / "real").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (folder / "c1.jpg").rename(tmp_path / "elsewhere" / "c1.jpg")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    lines[1], lines[2] = lines[1].replace("c0.jpg", "real\\c0.jpg"), lines[2].replace("c1.jpg", "linked/c1.jpg")
    first, second = check_table(write(folder, lines)).faults
    assert "Write `/`, not `\\`" in first.remedy
    assert f"a link leads to {(tmp_path / 'elsewhere' / 'c1.jpg').resolve()}" in second.message


def test_a_file_whose_name_differs_in_capitals_or_encoding_is_offered(tmp_path):
    lines = good_lines(tmp_path)
    (tmp_path / "c1.jpg").rename(tmp_path / "Na\u0308vus.JPG")
    lines[1] = lines[1].replace("c0.jpg", "C0.JPG")
    lines[2] = lines[2].replace("c1.jpg", "n\u00e4vus.jpg")
    lines[3] = lines[3].replace("c2.jpg", "gone.jpg")
    remedies = [fault.remedy for fault in check_table(write(tmp_path, lines), level="quick").faults]
    assert ["'c0.jpg'" in remedies[0], "'Na\u0308vus.JPG'" in remedies[1]] == [True, True]
    assert remedies[2].startswith("Correct the path")


def test_close_matches_are_offered_for_an_unknown_label(tmp_path):
    path = write(tmp_path, ["case_id,patient_id,label,clinical", "1,1,melanma,a.jpg"])
    (fault,) = (f for f in check_table(path, classes=["melanoma", "naevus"]).faults if f.cause == "unknown-label")
    assert "melanoma" in fault.remedy


def test_quick_does_not_decode(tmp_path):
    lines = good_lines(tmp_path)
    (tmp_path / "c1.jpg").write_bytes((tmp_path / "c1.jpg").read_bytes()[:200])
    path = write(tmp_path, lines)
    assert check_table(path, level="quick").ok
    assert not check_table(path, level="decode").ok


def test_images_of_one_patient_may_be_alike(tmp_path):
    lines = good_lines(tmp_path)
    lines += ["L8,P0,A,again.png,", "L9,P0,A,c0.jpg,", "L10,P0,,c0.jpg,"]
    picture(0).save(tmp_path / "again.png")
    assert check_table(write(tmp_path, lines), level="deep").ok


def test_deep_check_resumes_and_notices_changed_files(tmp_path, monkeypatch):
    path = write(tmp_path, good_lines(tmp_path))
    monkeypatch.setattr(duplicates, "BATCH", 4)

    class StoppedError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        assert total == 16
        if done >= 8:
            raise StoppedError

    with pytest.raises(StoppedError):
        check_table(path, level="deep", progress=stop)
    read = []
    real = duplicates.read_scaled_image
    monkeypatch.setattr(duplicates, "read_scaled_image", lambda path, **kw: read.append(path) or real(path, **kw))
    calls = []
    assert check_table(path, level="deep", progress=lambda *at: calls.append(at)).ok
    assert len(read) == 8
    assert calls == [(12, 16), (16, 16)]
    read.clear()
    picture(99, (60, 50)).save(tmp_path / "c3.jpg")
    assert check_table(path, level="deep").ok
    assert [Path(one).name for one in read] == ["c3.jpg"]


def test_damaged_store_is_an_error_with_remedy(tmp_path):
    path = write(tmp_path, good_lines(tmp_path))
    (tmp_path / "cases.csv.hashes.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(TableError, match="Delete the file"):
        check_table(path, level="deep")


def test_store_holds_no_images(tmp_path):
    path = write(tmp_path, good_lines(tmp_path))
    check_table(path, level="deep")
    with sqlite3.connect(tmp_path / "cases.csv.hashes.sqlite") as database:
        assert database.execute("SELECT count(*), max(length(fine)) FROM hashes_v3").fetchone() == (16, 32)


def test_deep_without_imagehash_names_the_extra(tmp_path, monkeypatch):
    path = write(tmp_path, good_lines(tmp_path))
    real = builtins.__import__

    def no_imagehash(name, *args, **kwargs):
        if name == "imagehash":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_imagehash)
    with pytest.raises(ConfigError, match=r"agfnet\[train\]"):
        check_table(path, level="deep")


@pytest.mark.parametrize("threshold", [0, 1, 4, 6, 10])
def test_near_pairs_agrees_with_comparing_all(threshold):
    rng = np.random.default_rng(threshold)
    centres = rng.integers(0, 2**63, 20, dtype=np.uint64)
    flips = (rng.random((400, 64)) < 0.06) @ (np.uint64(1) << np.arange(64, dtype=np.uint64))
    hashes = np.unique(centres[rng.integers(0, 20, 400)] ^ flips)
    i, j = np.triu_indices(len(hashes), 1)
    near = np.bitwise_count(hashes[i] ^ hashes[j]) <= threshold
    expected = np.stack([i[near], j[near]], axis=1)
    np.testing.assert_array_equal(near_pairs(hashes, threshold), expected)


@pytest.mark.parametrize("count", [0, 1])
def test_near_pairs_of_few_hashes(count):
    assert near_pairs(np.zeros(count, dtype=np.uint64)).shape == (0, 2)


@pytest.mark.full
def test_near_pairs_is_not_quadratic():
    hashes = np.unique(np.random.default_rng(0).integers(0, 2**63, 200_000, dtype=np.uint64))
    start = time.perf_counter()
    near_pairs(hashes)
    assert time.perf_counter() - start < 20


def _large_table(folder: Path, rows: int) -> Path:
    """Every image is a file of its own, spread over folders as in an archive."""
    jpeg, png = encoded(picture(0), "JPEG"), encoded(picture(1), "PNG")
    lines = [HEADER]
    for row in range(rows):
        place = folder / f"{row // 1000:03d}"
        if row % 1000 == 0:
            place.mkdir()
        (place / f"{row}.jpg").write_bytes(jpeg)
        (place / f"{row}.png").write_bytes(png)
        lines.append(f"{row},{row},{'AB'[row % 2]},{place.name}/{row}.jpg,{place.name}/{row}.png")
    return write(folder, lines)


@pytest.mark.parametrize(("rows", "seconds"), [(5_000, 5.0), pytest.param(100_000, 20.0, marks=pytest.mark.full)])
def test_quick_check_is_quick(rows, seconds, tmp_path):
    path = _large_table(tmp_path, rows)
    start = time.perf_counter()
    report = check_table(path, level="quick")
    assert time.perf_counter() - start < seconds
    assert report.ok
    assert report.images == {"clinical": rows, "ultrasound": rows}


def test_near_duplicate_within_a_split_of_two_patients(tmp_path):
    path = write(tmp_path, good_lines(tmp_path))
    picture(4, (400, 300)).save(tmp_path / "c2.jpg")
    picture(4, (400, 300)).save(tmp_path / "c5.jpg", quality=40)
    (fault,) = check_table(path, level="deep").faults
    assert (fault.cause, fault.row) == ("near-duplicate-of-two-patients", 7)
    assert "row 4" in fault.message


@pytest.mark.parametrize("level", ["quick", "decode", "deep"])
def test_what_dicom_files_say_against_the_table_is_found(level, tmp_path):
    """What prediction refuses is a fault: two patients in a case, and another scale than the file's own."""
    lines = good_lines(tmp_path)
    lines = [line + "," + ("ultrasound_mm_per_pixel" if i == 0 else "") for i, line in enumerate(lines)]
    for number in (0, 1):
        lines[1 + number] = f"L{number},P{number},{'AB'[number]},c{number}.dcm,u{number}.dcm,"
    lines[2] += "0.2"
    for name, seed, patient in (("c0", 0, "Ms Hidden"), ("u0", 1, "Mr Hidden"), ("c1", 2, "Z"), ("u1", 3, "Z")):
        pixels = np.asarray(picture(seed))
        made = dicom(pixels, modality="US" if name[0] == "u" else "XC", PatientID=patient)
        made = with_regions(made, region(delta=0.01)) if name[0] == "u" else made
        (tmp_path / f"{name}.dcm").write_bytes(content_of(made))
    report = check_table(write(tmp_path, lines), level=level)
    assert [(fault.row, fault.column, fault.cause) for fault in report.faults] == [
        (2, "ultrasound", "other-patient"), (3, "ultrasound", "two-scales"),
    ]  # fmt: skip
    told = "\n".join(map(str, report.faults))
    assert "given as 0.2 mm per pixel, and this DICOM file says 0.1" in told
    assert "Hidden" not in told
    assert "Patient(" not in told
    assert report.scaled == {"clinical": 0, "ultrasound": 2}


@pytest.mark.parametrize("scale", ["-0.1", "nan", "inf", "50", "many"])
def test_a_scale_that_cannot_be_is_one_fault_and_not_known(scale, tmp_path):
    """Also where the file has one of its own to hold it against."""
    lines = good_lines(tmp_path)
    lines = [line + "," + ("ultrasound_mm_per_pixel" if i == 0 else "") for i, line in enumerate(lines)]
    lines[1] = lines[1].replace("u0.png", "u0.dcm") + scale
    made = with_regions(dicom(np.asarray(picture(1)), modality="US"), region(delta=0.01))
    (tmp_path / "u0.dcm").write_bytes(content_of(made))
    report = check_table(write(tmp_path, lines), level="quick")
    assert [(fault.row, fault.cause) for fault in report.faults] == [(2, "bad-mm-per-pixel")]
    assert report.scaled == {"clinical": 0, "ultrasound": 1}
