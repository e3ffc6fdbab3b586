from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from broken import BROKEN, good_lines, write

from agfnet.data.tablefile import load_table
from agfnet.data.tablestream import stream_sha256, stream_table
from agfnet.types import TableError

MANY = [
    "case_id,patient_id,clinical,note",
    "",
    '1, 1 ,a.jpg,"one, two',
    'lines"',
    "",
    "2,2,b.jpg,",
    "3,3,,",
    "4,,d.jpg,x",
]


def whole(path: Path, height: int):
    """The pieces of a stream put together."""
    pieces = list(stream_table(path, height))
    assert all(piece.raw.frame.height <= height for piece in pieces)
    frame = pl.concat([piece.raw.frame for piece in pieces])
    return frame, [row for piece in pieces for row in piece.raw.rows.tolist()], [f for p in pieces for f in p.faults]


@pytest.mark.parametrize("height", [1, 2, 100])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_the_pieces_are_the_table(height, suffix, tmp_path):
    path = write(tmp_path, MANY)
    if suffix == "parquet":
        pl.read_csv(path, infer_schema=False).with_columns(age=pl.lit(40)).write_parquet(tmp_path / "cases.parquet")
        path = tmp_path / "cases.parquet"
    raw, faults = load_table(path)
    assert raw is not None
    frame, rows, streamed = whole(path, height)
    assert frame.equals(raw.frame)
    assert (rows, streamed) == (raw.rows.tolist(), faults) == (rows, [])


@pytest.mark.parametrize("broken", BROKEN, ids=lambda b: b.name)
def test_what_is_wrong_with_the_file_is_said_as_in_one_reading(broken, tmp_path):
    path = broken.build(tmp_path)
    raw, faults = load_table(path)
    if all(fault.cause == "ragged-row" for fault in faults):
        assert raw is not None
        frame, rows, streamed = whole(path, 3)
        assert frame.equals(raw.frame)
        assert (rows, streamed) == (raw.rows.tolist(), faults)
    else:
        with pytest.raises(TableError) as caught:
            whole(path, 3)
        assert f"[{faults[0].cause}]" in str(caught.value)
        assert broken.row is None or f"row {broken.row}" in str(caught.value)


def test_a_folder_of_parquet_is_one_table(tmp_path):
    table = pl.read_csv(write(tmp_path, good_lines(tmp_path)), infer_schema=False)
    folder = tmp_path / "cases"
    for name, part in (
        ("a/1", table[:3]),
        ("b/0", table[3:4]),
        ("b/2", table[4:]),
        ("_left/out", table),
        (".x", table),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        part.write_parquet(folder / f"{name}.parquet")
    frame, rows, _ = whole(folder, 2)
    assert frame.equals(table)
    assert rows == list(range(2, 10))
    before = stream_sha256(folder)
    (folder / "b/2.parquet").rename(folder / "b/3.parquet")
    assert stream_sha256(folder) != before


def test_a_folder_names_the_file_that_is_unlike_or_damaged(tmp_path):
    table = pl.read_csv(write(tmp_path, good_lines(tmp_path)), infer_schema=False)
    for number, part in enumerate((table, table.drop("label"))):
        (tmp_path / "parts").mkdir(exist_ok=True)
        part.write_parquet(tmp_path / f"parts/{number}.parquet")
    with pytest.raises(TableError, match=r"1\.parquet: its columns are not those of .*0\.parquet \(label\)"):
        whole(tmp_path / "parts", 5)
    (tmp_path / "parts/1.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(TableError, match=r"1\.parquet: .*\s.*\[malformed-parquet\]"):
        whole(tmp_path / "parts", 5)


def test_a_reader_may_stop_early(tmp_path):
    pl.DataFrame({"case_id": range(100_000)}).write_parquet(tmp_path / "long.parquet")
    pieces = stream_table(tmp_path / "long.parquet", 10)
    assert next(pieces).raw.frame.height == 0
    assert next(pieces).raw.rows.tolist() == list(range(2, 12))
    pieces.close()
