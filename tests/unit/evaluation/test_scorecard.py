"""The scorecard: strict JSON, the figures of the metrics, and notes that say what a reader must know."""

from __future__ import annotations

import json

import numpy as np
import pytest

from agfnet.evaluation.scorecard import scorecard
from agfnet.evaluation.summary import summary_markdown
from agfnet.metrics.calibration import ece
from agfnet.metrics.classification import accuracy
from agfnet.metrics.scores import BIASED
from agfnet.types import RESEARCH_USE

CLASSES = ["naevus", "melanoma", "BCC"]


def draw(n=90, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    z = rng.normal(size=(n, 3))
    z[np.arange(n), y] += 1.5
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    return y, p


@pytest.fixture(scope="module")
def card():
    y, p = draw()
    sex = (["f", "m", "m", None] * 23)[:90]
    sex[0] = "x"
    return scorecard(
        y,
        p,
        [f"p{i // 2}" for i in range(90)],
        CLASSES,
        malignant=["melanoma", "BCC"],
        draws=200,
        subgroups={"sex": sex},
    )


def test_card_is_strict_json_and_holds_what_it_promises(card):
    assert json.loads(json.dumps(card, allow_nan=False)) == card
    y, p = draw()
    assert (card["n_cases"], card["n_patients"], card["classes"]) == (90, 45, CLASSES)
    assert card["metrics"]["accuracy"]["value"] == pytest.approx(float(accuracy(y, p)))
    assert card["metrics"]["ece"]["value"] == pytest.approx(float(ece(y, p)))
    assert {"malignant_auc", "malignant_sensitivity_at_90_specificity"} <= set(card["metrics"])
    for name, entry in card["metrics"].items():
        assert (entry["low"], entry["high"]) == (None, None) if name in BIASED else entry["low"] < entry["high"]
    assert np.sum(card["confusion"]) == 90
    assert sum(card["calibration"]["histogram"]["counts"]) == 90
    assert len(card["calibration"]["bins"]) == 15
    assert card["risk_coverage"]["coverage"][-1] == 1
    assert card["risk_coverage"]["risk"][-1] == pytest.approx(1 - card["metrics"]["accuracy"]["value"])


def test_stored_roc_curve_has_the_area_of_the_auc(card):
    for part in card["per_class"].values():
        assert np.trapezoid(part["roc"]["tpr"], part["roc"]["fpr"]) == pytest.approx(part["auc"]["value"])


def test_curves_of_many_cases_are_thinned():
    y, p = draw(2000)
    card = scorecard(y, p, None, CLASSES, draws=5)
    assert len(card["risk_coverage"]["risk"]) == 200
    for part in card["per_class"].values():
        assert len(part["roc"]["fpr"]) <= 200
        assert np.trapezoid(part["roc"]["tpr"], part["roc"]["fpr"]) == pytest.approx(part["auc"]["value"], abs=0.01)


def test_subgroups(card):
    groups = card["subgroups"]["sex"]
    y, p = draw()
    women = np.arange(90) % 4 == 0
    women[0] = False
    assert groups["f"]["n_cases"] == women.sum()
    assert groups["f"]["metrics"]["accuracy"]["value"] == pytest.approx(float(accuracy(y[women], p[women])))
    assert set(groups) == {"f", "m"}
    assert card["small_subgroups"]["sex"] == {"n_values": 1, "n_cases": 1}
    notes = " ".join(card["notes"])
    assert "22 cases state no sex" in notes
    assert "Values of sex with under 10 cases have no figures, nor a name here: 1, of 1 cases." in notes


def test_same_seed_same_card(card):
    y, p = draw()
    patients = [f"p{i // 2}" for i in range(90)]
    again = scorecard(y, p, patients, CLASSES, malignant=["melanoma", "BCC"], draws=200)
    assert again["metrics"] == card["metrics"]
    other = scorecard(y, p, patients, CLASSES, malignant=["melanoma", "BCC"], draws=200, seed=1)
    assert other["metrics"] != card["metrics"]


def test_notes_on_what_is_missing_or_thin():
    y = np.array([0] * 12 + [1] * 3)
    p = np.tile([0.7, 0.2, 0.1], (15, 1))
    card = scorecard(y, p, None, CLASSES, draws=100)
    notes = "\n".join(card["notes"])
    assert "no patient ids: the case stands for the patient" in notes
    assert "Only 15 patients" in notes
    assert "Always answering naevus would score an accuracy of 0.800" in notes
    assert "No case of BCC" in notes
    assert "melanoma (3)" in notes
    assert "auc of BCC" in notes
    assert "not certainty" in notes
    assert "balanced_accuracy" in notes.split("cannot see beyond")[1]
    naevus = card["per_class"]["naevus"]["sensitivity"]  # a share, so exact: of 12 of 12
    assert (naevus["value"], naevus["high"]) == (1.0, 1.0)
    assert naevus["low"] == pytest.approx(0.025 ** (1 / 12))
    assert "sensitivity of naevus" not in notes
    assert card["per_class"]["BCC"]["sensitivity"] == {"value": None, "low": None, "high": None}
    assert card["per_class"]["BCC"]["roc"] == {"fpr": [], "tpr": []}
    json.dumps(card, allow_nan=False)


def test_notes_name_few_classes_and_count_many():
    y = np.arange(12) % 6
    names = [f"class {k}" for k in range(6)]
    notes = "\n".join(scorecard(y, np.eye(6)[y], None, names, draws=20)["notes"])
    assert "auc of 6 classes" in notes
    assert "auc of class 0" not in notes


def test_note_where_every_case_is_its_own_patient():
    y, p = draw(40)
    card = scorecard(y, p, list(range(40)), CLASSES, draws=20)
    assert "Every case has a patient id of its own" in card["notes"][0]
    assert "malignant_auc" not in card["metrics"]
    assert card["subgroups"] == {}


def test_note_on_figures_defined_in_few_draws():
    y, p = draw(40)
    y[y == 2] = 0
    y[0] = 2
    card = scorecard(y, p, list(range(40)), CLASSES, draws=100)
    assert any("only a part of the draws" in note and "auc of BCC" in note for note in card["notes"])


def test_summary_fits_a_screen_and_says_what_it_is(card):
    text = summary_markdown(card)
    assert RESEARCH_USE in text
    assert f"| Accuracy | {card['metrics']['accuracy']['value']:.3f} (" in text
    assert "a calibrated model: 0." in text
    assert "90 cases of 45 patients" in text
    assert "under 10 cases have no figures" in text
    assert all(note in text for note in card["notes"])
    assert len(text.splitlines()) < 50


def test_summary_says_what_is_not_defined_and_survives_odd_names():
    y, p = draw(12)
    y[:] = np.arange(12) % 2
    card = scorecard(y, p, ["one"] * 12, ["a|b", "c", "d"], draws=20)
    text = summary_markdown(card)
    assert "a\\|b" in text
    assert "not defined" in text
    assert "(no interval)" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ["a", "b"]}, "3 different names"),
        ({"classes": ["a", "a", "b"]}, "3 different names"),
        ({"malignant": ["lentigo"]}, "lentigo"),
        ({"patients": ["p1"]}, "one id for each of the 12 cases"),
        ({"patients": [None] * 12}, "no patient id"),
        ({"subgroups": {"sex": ["f"]}}, "'sex' must have one value"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    y, p = draw(12)
    arguments = {"patients": list(range(12)), "classes": CLASSES, "draws": 10} | changes
    with pytest.raises(ValueError, match=message):
        scorecard(y, p, **arguments)
