from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from agfnet.config import parse_config
from agfnet.data.table import own_cases
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


def test_networks_of_fewer_views_have_the_same_folds(drawn):
    """Though they cannot see every case."""
    table = pl.read_csv(drawn / "parts.csv", infer_schema=False).drop("split")
    lacking = pl.when(pl.int_range(pl.len()) % 5 == 1).then(None).otherwise("ultrasound").alias("ultrasound")
    table.with_columns(lacking).write_csv(drawn / "lacking.csv")
    tree = small_config(drawn / "lacking.csv")
    both = parse_config(tree, "test")
    tree["data"]["views"] = {"ultrasound": tree["data"]["views"]["ultrasound"]}
    scan = parse_config(tree, "test")
    seen = {case.case_id for case in own_cases(scan.data)}
    assert len(seen) < len(own_cases(both.data))
    splits, _ = fold_parts(both, 3, 0)
    own, _ = fold_parts(scan, 3, 0, dealt=both.data)
    for whole, less in zip(splits, own, strict=True):
        for cases, fewer in zip(whole, less, strict=True):
            assert [case.case_id for case in fewer] == [case.case_id for case in cases if case.case_id in seen]
