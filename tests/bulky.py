"""Tables for bulk prediction: drawn cases over and over, some of them bad; and whether a folder holds it all."""

from __future__ import annotations

from pathlib import Path

import polars as pl

BAD = {
    "missing-id": {"patient_id": ""},
    "duplicate-case": {"case_id": "k0"},
    "bad-mm-per-pixel": {"ultrasound_mm_per_pixel": "fine"},
    "path-outside": {"clinical": "../elsewhere.jpg"},
    "no such file": {"clinical": "gone.jpg"},
    "no image of": {"clinical": "", "ultrasound": ""},
    "looks like text": {"ultrasound": "note.png"},
}
"""What the reason in quarantine says -> what is written into the row."""


def many_rows(drawn: Path, rows: int, bad: dict[int, str]) -> pl.DataFrame:
    """So many rows from the drawn cases, with ids of their own; position -> which of `BAD` its row is."""
    cases = pl.read_csv(drawn / "cases.csv", infer_schema=False).select("clinical", "ultrasound").fill_null("").rows()
    lines = [
        {"case_id": f"k{i}", "patient_id": f"p{i // 2}", "clinical": clinical, "ultrasound": ultrasound,
         "ultrasound_mm_per_pixel": "", "note": "not needed"} | BAD.get(bad.get(i, ""), {})
        for i, (clinical, ultrasound) in ((i, cases[i % len(cases)]) for i in range(rows))
    ]  # fmt: skip
    (drawn / "note.png").write_text("this is a note, not a picture\n")
    return pl.DataFrame(lines)


def results(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Predictions and quarantine, by row."""
    return tuple(
        pl.read_parquet(sorted((folder / kind).glob("*.parquet")), glob=False).sort("row")
        for kind in ("predictions", "quarantine")
    )


def check_whole(folder: Path, table: pl.DataFrame, bad: dict[int, str]) -> None:
    """Predictions and quarantine together are the table, each row once, and the bad ones have their reasons."""
    predicted, quarantine = results(folder)
    assert sorted([*predicted["row"], *quarantine["row"]]) == list(range(2, table.height + 2))
    assert quarantine["row"].to_list() == [i + 2 for i in sorted(bad)]
    for row, case_id, reason in quarantine.rows():
        assert bad[row - 2] in reason
        assert f"row {row}" in reason
        assert case_id == table["case_id"][row - 2]
    ids = [table["case_id"][row - 2] for row in predicted["row"]]
    assert predicted["case_id"].to_list() == ids


def running() -> dict[int, tuple[int, str]]:
    """The living processes: process id -> parent and command."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (state := (entry / "stat").read_text().rpartition(")")[2].split())[0] != "Z":
                found[int(entry.name)] = int(state[1]), (entry / "cmdline").read_text().replace("\0", " ")
        except OSError:  # it has ended
            continue
    return found


def descendants(pid: int) -> dict[int, str]:
    """The living processes under one: process id -> command."""
    alive, found = running(), {pid}
    while more := {child for child, (parent, _) in alive.items() if parent in found} - found:
        found |= more
    return {child: alive[child][1] for child in found - {pid}}
