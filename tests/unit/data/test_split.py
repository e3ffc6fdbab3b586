from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agfnet.data.split import DEFAULT_FRACTIONS, patient_folds, split_table, split_to_file
from agfnet.data.table import PARTS, read_cases
from agfnet.types import Case, ConfigError, TableError


def cases_of(pairs: list[tuple[str, str | None]]) -> list[Case]:
    return [
        Case(case_id=str(row), patient_id=patient, row=row, views={}, label=label)
        for row, (patient, label) in enumerate(pairs, start=2)
    ]


def drawn(seed: int, patients: int = 300) -> list[tuple[str, str | None]]:
    rng = np.random.default_rng(seed)
    pairs: list[tuple[str, str | None]] = []
    for patient in range(patients):
        label = str(rng.choice(["NEV", "MEL", "BCC"], p=[0.7, 0.25, 0.05]))
        pairs += [(f"P{patient}", label)] * int(rng.integers(1, 4))
    return pairs


@pytest.mark.parametrize("seed", range(5))
def test_parts_are_disjoint_by_patient_stratified_and_of_the_size_asked_for(seed):
    pairs = drawn(seed)
    parts = split_table(cases_of(pairs), seed=seed)
    of_patient = defaultdict(set)
    for (patient, _), part in zip(pairs, parts, strict=True):
        of_patient[patient].add(part)
    assert all(len(own) == 1 for own in of_patient.values())
    label_of = dict(pairs)
    for label in ("NEV", "MEL", "BCC"):
        sizes = Counter(next(iter(of_patient[p])) for p in of_patient if label_of[p] == label)
        total = sum(sizes.values())
        assert set(sizes) == set(PARTS)
        for part, fraction in DEFAULT_FRACTIONS.items():
            assert abs(sizes[part] - fraction * total) <= 1.5
    sizes = Counter(next(iter(own)) for own in of_patient.values())
    for part, fraction in DEFAULT_FRACTIONS.items():
        assert abs(sizes[part] - fraction * 300) <= 2


def test_order_of_rows_does_not_matter_and_the_seed_does():
    pairs = drawn(0)
    order = np.random.default_rng(1).permutation(len(pairs))
    parts = split_table(cases_of(pairs))
    shuffled = split_table(cases_of([pairs[k] for k in order]))
    assert [parts[k] for k in order] == shuffled
    assert split_table(cases_of(pairs), seed=1) != parts


def test_frame_and_cases_agree():
    pairs = drawn(2)
    frame = pl.DataFrame({"patient_id": [p for p, _ in pairs], "label": [label for _, label in pairs]})
    assert split_table(frame) == split_table(cases_of(pairs))


def test_patient_with_several_labels_counts_by_the_rarest():
    pairs = [(f"N{k}", "NEV") for k in range(40)] + [(f"M{k}", label) for k in range(4) for label in ("NEV", "MEL")]
    parts = split_table(cases_of(pairs))
    assert {part for (_, label), part in zip(pairs, parts, strict=True) if label == "MEL"} == set(PARTS)


def test_smallest_class_that_fits_is_in_each_part():
    pairs = [(f"A{k}", "A") for k in range(4)] + [(f"B{k}", "B") for k in range(50)]
    parts = split_table(cases_of(pairs))
    assert sorted(parts[:4]) == sorted(PARTS)


def test_too_small_class_is_an_error_with_its_name_and_size():
    pairs = [("A0", "rare"), ("A0", "rare"), ("A1", "rare"), *((f"B{k}", "B") for k in range(50))]
    with pytest.raises(TableError, match=r"class 'rare' has 2 patient\(s\).* 4 parts"):
        split_table(cases_of(pairs))


def test_class_hidden_by_rarer_ones_is_an_error_not_a_silent_gap():
    """Its patients are dealt out as those of rarer classes, and chance decides whether they reach every part."""
    pairs = [(f"{label}{k}", name) for label in "AB" for k in range(5) for name in (label, "C")[: 1 + (k < 3)]]
    ends = set()
    for seed in range(20):
        try:
            parts = split_table(cases_of(pairs), seed=seed)
        except TableError as error:
            assert "class 'C' has 6 patient(s), too few that can be told apart" in str(error)  # noqa: PT017
            ends.add("refused")
        else:
            assert {part for (_, label), part in zip(pairs, parts, strict=True) if label == "C"} == set(PARTS)
            ends.add("split")
    assert ends == {"refused", "split"}


def test_parts_may_be_left_out():
    parts = split_table(cases_of(drawn(3)), fractions={"train": 0.8, "test": 0.2})
    assert set(parts) == {"train", "test"}


def test_unlabelled_rows_are_split_too():
    parts = split_table(cases_of([(f"P{k}", None) for k in range(100)]))
    assert Counter(parts) == {"train": 60, "validation": 15, "calibration": 10, "test": 15}


@pytest.mark.parametrize(
    "fractions",
    [
        {},
        {"train": 1.0, "dev": 0.0},
        {"train": 0.5, "test": 0.4},
        {"train": 1.0, "test": 0.0},
        {"train": 2, "test": -1},
    ],
)
def test_wrong_fractions_are_errors(fractions):
    with pytest.raises(ConfigError):
        split_table(cases_of(drawn(0)), fractions=fractions)


def test_rows_without_patient_and_empty_tables_are_errors():
    with pytest.raises(TableError, match="row 3"):
        split_table(cases_of([("P", "A"), ("", "A")]))
    with pytest.raises(TableError, match="no cases"):
        split_table([])
    with pytest.raises(TableError, match="patient_id"):
        split_table(pl.DataFrame({"label": ["A"]}))


@settings(deadline=None, max_examples=60)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 60).map(str), st.sampled_from("ABC")), min_size=60, max_size=150),
    k=st.integers(2, 5),
    seed=st.integers(0, 9),
)
def test_folds_hold_each_case_once_and_no_patient_twice(pairs, k, seed):
    cases = cases_of(pairs)
    try:
        folds = patient_folds(cases, k, seed)
    except TableError:  # a class that too few patients have; tested below
        return
    assert len(folds) == k
    assert sorted(np.concatenate(folds).tolist()) == list(range(len(cases)))
    owners = [{cases[index].patient_id for index in fold} for fold in folds]
    assert sum(map(len, owners)) == len(set().union(*owners))
    for fold in folds:
        assert {cases[index].label for index in fold} == {label for _, label in pairs}


def test_folds_are_of_like_size():
    pairs = [(f"{label}{k}", label) for label, size in (("A", 26), ("B", 57), ("C", 356)) for k in range(size)]
    folds = patient_folds(cases_of(pairs), 5, 0)
    assert max(map(len, folds)) - min(map(len, folds)) <= 1


def test_too_many_folds_are_an_error_with_the_number_that_works():
    pairs = [(f"A{k}", "A") for k in range(3)] + [(f"B{k}", "B") for k in range(9)]
    with pytest.raises(TableError, match=r"class 'A' has 3 .*at most 3 folds"):
        patient_folds(cases_of(pairs), 5)
    with pytest.raises(ConfigError):
        patient_folds(cases_of(pairs), 1)


def test_parts_that_are_there_are_not_written_over(tmp_path, caplog):
    """A case that a network was trained on would come into the test part."""
    rows = [{"case_id": f"c{i}", "patient_id": f"p{i}", "label": "ab"[i % 2], "clinical": "a.jpg"} for i in range(60)]
    pl.DataFrame(rows).write_csv(tmp_path / "cases.csv")
    out = tmp_path / "parts.csv"
    counts = split_to_file(tmp_path / "cases.csv", out)
    before = out.read_bytes()
    assert split_to_file(tmp_path / "cases.csv", out) == counts  # the same parts again
    with pytest.raises(TableError, match="is there already"):
        split_to_file(tmp_path / "cases.csv", out, seed=1)
    assert out.read_bytes() == before
    assert "drawn anew" not in caplog.text
    split_to_file(out, tmp_path / "other.csv", seed=1)
    moved = (pl.read_csv(out)["split"] != pl.read_csv(tmp_path / "other.csv")["split"]).sum()
    assert f"{moved} cases come into another" in caplog.text


@pytest.mark.parametrize(("separator", "mark"), [(";", "\ufeff"), (",", ""), ("\t", "")])
def test_what_a_spreadsheet_wrote_it_can_open_again(tmp_path, separator, mark):
    """Columns are separated as before, and a byte-order mark stays; several images are quoted where they must be."""
    rows = [[f"c{i}", f"p{i}", "ab"[i % 2], '"a.jpg;b.jpg"'] for i in range(30)]
    lines = [separator.join(row) for row in [["case_id", "patient_id", "label", "clinical"], *rows]]
    (tmp_path / "cases.csv").write_text(mark + "\r\n".join(lines), encoding="utf-8")
    split_to_file(tmp_path / "cases.csv", tmp_path / "parts.csv")
    text = (tmp_path / "parts.csv").read_text(encoding="utf-8")
    assert text.startswith(f"{mark}case_id{separator}")
    assert [len(case.views["clinical"]) for case in read_cases(tmp_path / "parts.csv")] == [2] * 30


def a_table(path, **columns):
    rows = [{"case_id": f"c{i}", "patient_id": f"p{i}", "label": "ab"[i % 2], **columns} for i in range(30)]
    path.parent.mkdir(exist_ok=True)
    pl.DataFrame(rows).write_csv(path)


def test_paths_start_where_the_table_is_though_it_be_a_link(tmp_path):
    a_table(tmp_path / "store" / "ab12.csv", clinical="photos/a.jpg")
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "cases.csv").symlink_to(tmp_path / "store" / "ab12.csv")
    for out, written in (("study/parts.csv", "photos/a.jpg"), ("parts.csv", f"{tmp_path}/study/photos/a.jpg")):
        split_to_file(tmp_path / "study" / "cases.csv", tmp_path / out)
        assert set(pl.read_csv(tmp_path / out)["clinical"]) == {written}


def test_views_without_a_suffix_can_be_named(tmp_path, agfnet_command):
    """As DICOM files often are."""
    a_table(tmp_path / "study" / "cases.csv", hfus="scans/IM0001")
    a_table(tmp_path / "study" / "both.csv", hfus="scans/IM0001", clinical="photos/a.jpg")
    command = "split", tmp_path / "study" / "cases.csv", "-o", tmp_path / "parts.csv"
    assert "no column holds image paths" in agfnet_command(*command).stderr
    assert agfnet_command(*command, "--views", "hfus").exit_code == 0
    assert set(pl.read_csv(tmp_path / "parts.csv")["hfus"]) == {f"{tmp_path}/study/scans/IM0001"}
    split_to_file(tmp_path / "study" / "both.csv", tmp_path / "both.csv", views=["hfus"])
    assert set(pl.read_csv(tmp_path / "both.csv")["clinical"]) == {f"{tmp_path}/study/photos/a.jpg"}


def test_a_split_without_labels_says_so(tmp_path, caplog):
    rows = [{"case_id": f"c{i}", "patient_id": f"p{i}", "clinical": "a.jpg"} for i in range(30)]
    pl.DataFrame(rows).write_csv(tmp_path / "cases.csv")
    split_to_file(tmp_path / "cases.csv", tmp_path / "parts.csv")
    assert "has no column label" in caplog.text


def test_a_patient_in_two_spellings_is_warned_of(tmp_path, caplog):
    rows = [{"case_id": f"c{i}", "patient_id": f"P{i}", "label": "ab"[i % 2], "clinical": "a.jpg"} for i in range(30)]
    rows[29]["patient_id"] = "p-03"
    pl.DataFrame(rows).write_csv(tmp_path / "cases.csv")
    split_to_file(tmp_path / "cases.csv", tmp_path / "parts.csv")
    assert "row 31, column patient_id: the patients 'p-03' here and 'P3' in row 5 differ in case" in caplog.text


def table_file(folder, rows):
    lines = ["case_id,patient_id,label,clinical", *(f"c{i},{p},{label},a.jpg" for i, (p, label) in enumerate(rows))]
    (folder / "cases.csv").write_text("\n".join(lines) + "\n")
    return folder / "cases.csv"


def test_cases_without_a_label_are_in_no_part(tmp_path, caplog):
    """A training would refuse them, and no figure is of them: they wait until their diagnosis is known."""
    rows = [(f"P{i}", "ab"[i % 2] if i < 40 else "") for i in range(44)]
    counts = split_to_file(table_file(tmp_path, rows), tmp_path / "parts.csv")
    made = pl.read_csv(tmp_path / "parts.csv")
    assert made.filter(pl.col("label").is_null())["split"].to_list() == [None] * 4
    assert made.filter(pl.col("label").is_not_null())["split"].null_count() == 0
    assert sum(counts.values()) == 40
    assert "4 cases have no label" in caplog.text


def test_one_patient_with_most_of_the_cases_is_told(tmp_path, caplog):
    rows = [(f"P{i}", "ab"[i % 2]) for i in range(40)]
    split_to_file(table_file(tmp_path, rows), tmp_path / "even.csv")
    assert "has 1 of" not in caplog.text
    split_to_file(table_file(tmp_path, [*rows, *[("P1", "b")] * 200]), tmp_path / "parts.csv")
    assert "patient P1 has 201 of 240 cases" in caplog.text
