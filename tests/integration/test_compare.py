"""A comparison of small networks: in pieces, with a mean of others, and the table that comes of it."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import polars as pl
import pytest
import yaml

from agfnet.config import parse_config
from agfnet.data.table import own_cases
from agfnet.evaluation.compare import (
    Run,
    _cases_of,
    _fitted_on,
    _made,
    all_runs,
    answerable,
    compare,
    labelled_cases,
    run_folder,
)
from agfnet.evaluation.comparison_table import comparison_notes, comparison_table
from agfnet.evaluation.plan import ComparisonPlan, load_plan
from agfnet.files import claim
from agfnet.runfolder import LOCK
from agfnet.training.folder import NETWORK
from agfnet.types import ConfigError, TableError
from drawn import small_config


@pytest.fixture(scope="module")
def plan_file(drawn, masks, tmp_path_factory):
    base = small_config(drawn / "parts.csv", epochs=1)
    base["data"]["cache"] = str(tmp_path_factory.mktemp("cache"))
    plan = {
        "reference": "full",
        "seeds": [0],
        "base": base,
        "rows": {
            "full": {"seeds": [0, 1]},
            "photo": {"views": ["clinical"], "change": ["model.fusion=concatenation", "model.fusion_options={}"]},
            "scan": {"views": ["ultrasound"], "change": ["model.fusion=concatenation", "model.fusion_options={}"]},
            "mean": {"mean_of": ["photo", "scan"]},
        },
        "masks": str(masks),
        "sample": 6,
        "claims": [
            {"says": "two views are better", "row": "full", "than": "photo", "point": 0.02},
            {"says": "and surer", "row": "full", "than": "photo", "figure": "nll_tempered"},
            {"says": "also when worse", "row": "full", "than": "scan", "figure": "accuracy", "cases": "corrupted"},
            {
                "says": "one missing",
                "row": "full",
                "cases": "only clinical",
                "than": "photo",
                "than_cases": "test",
                "bound": -0.02,
            },
            {
                "says": "looks",
                "row": "full",
                "than": "full",
                "figure": "focus/clinical/attention",
                "than_figure": "focus/clinical/centre",
                "relative": True,
                "point": 0.1,
            },
        ],
    }
    path = tmp_path_factory.mktemp("plan") / "plan.yaml"
    path.write_text(yaml.safe_dump(plan, sort_keys=False))
    return path


def test_a_comparison_in_pieces(plan_file, tmp_path, agfnet_command):
    plan, folder = load_plan(plan_file), tmp_path / "compared"
    runs = [("full", 0), ("photo", 0), ("scan", 0), ("full", 1)]
    assert all_runs(plan) == [Run(row, seed, None) for row, seed in runs]
    done = agfnet_command("compare", "-c", plan_file, "-o", folder, "--minutes", "0.0001", "--draws", 200)
    assert done.exit_code == 0, done.stderr
    assert "not complete yet" in done.stdout
    with claim(folder / LOCK):
        held = agfnet_command("compare", "-c", plan_file, "-o", folder, "--draws", 200)
        assert "another run works in it" in held.stderr.replace("\n", " ")
        shown = agfnet_command("compare", "-c", plan_file, "-o", folder, "--draws", 200, "--minutes", 0)
        assert shown.exit_code == 0, shown.stderr
    first = run_folder(folder, Run("full", 0, None)) / "result.json"
    assert first.stat().st_mode & 0o777 == 0o600
    stamp = first.stat().st_mtime_ns
    done = agfnet_command("compare", "-c", plan_file, "-o", folder, "--draws", 200)
    assert done.exit_code == 0, done.stderr
    assert "complete; everything" in done.stdout
    assert first.stat().st_mtime_ns == stamp
    told = json.loads(first.read_text())
    assert len(told["sets"]["corrupted"]["cases"]) == len(told["focus"]["patients"]) == 6
    assert set(told["sets"]["corrupted"]["cases"]) < set(told["sets"]["test"]["cases"])

    table = json.loads((folder / "table.json").read_text())
    assert set(table["rows"]) == {"full", "photo", "scan", "mean"}
    assert table["rows"]["full"]["seeds"] == 2
    assert "difference" not in table["rows"]["full"]
    for name in ("photo", "scan", "mean"):
        row = table["rows"][name]
        apart = row["figures"]["accuracy"]["value"] - table["rows"]["full"]["figures"]["accuracy"]["value"]
        assert row["difference"]["accuracy"]["value"] == pytest.approx(apart)
        assert row["holm_p"] >= row["difference"]["balanced_accuracy"]["p"]
        assert row["parameters"] > 0
        assert row["forward_ms"] > 0
    parts = [table["rows"][name]["parameters"] for name in ("photo", "scan")]
    assert table["rows"]["mean"]["parameters"] == sum(parts)
    told = {claim["says"]: claim for claim in table["claims"]}
    assert all(claim["holds"] in (True, False) for claim in told.values())
    assert all(claim["p"] <= claim["holm_p"] <= 1.0 for claim in told.values())
    better = told["two views are better"]
    values = [table["rows"][row]["figures"]["balanced_accuracy"]["value"] for row in ("full", "photo")]
    assert better["values"] == pytest.approx(values)
    assert better["gain"]["value"] == pytest.approx(values[0] - values[1])
    assert better["holds"] == (better["gain"]["value"] >= 0.02 and better["gain"]["low"] > 0)
    surer = told["and surer"]
    assert surer["gain"]["value"] == pytest.approx(surer["values"][1] - surer["values"][0])
    looks = told["looks"]
    assert looks["gain"]["value"] == pytest.approx(looks["values"][0] / looks["values"][1] - 1)
    run = json.loads(first.read_text())
    assert set(run["sets"]) == {"test", "corrupted", "only clinical"}
    assert run["sets"]["only clinical"]["cases"] == run["sets"]["test"]["cases"]
    parts = pl.read_csv(yaml.safe_load(plan_file.read_text())["base"]["data"]["table"])
    assert run["fitted"]["cases"] == parts.filter(pl.col("split") == "calibration")["case_id"].to_list()
    assert run["sets"]["corrupted"]["probabilities"] != run["sets"]["test"]["probabilities"]
    assert set(json.loads((run_folder(folder, Run("photo", 0, None)) / "result.json").read_text())["sets"]) == {"test"}
    assert "| two views are better |" in (folder / "table.md").read_text()
    assert pl.read_csv(folder / "table.csv").height == 4
    assert (folder / "forest.png").exists()
    assert "validation part: a place to choose" in (folder / "table.md").read_text()

    scan = run_folder(folder, Run("scan", 0, None)) / "result.json"
    other = json.loads(scan.read_text())
    other["sets"]["test"]["cases"].reverse()
    scan.write_text(json.dumps(other))
    with pytest.raises(ConfigError, match="other cases"):
        comparison_table(plan, folder, draws=200)


def test_folds_two_at_a_time(plan_file, tmp_path, agfnet_command, drawn):
    tree = yaml.safe_load(plan_file.read_text())
    tree |= {"folds": 2, "claims": tree["claims"][-1:], "rows": {row: tree["rows"][row] for row in ("full", "photo")}}
    tree["rows"]["full"]["seeds"] = [0]
    path, folder = tmp_path / "plan.yaml", tmp_path / "compared"
    path.write_text(yaml.safe_dump(tree))
    done = agfnet_command("compare", "-c", path, "-o", folder, "--row", "full", "--jobs", 2, "--draws", 200)
    assert done.exit_code == 0, done.stderr
    assert "not complete yet" in done.stdout
    held = [json.loads((run_folder(folder, Run("full", 0, k)) / "result.json").read_text()) for k in (1, 2)]
    parts = [set(told["sets"]["test"]["patients"]) for told in held]
    assert not parts[0] & parts[1]
    development = pl.read_csv(drawn / "parts.csv").filter(pl.col("split").is_in(["train", "validation"]))
    assert sum(len(told["sets"]["test"]["cases"]) for told in held) == development.height
    done = agfnet_command("compare", "-c", path, "-o", folder, "--jobs", 2, "--draws", 200)
    assert done.exit_code == 0, done.stderr
    table = json.loads((folder / "table.json").read_text())
    assert table["cases"] == development.height
    assert set(table["rows"]) == {"full", "photo"}
    assert table["claims"][0]["holds"] in (True, False)
    assert "2 folds by patient, pooled" in (folder / "table.md").read_text()
    fold = run_folder(folder, Run("full", 0, 1))
    asked = agfnet_command("evaluate", fold, drawn / "parts.csv", "-o", tmp_path / "asked")
    assert asked.exit_code == 1
    assert "was trained on images of these cases" in asked.stderr.replace("\n", " ")
    tested = agfnet_command("evaluate", fold, drawn / "parts.csv", "-o", tmp_path / "asked", "--include-test")
    assert tested.exit_code == 0, tested.stderr
    fitted = agfnet_command("calibrate", fold)
    assert "a run of --folds" in fitted.stderr.replace("\n", " ")
    refused = agfnet_command("compare", "-c", path, "-o", folder, "--row", "fool")
    assert refused.exit_code == 1
    assert "no row ['fool']" in refused.stderr


def test_cases_without_any_image_and_images_elsewhere(plan_file, drawn, tmp_path):
    tree = yaml.safe_load(plan_file.read_text())
    test = pl.read_csv(drawn / "parts.csv").filter(pl.col("split") == "test").drop("split")
    views = ("clinical", "ultrasound")
    first = pl.int_range(pl.len()) == 0
    places = [pl.when(first).then(None).otherwise(pl.format(f"{drawn}/{{}}", view)).alias(view) for view in views]
    test.with_columns(*places).write_csv(tmp_path / "test.csv")
    tree |= {"test": str(tmp_path / "test.csv"), "rows": {"full": {}, "other": {}}, "claims": []}
    plan = ComparisonPlan.model_validate(tree)
    cases = labelled_cases(plan)[plan.test]
    assert len(answerable(plan, cases)) == sum(bool(case.images) for case in cases) < len(cases)
    tree["base"]["data"]["data_root"] = str(tmp_path)
    plan = ComparisonPlan.model_validate(tree)
    with pytest.raises(TableError, match="outside"):
        labelled_cases(plan)
    # By relative paths that leave the table's folder, and with a column of images that is no view.
    away = pl.col(*views).str.replace(str(drawn), os.path.relpath(drawn, tmp_path), literal=True)
    placed = test.with_columns(*places).with_columns(away).with_columns(thumbnail=pl.col("clinical"))
    placed.write_csv(tmp_path / "test.csv")
    tree["base"]["data"]["data_root"] = os.path.commonpath([drawn, tmp_path])
    plan = ComparisonPlan.model_validate(tree)
    told = comparison_notes(plan, {"code": ["one"], "rows": {"full": {"seeds": 2}}}, complete=True)
    assert f"1 of {len(cases)} cases of {tmp_path / 'test.csv'} have no image" in "\n".join(told)


@pytest.mark.full
def test_a_run_that_fails_is_named_and_the_others_are_done(plan_file, tmp_path, agfnet_command):
    tree = yaml.safe_load(plan_file.read_text())
    tree["claims"] = []
    tree["rows"] = {
        "full": {"change": ["training.learning_rate=1e30", "training.clip=1e30", "training.warmup=0"]},
        "photo": tree["rows"]["photo"],
    }
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(tree))
    done = agfnet_command("compare", "-c", path, "-o", tmp_path / "compared")
    assert done.exit_code == 1
    assert "full, seed 0" in done.stderr
    assert (run_folder(tmp_path / "compared", Run("photo", 0, None)) / "result.json").exists()
    assert "the run failed" in (run_folder(tmp_path / "compared", Run("full", 0, None)) / "train.log").read_text()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"reference": "fool"}, "'fool' is not one of the rows"),
        ({"rows": {"full": {}, "x": {"views": ["sonar"]}}}, "sonar"),
        ({"rows": {"full": {}, "x": {"change": ["model.fushion=mmtm"]}}}, "did you mean 'fusion'"),
        ({"rows": {"full": {}, "x": {"chance": ["model.fusion=mmtm"]}}}, "chance"),
        ({"rows": {"full": {}, "x": {"mean_of": ["y"]}}}, "'y' is not one of the rows"),
        ({"claims": [{"says": "a", "row": "full", "than": "none"}]}, "'none' is not one of the rows"),
        ({"claims": [{"says": "a", "row": "full", "than": "scan", "figure": "f1"}]}, "'f1' is none of"),
        ({"claims": [{"says": "a", "row": "full", "than": "scan", "cases": "external"}]}, "table under `external`"),
        ({"claims": [{"says": "a", "row": "full", "than": "scan", "cases": "elsewhere"}]}, "'elsewhere' is not test"),
        ({"claims": [{"says": "a", "row": "full", "than": "scan", "point": -0.02, "bound": None}]}, "needs a `bound`"),
        (
            {
                "rows": {"full": {}, "x": {"seeds": [7]}},
                "claims": [{"says": "a", "row": "full", "than": "x", "paired": 1}],
            },
            "no seed in common",
        ),
        ({"folds": 5, "test": "cases.csv"}, "held-out cases are the test cases"),
        ({"folds": 1}, "greater than or equal to 2"),
        ({"seeds": [0, 1, 0]}, "one training, counted as two"),
        ({"rows": {"full": {}, "x": {"seeds": [1, 1]}}}, "one training, counted as two"),
        (
            {"rows": {"full": {}, "x": {"seeds": [1]}, "y": {"seeds": [2]}, "m": {"mean_of": ["x", "y"]}}},
            "'m' is a mean of rows that have no seed in common",
        ),
        ({"rows": {"full": {}, "a b": {}, "a-b": {}}}, "folders of their own"),
        ({"claims": [{"says": "a", "row": "mean", "than": "scan", "cases": "corrupted"}]}, "known on test cases alone"),
        (
            {"rows": {"full": {}, "x": {"change": ["prediction.prevalence=sqrt"]}}},
            "prediction.prevalence=sqrt; methods",
        ),
        ({"rows": {"full": {}, "x": {"change": ["data.skip_bad=true"]}}}, "has data.skip_bad"),
        (
            {"rows": {"full": {}, "x": {"change": ["training.early_stopping=3"]}}, "test": None},
            "would choose the epoch on the very cases that are tested",
        ),
        (
            {"rows": {"full": {}, "x": {}, "m": {"mean_of": ["x"], "views": ["clinical"]}}},
            "'m' is a mean of others; it",
        ),
        ({"rows": {"full": {}, "x": {}, "m": {"mean_of": ["x"], "seeds": [1]}}}, "'m' is a mean of others; it"),
        ({"rows": {"full": {}, "x": {"change": ["data.table=other.csv"]}}}, "'x' changes data.table, but all rows"),
        ({"rows": {"full": {}, "x": {"change": ["data.train=[calibration]"]}}}, "'x' changes data.train, but"),
        ({"claims": [{"says": "a", "row": "full", "than": "scan", "cases": "only sonar"}]}, "has no view 'sonar'"),
        ({"claims": [{"says": "a", "row": "full", "than": "photo", "cases": "only ultrasound"}]}, "row 'photo' has no"),
        ({"claims": [{"says": "a", "row": "full", "than": "full", "figure": "focus/clincal/attention"}]}, "not focus/"),
        ({"claims": [{"says": "a", "row": "full", "than": "full", "figure": "focus/clinical/atention"}]}, "not focus/"),
    ],
)
def test_plans_that_do_not_fit(plan_file, tmp_path, change, said):
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(plan_file.read_text()) | {"claims": []} | change))
    with pytest.raises(ConfigError, match=said):
        load_plan(path)


@pytest.mark.parametrize("kind", ["test", "external"])
def test_test_cases_are_no_training_cases(plan_file, tmp_path, drawn, kind):
    """Of a table with parts the test part is taken; one without parts that holds training cases is refused."""
    tree = yaml.safe_load(plan_file.read_text())
    pl.read_csv(drawn / "parts.csv").drop("split").write_csv(drawn / "no-parts.csv")
    plan = ComparisonPlan.model_validate(tree | {kind: str(drawn / "no-parts.csv")})
    with pytest.raises(ConfigError, match="one of those that the networks are trained"):
        compare(plan, tmp_path)
    plan = ComparisonPlan.model_validate(tree | {kind: str(drawn / "parts.csv")})
    assert not compare(plan, tmp_path, minutes=-1)


def test_copies_of_training_images_are_known_and_cases_that_a_row_lacks_are_told(plan_file, tmp_path, drawn):
    parts = pl.read_csv(drawn / "parts.csv")
    places = [(pl.lit(f"{drawn}/") + pl.col(view)).alias(view) for view in ("clinical", "ultrasound")]
    photo = parts.filter(pl.col("split") == "train", pl.col("clinical").is_not_null())["clinical"][0]
    shutil.copy(drawn / photo, tmp_path / "copy.jpg")
    test = parts.filter(pl.col("split") == "test").drop("split").with_columns(*places)
    first = pl.int_range(pl.len()) == 0
    for name, column in {
        "copied": pl.when(first).then(pl.lit(str(tmp_path / "copy.jpg"))).otherwise(pl.col("clinical")),
        "lacking": pl.when(~first).then(pl.col("clinical")),
    }.items():
        test.with_columns(column.alias("clinical")).write_csv(tmp_path / f"{name}.csv")
    tree = yaml.safe_load(plan_file.read_text())
    with pytest.raises(ConfigError, match="its image is one of those that the networks are trained"):
        compare(ComparisonPlan.model_validate(tree | {"test": str(tmp_path / "copied.csv")}), tmp_path / "out")
    plan = ComparisonPlan.model_validate(tree | {"test": str(tmp_path / "lacking.csv")})
    notes = comparison_notes(plan, {"code": ["a", "b"], "rows": {"full": {"seeds": 2}}}, complete=True)
    assert any("trained by 2 versions of the code" in note for note in notes)
    asked = pl.read_csv(tmp_path / "lacking.csv")
    lacking = asked.filter(pl.col("clinical").is_null() | pl.col("ultrasound").is_null())
    assert len(lacking)
    assert any(note.startswith(f"{len(lacking)} of {len(test)} cases of ") for note in notes)


def test_nor_are_they_of_the_same_patients(plan_file, tmp_path, drawn):
    """The same id at another site may be another patient's."""
    parts = pl.read_csv(drawn / "parts.csv")
    trained = parts.filter(pl.col("split") == "train")["patient_id"][0]
    other = parts.filter(pl.col("split") == "test").drop("split").with_columns(patient_id=pl.lit(trained))
    other.write_csv(drawn / "other.csv")
    tree = yaml.safe_load(plan_file.read_text())
    with pytest.raises(ConfigError, match="its patient is one of those"):
        compare(ComparisonPlan.model_validate(tree | {"test": str(drawn / "other.csv")}), tmp_path)
    assert not compare(
        ComparisonPlan.model_validate(tree | {"external": str(drawn / "other.csv")}), tmp_path, minutes=-1
    )


def test_a_row_of_one_view_sees_the_same_corrupted_images(plan_file):
    """A case whose other image alone is made worse stays as it is for that row, too."""
    plan = load_plan(plan_file)
    cases, change = _made("corrupted", _cases_of(plan, plan.data.table), plan)
    pixels = np.random.default_rng(0).integers(30, 220, (60, 80, 3), dtype=np.uint8)
    photo = [change(case, "clinical", pixels) is not pixels for case in cases]  # all that a row of photos asks for
    assert len(cases) == plan.sample
    assert 0 < sum(photo) < len(cases)


def test_a_temperature_is_not_fitted_on_what_was_learnt(drawn):
    cases = own_cases(parse_config(small_config(drawn / "parts.csv"), "test").data)
    calibration = [case.case_id for case in cases if case.split == "calibration"]
    held = [case for case in cases if case.split == "validation"]
    for trained, fitted in ((["train"], calibration), (["train", "calibration"], [case.case_id for case in held])):
        tree = small_config(drawn / "parts.csv")
        tree["data"]["train"] = trained
        assert [case.case_id for case in _fitted_on(parse_config(tree, "test"), held)] == fitted


def test_what_all_rows_share_may_not_change(plan_file, tmp_path, agfnet_command):
    folder = tmp_path / "compared"
    folder.mkdir()
    (folder / "comparison.json").write_text(json.dumps({"network": NETWORK}))
    done = agfnet_command("compare", "-c", plan_file, "-o", folder, "--minutes", 0)
    assert done.exit_code == 1
    assert "another base, table or other test cases" in done.stderr
    (folder / "comparison.json").write_text("{}")
    done = agfnet_command("compare", "-c", plan_file, "-o", folder, "--minutes", 0)
    assert done.exit_code == 1
    assert "with another network" in done.stderr.replace("\n", " ")


def test_a_row_that_would_learn_other_classes_is_told_before_the_first_training(plan_file, drawn, tmp_path):
    """No lipoma that is trained on has a scan: a network of scans would know two classes, and fail at the end."""
    table = pl.read_csv(drawn / "parts.csv")
    bare = (pl.col("label") == "lipoma") & (pl.col("split") == "train")
    views = [(pl.lit(f"{drawn}/") + pl.col(view)).alias(view) for view in ("clinical", "ultrasound")]
    made = table.with_columns(*views).with_columns(ultrasound=pl.when(~bare).then("ultrasound"))
    made.write_csv(tmp_path / "parts.csv")
    tree = yaml.safe_load(plan_file.read_text())
    tree["base"]["data"]["table"] = str(tmp_path / "parts.csv")
    with pytest.raises(ConfigError, match="row 'scan' has no training case of lipoma with an image of its views"):
        compare(ComparisonPlan.model_validate(tree), tmp_path / "compared", minutes=0)


def test_a_row_that_was_begun_may_not_change(plan_file, tmp_path, agfnet_command):
    folder, path = tmp_path / "compared", tmp_path / "plan.yaml"
    tree = yaml.safe_load(plan_file.read_text())
    agfnet_command("compare", "-c", plan_file, "-o", folder, "--minutes", 0)
    changed = tree | {"rows": tree["rows"] | {"photo": tree["rows"]["photo"] | {"change": ["model.dropout=0.1"]}}}
    path.write_text(yaml.safe_dump(changed))
    done = agfnet_command("compare", "-c", path, "-o", folder, "--minutes", 0)
    assert done.exit_code == 1
    assert "row 'photo' was begun with other settings" in done.stderr.replace("\n", " ")
    more = tree | {"rows": tree["rows"] | {"more": {"change": ["model.dropout=0.1"]}}}
    path.write_text(yaml.safe_dump(more))
    done = agfnet_command("compare", "-c", path, "-o", folder, "--minutes", 0)
    assert done.exit_code == 0  # rows but the reference's may be run first
    assert "there is a table once" in done.stdout
