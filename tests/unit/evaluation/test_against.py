"""Two networks on the same cases."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import binomtest

from agfnet.evaluation.against import against, against_markdown, check_same_classes, difference
from agfnet.evaluation.answers import Answers
from agfnet.metrics.classification import accuracy
from agfnet.metrics.scores import BIASED
from agfnet.types import Case, ConfigError, Prediction, Reason, TableError

CLASSES = ("cyst", "melanoma", "naevus")


def drawn_answers(sharpness: float, seed: int, n: int = 200) -> Answers:
    labels = np.random.default_rng(0).integers(0, 3, n)
    noise = np.random.default_rng(seed).gumbel(size=(n, 3)) + sharpness * np.eye(3)[labels]
    p = np.exp(noise) / np.exp(noise).sum(axis=1, keepdims=True)
    return Answers([f"c{i}" for i in range(n)], [f"p{i}" for i in range(n)], labels, p)


@pytest.fixture(scope="module")
def sides() -> tuple[Answers, Answers]:
    return drawn_answers(3.0, 1), drawn_answers(1.0, 2)


@pytest.fixture(scope="module")
def made(sides):
    return difference(*sides, CLASSES, malignant=["melanoma"], draws=500)


def test_values_and_differences_are_those_of_the_two(sides, made):
    first, second = (float(accuracy(own.labels, own.probabilities)) for own in sides)
    entry = made["metrics"]["accuracy"]
    assert (entry["first"], entry["second"]) == (first, second)
    assert entry["difference"]["value"] == pytest.approx(first - second)
    assert 0 < entry["difference"]["low"] < first - second < entry["difference"]["high"]
    assert entry["p"] < 0.05
    one, two = ((own.probabilities.argmax(axis=1)[own.labels == 1] == 1).mean() for own in sides)
    told = made["per_class"]["melanoma"]["sensitivity"]
    assert (told["first"], told["second"]) == (pytest.approx(one), pytest.approx(two))


def test_the_tests_of_independent_cases_are_these_answers_own(sides, made):
    right = [own.probabilities.argmax(axis=1) == own.labels for own in sides]
    alone = [int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())]
    assert [made["mcnemar"]["only_first"], made["mcnemar"]["only_second"]] == alone
    assert made["mcnemar"]["p"] == pytest.approx(binomtest(alone[0], sum(alone)).pvalue)
    malignant = made["metrics"]["malignant_auc"]
    assert (made["delong"]["first"], made["delong"]["second"]) == (
        pytest.approx(malignant["first"]),
        pytest.approx(malignant["second"]),
    )
    assert made["delong"]["low"] == pytest.approx(malignant["difference"]["low"], abs=0.02)


def test_a_network_against_itself_is_no_different(sides):
    made = difference(sides[0], sides[0], CLASSES, draws=100)
    for name, entry in made["metrics"].items():
        end = None if name in BIASED else 0.0
        assert entry["difference"] == {"value": 0.0, "low": end, "high": end}
        assert entry["p"] == (None if name in BIASED else 1.0)
    assert made["mcnemar"]["p"] == 1.0
    assert made["delong"] is None  # no malignant classes


def test_several_lesions_of_a_patient_allow_no_test_of_cases(sides):
    patients = [f"p{i // 2}" for i in range(len(sides[0]))]
    made = difference(*(replace(own, patients=patients) for own in sides), CLASSES, malignant=["cyst"], draws=100)
    assert made["mcnemar"] is None
    assert made["delong"] is None
    assert any("several lesions" in note for note in made["notes"])


def test_one_malignant_case_is_too_few_for_delong(sides):
    labels = np.array([1, *[0] * 199])
    made = difference(*(replace(own, labels=labels) for own in sides), CLASSES, malignant=["melanoma"], draws=100)
    assert made["delong"] is None
    assert made["per_class"]["naevus"]["sensitivity"]["first"] is None


OF_TABLE = {"table": "cases.csv", "part": "validation"}


def network(classes=CLASSES, *, sha: str = "a" * 64, calibrated: bool = False, prevalence=None, prior=(1 / 3,) * 3):
    bundle = SimpleNamespace(facts={"malignant": ["melanoma"]}, sha256=sha)
    decision = object() if calibrated else None
    mix = np.array(prior) if prevalence is None else prevalence
    return SimpleNamespace(classes=classes, bundle=bundle, decision=decision, prevalence=prevalence, prior=mix)


def told_by(answers: Answers, order=(0, 1, 2), referred=None) -> list[tuple[Case, Prediction]]:
    return [
        (
            Case(case_id=name, patient_id=patient, row=i + 2, views={}, label=CLASSES[label]),
            Prediction(
                case_id=name, probabilities=p[list(order)], view_probabilities={}, view_weights={},
                views_present=("clinical",), referred=referred,
            ),
        )
        for i, (name, patient, label, p) in enumerate(
            zip(answers.cases, answers.patients, answers.labels, answers.probabilities, strict=True)
        )
    ]  # fmt: skip


def test_classes_may_come_in_another_order(sides, made):
    turned = ("naevus", "cyst", "melanoma")
    got = against((network(), told_by(sides[0])), (network(turned), told_by(sides[1], (2, 0, 1))), draws=500)
    assert got["metrics"] == made["metrics"]
    assert got["per_class"] == made["per_class"]


def test_only_cases_that_both_answered_count(sides):
    first, second = told_by(sides[0]), told_by(sides[1])[50:]
    unlabelled = [(replace(case, label=None), answer) for case, answer in first[:60]]
    got = against((network(), [*unlabelled, *first[60:]]), (network(), second), draws=100, notes=["First: so."])
    assert got["n_cases"] == 140
    assert got["notes"][0] == "First: so."
    assert "60 more cases" in got["notes"][1]
    with pytest.raises(TableError, match="no labelled case"):
        against((network(), first[:50]), (network(), second))


def test_answers_for_other_frequencies_say_so(sides):
    plain, stated = network(), network(prevalence=np.array([0.5, 0.3, 0.2]))
    elsewhere = network(prior=(0.5, 0.3, 0.2))  # by the training cases of another table
    pairs = ((plain, stated, True), (stated, stated, False), (plain, plain, False), (plain, elsewhere, True))
    for first, second, differ in pairs:
        got = against((first, told_by(sides[0])), (second, told_by(sides[1])), draws=100)
        assert any("another frequency" in note for note in got["notes"]) == differ
        assert (got["prevalence"][0] is None) == (first is plain)
    # The same, of networks whose classes come in another order.
    turned = network(("naevus", "cyst", "melanoma"), prevalence=np.array([0.2, 0.5, 0.3]))
    got = against((stated, told_by(sides[0])), (turned, told_by(sides[1], (2, 0, 1))), draws=100)
    assert not any("another frequency" in note for note in got["notes"])
    got = against((plain, told_by(sides[0])), (stated, told_by(sides[1])), draws=100)
    assert "(first: as among its own training cases; second: " in got["notes"][0]


def test_referrals_are_told_where_both_are_calibrated(sides):
    one = network(calibrated=True), told_by(sides[0], referred=())
    other = network(calibrated=True, sha="b" * 64), told_by(sides[1], referred=(Reason("unsure"),))
    got = against(one, other, draws=100)
    assert got["referred"] == [0.0, 1.0]
    page = against_markdown(got | OF_TABLE)
    assert "bundle aaaaaaaaaaaa; second: bundle bbbbbbbbbbbb" in page
    assert "Referred: 0.0% by the first, 100.0% by the second." in page
    assert "| melanoma | " in page
    assert "Of cases.csv, part: validation." in page
    got = against(one, (network(), other[1]), draws=100)
    assert got["referred"] is None
    assert "Only the first network is calibrated." in got["notes"]
    assert "McNemar" in against_markdown(got | OF_TABLE)
    sure = {"only_first": 40, "only_second": 1, "p": 1e-7}
    assert "McNemar's test: p < 0.001." in against_markdown(got | OF_TABLE | {"mcnemar": sure})


def test_a_few_patients_of_a_class_make_no_network_surely_better():
    """Three of three against none of three: by draws alone p would be 0.001, by the exact test it is 0.25."""
    labels = np.repeat([0, 1, 2], [60, 60, 3])
    right, wrong = np.eye(3)[labels], np.eye(3)[np.where(labels == 2, 0, labels)]
    ids = [f"c{i}" for i in range(len(labels))]
    first, second = (Answers(ids, ids, labels, 0.9 * p + 0.1 / 3) for p in (right, wrong))
    got = difference(first, second, CLASSES, draws=200)
    rare = got["per_class"]["naevus"]["sensitivity"]
    assert rare["difference"] == {"value": 1.0, "low": None, "high": None}
    assert rare["p"] is None
    assert got["per_class"]["naevus"]["auc"]["p"] is None
    assert got["per_class"]["cyst"]["auc"]["p"] is not None
    assert got["metrics"]["accuracy"]["p"] is not None
    assert got["metrics"]["balanced_accuracy"]["difference"] == {
        "value": pytest.approx(1 / 3),
        "low": None,
        "high": None,
    }
    # That the common two are told apart otherwise says nothing of the rare one.
    swapped = Answers(ids, ids, labels, second.probabilities[:, [1, 0, 2]])
    got = difference(first, swapped, CLASSES, draws=200)
    assert got["per_class"]["naevus"]["specificity"]["p"] is None
    assert got["per_class"]["cyst"]["specificity"]["p"] is not None


def test_other_diagnoses_are_refused():
    check_same_classes(network(), network(("naevus", "melanoma", "cyst")))
    with pytest.raises(ConfigError, match="wart"):
        check_same_classes(network(), network(("cyst", "melanoma", "wart")))


def test_what_is_not_defined_is_said_so(sides):
    labels = np.zeros(200, np.int64)
    got = against(
        (network(), told_by(replace(sides[0], labels=labels))), (network(), told_by(replace(sides[1], labels=labels))),
        draws=100,
    )  # fmt: skip
    assert got["metrics"]["macro_auc"]["first"] is None
    assert "not defined" in against_markdown(got | OF_TABLE)
    assert not any(isinstance(v, float) and math.isnan(v) for v in got["metrics"]["macro_auc"].values())
