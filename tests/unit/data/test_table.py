from __future__ import annotations

import os
from pathlib import Path

import polars as pl
import pytest
from broken import BROKEN, Broken, good_lines, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agfnet.data import tablefile
from agfnet.data.checks import check_table
from agfnet.data.table import infer_views, read_cases
from agfnet.data.tablefile import table_sha256
from agfnet.data.tablestream import stream_table
from agfnet.data.tablewrite import writable_table, write_table
from agfnet.types import AgfnetError, Case, TableError

FULL = [
    "case_id,patient_id,label,clinical,ultrasound,split,site,reference_standard,ultrasound_mm_per_pixel,sign,age",
    "007,01,MEL,a.jpg;b.jpg,u.png,train,X,histology,0.05,present,40",
    "008, 01 ,,c.jpg,,train,,,,,",
]


def test_every_column_has_its_place(tmp_path):
    first, second = read_cases(write(tmp_path, FULL), extra_labels=["sign"])
    root = Path(os.path.realpath(tmp_path))
    assert (first.case_id, first.patient_id, first.label, first.row) == ("007", "01", "MEL", 2)
    assert first.views == {"clinical": (root / "a.jpg", root / "b.jpg"), "ultrasound": (root / "u.png",)}
    assert first.mm_per_pixel == {"ultrasound": 0.05}
    assert (first.split, first.site, first.reference_standard) == ("train", "X", "histology")
    assert first.extra_labels == {"sign": "present"}
    assert first.attributes == {"age": "40"}
    assert (second.patient_id, second.label, second.row) == ("01", None, 3)
    assert second.views["ultrasound"] == ()
    assert second.mm_per_pixel == {}
    assert second.extra_labels == {"sign": None}
    assert second.attributes == {"age": None}


def test_parquet_gives_the_same_cases(tmp_path):
    path = write(tmp_path, FULL)
    frame = pl.read_csv(path, infer_schema=False).with_columns(
        pl.col("ultrasound_mm_per_pixel").cast(pl.Float64), pl.col("age").cast(pl.Int64)
    )
    write_table(frame, tmp_path / "cases.parquet")
    assert read_cases(tmp_path / "cases.parquet") == read_cases(path)


@pytest.mark.parametrize("prefix", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_byte_order_mark_and_line_ends_do_not_matter(prefix, newline, tmp_path):
    path = tmp_path / "cases.csv"
    path.write_bytes(prefix + newline.join(FULL).encode())
    assert [case.case_id for case in read_cases(path)] == ["007", "008"]


def test_blank_lines_count_as_rows_and_quotes_hold_commas(tmp_path):
    path = write(tmp_path, ["case_id,patient_id,clinical,note", "", '1,1,a.jpg,"one, two', 'lines"', "2,2,b.jpg,"])
    first, second = read_cases(path)
    assert (first.row, second.row) == (3, 4)
    assert first.attributes == {"note": "one, two\nlines"}


@pytest.mark.parametrize("separator", [";", "\t"])
def test_semicolons_and_tabs_separate_columns_where_the_header_has_them(separator, tmp_path):
    """As Excel writes them where the comma is a decimal one; several images of a view are then in quotes."""
    expected = read_cases(write(tmp_path, FULL))
    lines = [line.replace(",", separator).replace("a.jpg;b.jpg", '"a.jpg;b.jpg"') for line in FULL]
    other = write(tmp_path, ["\ufeff" + lines[0].replace("age", '"age, years"'), *lines[1:]], "other.csv")
    said = write(tmp_path, [f"\ufeffsep={separator}", lines[0].replace("age", '"age, years"'), *lines[1:]], "said.csv")
    assert read_cases(said) == read_cases(other)
    cases = read_cases(other)
    assert [case.views for case in cases] == [case.views for case in expected]
    assert cases[0].attributes == {"age, years": "40", "sign": "present"}
    frame = pl.concat([piece.raw.frame for piece in stream_table(other, 1)])
    assert frame.equals(tablefile.load_table(other)[0].frame)


def test_a_scale_may_have_a_decimal_comma_and_is_one_for_a_view(tmp_path):
    rows = ["case_id;patient_id;clinical;clinical_mm_per_pixel", "1;1;a.jpg;0,05", "2;2;b.jpg;0.05", "3;3;c.jpg;"]
    assert [case.mm_per_pixel for case in read_cases(write(tmp_path, rows))] == [{"clinical": 0.05}] * 2 + [{}]
    report = check_table(tmp_path / "cases.csv", level="quick")
    assert (report.scaled, {fault.cause for fault in report.faults}) == ({"clinical": 2}, {"missing-file"})
    rows[3] = '3;3;"c.jpg;d.jpg";"0.2;0.3"'
    with pytest.raises(TableError, match=r"row 4, .*Write one value, 0.0005 to 2.0 mm per pixel, for all images of"):
        read_cases(write(tmp_path, rows))


def test_given_views_win_over_inferred_ones(tmp_path):
    (case, _) = read_cases(write(tmp_path, FULL), views=["ultrasound"])
    assert list(case.views) == ["ultrasound"]
    assert case.attributes["clinical"] == "a.jpg;b.jpg"


def test_infer_views():
    frame = pl.DataFrame(
        {
            "case_id": ["a.jpg", "b.jpg"],
            "photo": ["a.JPG", "b.tiff; c.webp;"],
            "mostly": ["a.png", None],
            "rarely": ["a.png", "none"],
            "dermoscopy": pl.Series([None, None], dtype=pl.String),
            "scan": ["1", "2"],
            "scan_mm_per_pixel": ["0.1", "0.1"],
            "age": [4, 5],
        }
    )
    assert infer_views(frame) == ("photo", "mostly", "dermoscopy", "scan")


def test_absolute_paths_are_free_unless_a_root_is_given(tmp_path):
    (tmp_path / "tables").mkdir()
    outside = tmp_path / "images" / "a.jpg"
    path = write(tmp_path / "tables", ["case_id,patient_id,clinical", f"1,1,{outside}"])
    (case,) = read_cases(path)
    assert case.views["clinical"] == (Path(os.path.realpath(outside)),)
    assert read_cases(path, data_root=tmp_path) == [case]
    with pytest.raises(TableError, match=r"row 2, column clinical: .*leaves the data folder"):
        read_cases(path, data_root=tmp_path / "tables")


def test_relative_paths_may_climb_within_a_given_root(tmp_path):
    (tmp_path / "tables").mkdir()
    path = write(tmp_path / "tables", ["case_id,patient_id,clinical", "1,1,../images/a.jpg"])
    with pytest.raises(TableError, match="leaves the data folder"):
        read_cases(path)
    (case,) = read_cases(path, data_root=tmp_path)
    assert case.views["clinical"] == (Path(os.path.realpath(tmp_path)) / "images" / "a.jpg",)


def test_sibling_folder_with_the_same_beginning_is_outside(tmp_path):
    (tmp_path / "data").mkdir()
    path = write(tmp_path / "data", ["case_id,patient_id,clinical", "1,1,../data2/a.jpg"])
    with pytest.raises(TableError, match="leaves the data folder"):
        read_cases(path)


STRUCTURAL = {
    "missing-table", "unknown-format", "empty-table", "missing-header", "wrong-encoding", "malformed-csv",
    "ragged-row", "malformed-parquet", "nested-column", "duplicate-column", "unnamed-column",
    "no-view-column", "missing-id", "duplicate-case", "patient-in-two-splits", "unknown-split",
    "bad-mm-per-pixel",
}  # fmt: skip


def read_or_error(path: Path) -> list[Case] | AgfnetError:
    try:
        return read_cases(path)
    except AgfnetError as error:
        return error


@pytest.mark.parametrize("case", [c for c in BROKEN if c.cause in STRUCTURAL], ids=lambda case: case.name)
def test_structural_faults_stop_the_reader(case: Broken, tmp_path):
    path = case.build(tmp_path)
    with pytest.raises(TableError) as caught:
        read_cases(path)
    assert f"[{case.cause}]" in str(caught.value)
    assert str(path) in str(caught.value)


def test_long_lists_of_faults_are_cut_and_counted(tmp_path):
    path = write(tmp_path, ["case_id,patient_id,clinical", *(f",{n},a.jpg" for n in range(20))])
    with pytest.raises(TableError, match=r"(?s)20 fault.*and 15 more.*agfnet check") as caught:
        read_cases(path)
    assert len(str(caught.value).splitlines()) == 7


def test_write_table_leaves_the_old_one_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "cases.csv"
    write_table(pl.DataFrame({"a": ["1"]}), path)
    before = path.read_bytes()

    def fail(_: pl.DataFrame, file: Path) -> None:
        file.write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(pl.DataFrame, "write_csv", fail)
    with pytest.raises(TableError, match="disk full"):
        write_table(pl.DataFrame({"a": ["2"]}), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["cases.csv"]


def test_a_table_whose_model_is_gone_is_written_all_the_same(tmp_path, caplog):
    write_table(pl.DataFrame({"a": ["1"], "b": ["2"]}), tmp_path / "out.csv", like=tmp_path / "gone.csv")
    assert (tmp_path / "out.csv").read_text() == "a,b\n1,2\n"
    assert "cannot be read any more" in caplog.text


def test_write_table_refuses_other_suffixes(tmp_path):
    with pytest.raises(TableError, match=r"\.parquet"):
        write_table(pl.DataFrame({"a": ["1"]}), tmp_path / "cases.xlsx")


def test_table_sha256(tmp_path):
    path = tmp_path / "cases.csv"
    path.write_bytes(b"abc")
    assert table_sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(TableError):
        table_sha256(tmp_path / "absent.csv")


CELLS = st.one_of(
    st.text(alphabet='a1;,."\n\r\t é\0/\\', max_size=8),
    st.sampled_from(["..", "../a.jpg", "a.jpg", "/a.jpg"]),
)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.one_of(
        st.binary(max_size=200),
        st.lists(st.lists(CELLS, max_size=5).map(",".join), max_size=5).map(
            lambda rows: "\n".join(["case_id,patient_id,label,clinical,clinical_mm_per_pixel", *rows]).encode()
        ),
    ),
    suffix=st.sampled_from([".csv", ".parquet"]),
)
def test_any_bytes_give_cases_or_a_table_error(content, suffix, tmp_path):
    path = tmp_path / f"fuzz{suffix}"
    path.write_bytes(content)
    result = read_or_error(path)
    assert str(path) in str(result) if isinstance(result, AgfnetError) else result


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_parquet_gives_cases_or_a_table_error(tmp_path, data):
    path = tmp_path / "fuzz.parquet"
    pl.DataFrame({"case_id": ["1", "2"], "patient_id": [1, 2], "clinical": ["a.jpg", None]}).write_parquet(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(4, len(content) - 5))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    result = read_or_error(path)
    assert str(path) in str(result) if isinstance(result, AgfnetError) else result


def test_parquet_that_aborts_its_reader_is_an_error(tmp_path, monkeypatch):
    path = tmp_path / "cases.parquet"
    pl.DataFrame({"case_id": ["1"], "patient_id": ["1"], "clinical": ["a.jpg"]}).write_parquet(path)
    monkeypatch.setattr(tablefile, "_PARQUET_TO_ARROW", "import os; os.abort()")
    with pytest.raises(TableError, match="crashed"):
        read_cases(path)


def test_good_table_is_read(tmp_path):
    assert len(read_cases(write(tmp_path, good_lines(tmp_path)))) == 8


def test_a_table_is_not_written_over_the_one_that_is_read(tmp_path):
    table = tmp_path / "cases.csv"
    table.write_text("case_id\n")
    (tmp_path / "link.csv").symlink_to(table)
    for name in ("cases.csv", "link.csv"):
        with pytest.raises(TableError, match="the table that is read"):
            writable_table(tmp_path / name, source=table)
    assert writable_table(tmp_path / "predictions.csv", source=table)
