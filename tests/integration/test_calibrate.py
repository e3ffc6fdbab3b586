"""`agfnet calibrate` on a small run: what it writes, what the predictor then says, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from agfnet.data.table import read_cases
from agfnet.evaluation.answers import whole
from agfnet.evaluation.calibrate import described
from agfnet.evaluation.evaluate import evaluate
from agfnet.prediction.calibration import reweighted
from agfnet.prediction.decision import named
from agfnet.prediction.explanation import explain, log_odds
from agfnet.prediction.predictor import Predictor
from agfnet.types import ConfigError, Reason


@pytest.fixture(scope="module")
def copied(trained, tmp_path_factory):
    run = tmp_path_factory.mktemp("calibrated") / "run"
    shutil.copytree(trained, run)
    return run


def test_what_is_no_run_folder_is_told(copied, tmp_path, agfnet_command):
    shutil.copytree(copied, tmp_path / "folds" / "fold-1")
    for command in ("calibrate", "report"):
        out = ["-o", tmp_path / "out"] if command == "report" else []
        done = agfnet_command(command, tmp_path / "folds", *out)
        assert done.exit_code == 1
        assert "holds a network for each fold" in done.stderr.replace("\n", " ")
    done = agfnet_command("calibrate", copied / "model.agf")
    assert "Name the run folder" in done.stderr.replace("\n", " ")


def test_the_command(copied, trained, drawn, agfnet_command, tmp_path):
    done = agfnet_command("calibrate", copied, drawn / "parts.csv", "--part", "validation", "--threads", 1)
    assert done.exit_code == 0, done.stderr
    assert "optimistic" in done.stdout
    # A handful cannot show a risk of 10 %.
    assert "every such case is referred. Calibrate on more patients" in done.stdout
    assert "Too few patients to tell what lies beyond all but 1.0% of ordinary cases (with clinical: " in done.stdout
    made = json.loads((copied / "calibration" / "calibration.json").read_text())
    assert made["facts"]["part"] == "validation"
    parts = pl.read_csv(drawn / "parts.csv").filter(pl.col("split") == "validation")
    having = {view: parts[view].is_not_null() for view in ("clinical", "ultrasound")}
    both = having["clinical"] & having["ultrasound"]
    counted = {"clinical;ultrasound": both.sum(), **{view: own.sum() for view, own in having.items()}}
    assert {views: own["cases"] for views, own in made["views"].items()} == counted
    assert "| ultrasound | " in done.stdout
    for picture in ("before", "after"):
        assert (copied / "calibration" / f"reliability-{picture}.png").exists()

    bare, full = Predictor(trained, threads=1), Predictor(copied, threads=1)
    assert bare.decision is None
    cases = read_cases(drawn / "parts.csv")[:5]
    for before, after in zip(bare.predict(cases), full.predict(cases), strict=True):
        p, q = before.prediction, after.prediction
        assert p.diagnosis_set is None
        assert p.referred is None
        assert np.allclose(full.decision.calibrated(p.probabilities, p.views_present), q.probabilities)
        assert int(q.probabilities.argmax()) in q.diagnosis_set
        assert isinstance(q.referred, tuple)

    shown = agfnet_command("predict", copied, drawn / "parts.csv", "-o", tmp_path / "p.csv")
    assert shown.exit_code == 0, shown.stderr
    told = pl.read_csv(tmp_path / "p.csv")
    assert set(told["referred"].unique()) <= {"yes", "no"}
    assert told["diagnosis_set"].is_not_null().all()


def test_what_is_asked_for_is_what_is_fitted(trained, drawn, agfnet_command, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    asked = {"--coverage": 0.8, "--risk": 0.4, "--false-refers": 0.15}
    options = [text for option in asked.items() for text in option]
    done = agfnet_command("calibrate", run, drawn / "parts.csv", "--part", "validation", *options, "--threads", 1)
    assert done.exit_code == 0, done.stderr
    decision = Predictor(run, threads=1).decision
    told = decision.coverage, decision.risk, decision.facts["false_refers"]
    assert told == tuple(asked.values())


def test_training_images_are_looked_at_once_each(trained, drawn, monkeypatch):
    """What they look like needs no flipped look, nor a second image; the figures are those of the first whole look."""
    case, other = [c for c in read_cases(drawn / "parts.csv") if all(c.views.values())][:2]
    several = replace(case, views={view: (*own, *other.views[view]) for view, own in case.views.items()})
    predictor = Predictor(trained, threads=1)
    assert len(predictor.looks(predictor.frames(several))) > 1
    asked, ask = [], Predictor.ask
    monkeypatch.setattr(Predictor, "ask", lambda self, looks, **how: asked.extend(looks) or ask(self, looks, **how))
    ((_, full),) = whole(predictor.predict([several]))
    asked.clear()
    ((_, first),) = described(predictor, [several], skip_bad=False)
    assert len(asked) == 1
    for view, own in first.statistics.items():
        assert np.allclose(own, full.statistics[view][:1], atol=1e-5)
        assert not np.allclose(own, full.statistics[view][1:], atol=1e-2)


def test_another_prevalence_is_stated(calibrated, drawn):
    case = read_cases(drawn / "parts.csv")[:1]
    plain = Predictor(calibrated, threads=1)
    stated = {"cyst": 0.8, "lipoma": 0.1, "naevus": 0.1}
    other = Predictor(calibrated, threads=1, prevalence=stated)
    p, q = (next(x.predict(case)).prediction for x in (plain, other))
    expected = reweighted(p.probabilities, np.array(plain.decision.prevalence), np.array(list(stated.values())))
    assert np.allclose(q.probabilities, expected)
    assert q.diagnosis_set == p.diagnosis_set
    # Before any view is seen, the stated shares hold: they are no view's doing.
    told = explain(other, case[0])
    assert told.baseline == pytest.approx(log_odds(stated[other.classes[int(q.probabilities.argmax())]]))
    rounded = Predictor(calibrated, threads=1, prevalence=dict.fromkeys(stated, 0.33))
    assert rounded.prior.tolist() == pytest.approx([1 / 3] * 3)
    for wrong in ({"cyst": 1.0}, {"cyst": 0.5, "lipoma": 0.5, "naevus": 0.5}):
        with pytest.raises(ConfigError, match="prevalence needs a share"):
            Predictor(calibrated, prevalence=wrong)


def test_figures_under_another_prevalence(calibrated, drawn, tmp_path, agfnet_command):
    """As a table says that is asked with it; what it costs shows in the figures, and is said."""
    table, stated = drawn / "parts.csv", "cyst=0.01,lipoma=0.01,naevus=0.98"
    done = agfnet_command(
        "evaluate", calibrated, table, "--part", "validation", "-o", tmp_path, "--prevalence", stated, "--draws", 100
    )
    assert done.exit_code == 0, done.output
    card = json.loads((tmp_path / "scorecard.json").read_text())
    assert card["prevalence"] == stated
    assert any(stated in note for note in card["notes"])
    shown = pl.read_csv(tmp_path / "predictions.csv")
    said = evaluate(calibrated, table, tmp_path / "own", part="validation", draws=100)
    own = pl.read_csv(tmp_path / "own" / "predictions.csv")
    assert said["prevalence"] is None
    assert (shown["p_naevus"] > own["p_naevus"]).all()


@pytest.mark.parametrize("cysts", [1.0, 0.3])
def test_what_another_prevalence_makes_sure_is_still_referred(answering, drawn, cysts):
    """Neither the rule nor the set was fitted to it."""
    cases = read_cases(drawn / "parts.csv")
    plain = Predictor(answering, threads=1)
    rest = (1.0 - cysts) / 2.0
    extreme = Predictor(answering, threads=1, prevalence={"cyst": cysts, "lipoma": rest, "naevus": rest})
    unsure = set()
    for one, other in zip(plain.predict(cases), extreme.predict(cases), strict=True):
        p, q = one.prediction, other.prediction
        inside = int(q.probabilities.argmax()) in q.diagnosis_set
        assert (Reason("unsure") in q.referred) == (
            not inside
            or min(p.probabilities.max(), q.probabilities.max())
            < plain.decision.limits[named(p.views_present)].certainty
        )
        unsure.add(tuple(Reason("unsure") in own.referred for own in (p, q)))
    assert unsure == {(True, True), (False, cysts < 1.0)}  # the network calls all of them cysts


def test_a_prevalence_is_stated_without_a_calibration(trained, drawn):
    case, stated = read_cases(drawn / "parts.csv")[:1], {"cyst": 0.8, "lipoma": 0.1, "naevus": 0.1}
    plain, other = Predictor(trained, threads=1), Predictor(trained, threads=1, prevalence=stated)
    p, q = (next(x.predict(case)).prediction for x in (plain, other))
    assert np.allclose(q.probabilities, reweighted(p.probabilities, plain.prior, np.array(list(stated.values()))))
    assert q.referred is None


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("train", "patient was trained on"),
        ("nowhere", "no labelled case has split nowhere; there is calibration, test, train, validation"),
        ("test", "test cases are looked at once"),
    ],
)
def test_what_is_refused(copied, drawn, agfnet_command, part, said):
    done = agfnet_command("calibrate", copied, drawn / "parts.csv", "--part", part)
    assert done.exit_code == 1
    assert said in done.stderr.replace("\n", " ")


def test_the_folder_of_the_runs_own_table_stands_in_its_configuration(copied, drawn, agfnet_command):
    done = agfnet_command("calibrate", copied, "--data-root", drawn)
    assert done.exit_code == 1
    assert "data.data_root of its configuration" in done.stderr.replace("\n", " ")


def test_cases_without_a_label_are_told(trained, drawn, tmp_path, agfnet_command):
    """In what is fitted and in what is scored: their number is in the notes."""
    run, table = tmp_path / "run", tmp_path / "bare.csv"
    shutil.copytree(trained, run)
    parts = pl.read_csv(drawn / "parts.csv", infer_schema=False)
    part = parts.filter(pl.col("split") == "validation")
    twice = pl.concat([part, part[:2].with_columns(case_id=pl.lit("bare-") + pl.col("case_id"), label=None)])
    absolute = [pl.format(f"{drawn}/{{}}", view).alias(view) for view in ("clinical", "ultrasound")]
    twice.with_columns(absolute).write_csv(table)
    told = f"2 of {part.height + 2} {{}}cases have no label: "
    done = agfnet_command("calibrate", run, table, "--part", "validation", "--threads", 1)
    assert done.exit_code == 0, done.stderr
    assert told.format("calibration ") + "nothing is fitted on them" in (run / "calibration/calibration.md").read_text()
    done = agfnet_command("evaluate", trained, table, "-o", tmp_path / "out", "--draws", 100, "--threads", 1)
    assert done.exit_code == 0, done.stderr
    assert told.format("") + "no figure is of them" in (tmp_path / "out/summary.md").read_text()
    assert pl.read_csv(tmp_path / "out/predictions.csv")["label"].to_list() == [*part["label"], None, None]


def test_a_run_from_another_folder_says_where_its_table_is(copied, drawn, tmp_path, monkeypatch, agfnet_command):
    run = tmp_path / "run"
    shutil.copytree(copied, run)
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(re.sub("table: .*", "table: parts.csv", config))
    monkeypatch.chdir(tmp_path)
    for command in (["calibrate", run], ["calibrate", run, drawn / "parts.csv"], ["report", run, "-o", "report"]):
        done = agfnet_command(*command)
        assert done.exit_code == 1
        told = done.stderr.replace("\n", " ")
        assert "names the table parts.csv, which is not there as seen from" in told
        assert ("name a TABLE" in told) == (command[0] == "report")


def test_a_folder_without_a_run(tmp_path, agfnet_command):
    done = agfnet_command("calibrate", tmp_path)
    assert done.exit_code == 1
    assert "Finish the run with `agfnet train --resume`" in done.stderr


def test_a_table_of_its_own_needs_no_parts(copied, drawn, tmp_path, agfnet_command):
    table = pl.read_csv(drawn / "parts.csv").filter(pl.col("split") == "calibration").drop("split")
    places = [(pl.lit(f"{drawn}/") + pl.col(view)).alias(view) for view in ("clinical", "ultrasound")]
    table.with_columns(places).write_csv(tmp_path / "more.csv")
    assert agfnet_command("calibrate", copied, tmp_path / "more.csv").exit_code == 0


def test_a_class_without_calibration_cases_is_not_calibrated(copied, drawn, tmp_path, agfnet_command):
    """The network would answer another diagnosis in its place, surely and unreferred."""
    table = pl.read_csv(drawn / "parts.csv").filter((pl.col("split") == "calibration") & (pl.col("label") != "naevus"))
    places = [(pl.lit(f"{drawn}/") + pl.col(view)).alias(view) for view in ("clinical", "ultrasound")]
    table.with_columns(*places).write_csv(tmp_path / "two.csv")
    done = agfnet_command("calibrate", copied, tmp_path / "two.csv")
    assert done.exit_code == 1
    assert "no calibration case is naevus" in done.stderr.replace("\n", " ")


def test_one_patient_is_too_few(copied, drawn, tmp_path, agfnet_command):
    table = pl.read_csv(drawn / "parts.csv").filter(pl.col("split") == "calibration")
    places = [(pl.lit(f"{drawn}/") + pl.col(view)).alias(view) for view in ("clinical", "ultrasound")]
    table.with_columns(pl.lit("P1").alias("patient_id"), *places).write_csv(tmp_path / "one.csv")
    done = agfnet_command("calibrate", copied, tmp_path / "one.csv")
    assert done.exit_code == 1
    assert "one patient's" in done.stderr.replace("\n", " ")


def test_the_images_of_another_patient_id_are_still_known(copied, drawn, tmp_path, agfnet_command):
    """The same images under new ids are found by their files."""
    table = pl.read_csv(drawn / "parts.csv").filter(pl.col("split") == "train")
    renamed = table.with_columns(
        pl.col("case_id") + "x",
        pl.col("patient_id") + "x",
        pl.lit("calibration").alias("split"),
        *[(pl.lit(f"{drawn}/") + pl.col(view)).alias(view) for view in ("clinical", "ultrasound")],
    )
    renamed.write_csv(tmp_path / "renamed.csv")
    done = agfnet_command("calibrate", copied, tmp_path / "renamed.csv")
    assert done.exit_code == 1
    assert "image was trained on" in done.stderr.replace("\n", " ")


def test_the_test_cases_are_not_calibrated_on_without_their_part(copied, drawn, tmp_path, agfnet_command):
    table = pl.read_csv(drawn / "parts.csv").filter(pl.col("split").is_in(["calibration", "test"])).drop("split")
    places = [(pl.lit(f"{drawn}/") + pl.col(view)).alias(view) for view in ("clinical", "ultrasound")]
    table = table.with_columns(*places)
    for name, renamed in {"own": table, "new": table.with_columns(pl.col("case_id", "patient_id") + "x")}.items():
        renamed.write_csv(tmp_path / f"{name}.csv")
        done = agfnet_command("calibrate", copied, tmp_path / f"{name}.csv")
        assert done.exit_code == 1
        assert "is of the run's test cases" in done.stderr.replace("\n", " ")


def test_trained_images_are_known_again_by_what_is_in_them(trained, drawn, tmp_path, agfnet_command):
    """Under new ids and file names, and without one of their views; and new images of the same patients are named."""
    rows = pl.read_csv(drawn / "parts.csv").filter(pl.col("split") == "train", pl.col("clinical").is_not_null())
    for i, name in enumerate(rows["clinical"]):
        shutil.copy(drawn / name, tmp_path / f"{i}.jpg")
    renamed = pl.DataFrame(
        {
            "case_id": [f"new-{i}" for i in range(len(rows))],
            "patient_id": [f"other-{i}" for i in range(len(rows))],
            "label": rows["label"],
            "clinical": [f"{i}.jpg" for i in range(len(rows))],
        }
    )
    renamed.write_csv(tmp_path / "renamed.csv")
    done = agfnet_command("evaluate", trained / "model.agf", tmp_path / "renamed.csv", "-o", tmp_path / "out")
    assert done.exit_code == 1
    assert "was trained on images of these cases" in done.stderr.replace("\n", " ")

    held = pl.read_csv(drawn / "parts.csv").filter(pl.col("split") == "validation").drop("split")
    places = [(pl.lit(f"{drawn}/") + pl.col(view)).alias(view) for view in ("clinical", "ultrasound")]
    first = pl.when(pl.int_range(pl.len()) == 0).then(pl.lit(rows["patient_id"][0])).otherwise(pl.col("patient_id"))
    held.with_columns(*places, patient_id=first).write_csv(tmp_path / "held.csv")
    done = agfnet_command("evaluate", trained, tmp_path / "held.csv", "-o", tmp_path / "out", "--draws", 100)
    assert done.exit_code == 0, done.stderr
    notes = json.loads((tmp_path / "out" / "scorecard.json").read_text())["notes"]
    assert notes[0].startswith(f"1 of these {len(held)} cases are new images of patient ids that were trained on")


def test_parts_that_were_made_anew_since_the_training(trained, drawn, tmp_path, agfnet_command):
    """Which cases were trained on is no longer known from the table, so nothing may be fitted on it."""
    run, table = tmp_path / "run", tmp_path / "parts.csv"
    shutil.copytree(trained, run)
    frame = pl.read_csv(drawn / "parts.csv").with_columns(
        *[(pl.lit(f"{drawn}/") + pl.col(view)).alias(view) for view in ("clinical", "ultrasound")]
    )
    config = (run / "config.yaml").read_text().replace(str(drawn / "parts.csv"), str(table))
    (run / "config.yaml").write_text(config)
    moved = frame.with_columns(pl.col("split").replace({"train": "calibration", "calibration": "train"}))
    moved.write_csv(table)
    done = agfnet_command("calibrate", run)
    assert done.exit_code == 1
    assert "the parts were made anew since" in done.stderr.replace("\n", " ")
    for source in (run, run / "model.agf"):
        asked = agfnet_command("evaluate", source, table, "--part", "calibration", "-o", tmp_path / "asked")
        assert asked.exit_code == 1
        assert "was trained on images of these cases" in asked.stderr.replace("\n", " ")
    asked = agfnet_command("evaluate", trained, drawn / "parts.csv", "--part", "train", "-o", tmp_path / "asked")
    assert asked.exit_code == 0, asked.stderr  # asked for by name
    more = frame.filter(pl.col("split") == "calibration").with_columns(pl.col("case_id", "patient_id") + "x")
    pl.concat([frame, more]).write_csv(table)  # further calibration cases do no harm
    assert agfnet_command("calibrate", run, "--threads", 1).exit_code == 0
