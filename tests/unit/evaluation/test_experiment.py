from __future__ import annotations

import os
from collections.abc import Iterable

import polars as pl
import pytest
import torch

from agfnet.config import parse_config
from agfnet.data.table import own_cases
from agfnet.evaluation import experiment
from agfnet.evaluation.compare import _own_gpu
from agfnet.evaluation.experiment import fold_parts
from agfnet.types import Case, ConfigError, TableError
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


def test_every_fold_can_be_learnt_from(drawn):
    """Before the first is trained, and not when that one's turn comes, or never."""
    table = pl.read_csv(drawn / "cases.csv", infer_schema=False)
    splits, _ = fold_parts(parse_config(small_config(drawn / "cases.csv"), "test"), 3, 0)
    held = [case.case_id for case in splits[1][1]]
    in_one = pl.col("case_id").is_in(held)

    def without(where, name):
        kept = pl.when(where).then("ultrasound").otherwise(None).alias("ultrasound")
        table.with_columns(kept).write_csv(drawn / f"{name}.csv")
        return parse_config(small_config(drawn / f"{name}.csv"), "test")

    with pytest.raises(TableError, match=r"with fold \d of 3 held out, no training case has an image of ultrasound"):
        fold_parts(without(in_one, "one-fold"), 3, 0)
    both = without(in_one | (pl.col("label") != "cyst"), "cysts")
    tree = small_config(drawn / "cysts.csv")
    tree["data"]["views"].pop("clinical")
    with pytest.raises(TableError, match=r"with fold \d of 3 held out, no training case is cyst"):
        fold_parts(parse_config(tree, "test"), 3, 0, dealt=both.data)


def test_an_image_in_two_folds_is_found_before_the_first(drawn):
    table = pl.read_csv(drawn / "cases.csv", infer_schema=False)
    splits, _ = fold_parts(parse_config(small_config(drawn / "cases.csv"), "test"), 3, 0)
    first, last = (next(c.case_id for c in held if c.views["clinical"]) for _, held in (splits[0], splits[2]))
    shared = table.filter(pl.col("case_id") == first)["clinical"].item()
    filed = pl.when(pl.col("case_id") == last).then(pl.lit(shared)).otherwise("clinical").alias("clinical")
    table.with_columns(filed).write_csv(drawn / "shared.csv")
    with pytest.raises(TableError, match="an image of this fold-3 case is also one of a fold-1 case"):
        fold_parts(parse_config(small_config(drawn / "shared.csv"), "test"), 3, 0)


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


def test_a_network_that_cannot_be_exported_is_told_before_it_is_trained(drawn, tmp_path, monkeypatch):
    config = parse_config(small_config(drawn / "parts.csv"), "test")
    monkeypatch.setattr(experiment, "EXPORTED", set())
    monkeypatch.setattr(experiment, "train", lambda *_, **__: pytest.fail("it is trained"))
    monkeypatch.setattr(experiment, "export_graph", lambda *_: torch.rand(1).numpy().tobytes())
    monkeypatch.setattr(experiment, "parity", lambda *_: 1e-6)
    state = torch.random.get_rng_state()
    experiment.check_exportable(config)
    assert torch.equal(torch.random.get_rng_state(), state)  # or the training would draw otherwise
    monkeypatch.setattr(experiment, "parity", lambda *_: 0.5)
    with pytest.raises(ConfigError, match=r"test_efficientnet answers otherwise by 0\.5 once it is exported"):
        experiment.run(config, tmp_path / "run")

    def unknown(*_):
        raise RuntimeError("no such operator\nand a long trace")

    monkeypatch.setattr(experiment, "export_graph", unknown)
    with pytest.raises(ConfigError, match=r"cannot be exported \(no such operator\)"):
        experiment.run(config, tmp_path / "run")


def test_each_of_several_gpus_has_its_trainings(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    seen = []
    for visible in (None, "4,7"):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        running = []
        for _ in range(3):
            with _own_gpu(running) as gpu:
                running.append(os.environ["CUDA_VISIBLE_DEVICES"])
            assert gpu == running[-1]
        seen.append(running)
        assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible
    assert seen == [["0", "1", "0"], ["4", "7", "4"]]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with _own_gpu([]) as gpu:
        assert (gpu, os.environ["CUDA_VISIBLE_DEVICES"]) == (None, "3")
