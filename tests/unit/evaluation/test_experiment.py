from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from agfnet.config import parse_config
from agfnet.evaluation.experiment import fold_parts
from agfnet.types import Case
from drawn import small_config


def patients(cases: Iterable[Case]) -> set[str]:
    return {case.patient_id for case in cases}


def test_cases_without_a_part_are_in_no_fold_where_others_have_one(drawn, tmp_path, caplog):
    """One of them may be a test patient's second lesion."""
    table = pl.read_csv(drawn / "parts.csv", infer_schema=False)
    kept = pl.when(pl.col("split") == "test").then(None).otherwise("split")
    whole = [pl.format(f"{drawn}/{{}}", view).alias(view) for view in ("clinical", "ultrasound")]
    for name, column in (("some", kept), ("none", pl.lit(None, dtype=pl.String))):
        table.with_columns(*whole, split=column).write_csv(tmp_path / f"{name}.csv")
    tested = set(table.filter(pl.col("split") == "test")["patient_id"])

    splits, _ = fold_parts(parse_config(small_config(tmp_path / "some.csv"), "test"), 2, 0)
    assert all(patients([*train, *held]).isdisjoint(tested) for train, held in splits)
    assert "cases have no part, where others have one" in caplog.text
    splits, _ = fold_parts(parse_config(small_config(tmp_path / "none.csv"), "test"), 2, 0)
    assert all(patients([*train, *held]) == set(table["patient_id"]) for train, held in splits)
