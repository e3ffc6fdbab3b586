from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from agfnet.data.table import read_cases
from agfnet.evaluation.answers import Answers
from agfnet.evaluation.evaluate import readable_cases
from agfnet.evaluation.robustness import Setting, changer, robustness_table, settings_of
from agfnet.prediction.predictor import Predictor
from agfnet.types import Case, ImageError

KINDS = {"clinical": "photo", "ultrasound": "ultrasound"}


def case(number):
    return Case(case_id=f"c{number}", patient_id=f"p{number}", row=2, views={})


def test_every_corruption_of_every_view_and_the_mixture():
    settings = settings_of(KINDS)
    assert settings[0] == Setting()
    assert len(settings) == 1 + 5 * (8 + 7) + 5
    assert len({s.name for s in settings}) == len(settings)
    assert len(settings_of({"clinical": "photo"})) == 1 + 5 * 8


def test_only_the_views_of_a_setting_change_and_draws_belong_to_the_case():
    change = changer(Setting(("clinical",), "occlusion", 3), KINDS, seed=0)
    pixels = np.full((60, 80, 3), 128, np.uint8)
    assert change(case(1), "ultrasound", pixels) is pixels
    first, again, other = (change(case(n), "clinical", pixels) for n in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_one_pass_draws_views_corruption_and_severity_for_each_case():
    change = changer(Setting(("clinical", "ultrasound"), severity=0), KINDS, seed=0)
    pixels = np.random.default_rng(0).integers(30, 220, (60, 80, 3), dtype=np.uint8)
    changed = np.array([[change(case(n), view, pixels) is not pixels for view in KINDS] for n in range(300)])
    assert changed.any(1).all()
    assert np.all(np.abs(changed.mean(0) - 2 / 3) < 0.1)
    assert abs((changed.sum(1) == 2).mean() - 1 / 3) < 0.1


def test_cases_without_the_view_do_not_dilute_what_is_lost():
    """Half of the cases have no scan, and scans that are made worse are always wrong."""
    ids = [f"c{i}" for i in range(80)]
    labels = np.arange(80) % 2
    right, wrong = np.eye(2)[labels], np.eye(2)[1 - labels]
    clean = Answers(ids, ids, labels, right)
    scans = Answers(ids, ids, labels, wrong).of(np.arange(80) < 40)
    made = robustness_table({Setting(): clean, Setting(("ultrasound",), "haze", 1): scans}, draws=50)
    assert (made["cases"], made["clean"]["cases"], made["groups"]["ultrasound"]["cases"]) == (80, 80, 40)
    assert made["groups"]["ultrasound"]["fall"]["value"] == 1.0


def test_the_table_averages_settings_and_falls_from_clean():
    patients = [f"p{i}" for i in range(40)]
    labels = np.arange(40) % 2

    def answers(right):
        sure = np.where(np.arange(40) < right, 0.9, 0.1)
        p = np.where(labels[:, None] == np.arange(2), sure[:, None], 1 - sure[:, None])
        return Answers(patients, patients, labels, p)

    made = robustness_table(
        {
            Setting(): answers(40),
            Setting(("clinical",), "hair", 1): answers(40),
            Setting(("clinical",), "hair", 2): answers(20),
        },
        draws=200,
    )
    group = made["groups"]["clinical"]
    assert made["clean"]["balanced_accuracy"]["value"] == 1.0
    assert group["balanced_accuracy"]["value"] == pytest.approx(0.75)
    assert group["fall"]["value"] == pytest.approx(0.25)
    assert group["fall"]["low"] < 0.25 < group["fall"]["high"]
    assert group["overconfidence"] == pytest.approx(0.9 - 0.75)
    assert [e["severity"] for e in made["settings"]] == [1, 2]


def test_the_command_writes_goes_on_and_refuses_other_answers(trained, tmp_path, agfnet_command):
    out = tmp_path / "robust"
    wanted = ["robustness", trained, "-o", out, "--part", "train", "--cases", 10, "--draws", 100, "--threads", 1]
    done = agfnet_command(*wanted)
    assert done.exit_code == 0, done.stderr
    made = json.loads((out / "robustness.json").read_text())
    assert set(made["groups"]) == {"clinical", "ultrasound", "clinical + ultrasound"}
    assert made["cases"] == 10
    assert "Research use only" in (out / "robustness.md").read_text()
    assert (out / "robustness-clinical+ultrasound.png").stat().st_size > 10_000
    kept = out / "settings" / "clean.json"
    stamp = kept.stat().st_mtime_ns
    (out / "settings" / "clinical-hair-3.json").unlink()
    assert agfnet_command(*wanted).exit_code == 0
    assert json.loads((out / "robustness.json").read_text()) == made
    assert kept.stat().st_mtime_ns == stamp

    for other in (("--seed", 1), ("--prevalence", "cyst=0.2,lipoma=0.4,naevus=0.4")):
        refused = agfnet_command(*wanted, *other)
        assert refused.exit_code == 1
        assert "choose another" in refused.stderr


def test_a_stated_prevalence_is_answered_for_and_said(trained, drawn, tmp_path, agfnet_command):
    out, shares = tmp_path / "robust", "cyst=0.02,lipoma=0.49,naevus=0.49"
    done = agfnet_command(
        "robustness", trained, "-o", out, "--part", "train", "--cases", 10, "--draws", 100, "--threads", 1,
        "--prevalence", shares,
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert f"Answers as if diagnoses were so frequent: {shares}." in (out / "robustness.md").read_text()
    asked = json.loads((out / "asked.json").read_text())
    predictor = Predictor(trained, threads=1, prevalence={"cyst": 0.02, "lipoma": 0.49, "naevus": 0.49})
    cases = [c for c in read_cases(drawn / "parts.csv") if c.case_id in asked["cases"]]
    clean = json.loads((out / "settings" / "clean.json").read_text())["probabilities"]
    assert np.allclose(clean, [o.prediction.probabilities for o in predictor.predict(cases)], atol=1e-6)


def test_the_clean_answers_are_the_predictors(drawn, trained):
    predictor = Predictor(trained, threads=1)
    cases = read_cases(drawn / "parts.csv")[:4]
    plain = [o.prediction.probabilities for o in predictor.predict(cases)]
    same = [o.prediction.probabilities for o in predictor.predict(cases, change=changer(Setting(), KINDS, 0))]
    dark = [
        o.prediction.probabilities for o in predictor.predict(cases, change=lambda _case, _view, x: np.zeros_like(x))
    ]
    assert np.array_equal(plain, same)
    assert not np.allclose(plain, dark)


def test_a_case_that_cannot_be_read_stops_long_work_before_it_or_is_left_out(drawn, trained, tmp_path):
    predictor, cases = Predictor(trained, threads=1), read_cases(drawn / "parts.csv")[:3]
    asked = [replace(cases[0], views={"clinical": (tmp_path / "gone.png",)}), *cases[1:]]
    notes: list[str] = []
    with pytest.raises(ImageError, match=r"gone\.png.*--skip-bad"):
        readable_cases(predictor, asked, notes, skip_bad=False)
    assert readable_cases(predictor, asked, notes, skip_bad=True) == cases[1:]
    assert notes == ["1 of 3 cases have images that cannot be read: no figure is of them."]
