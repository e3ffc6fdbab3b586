"""A calibration is fitted in the right order, on the right cases: seen in what it then says of fresh ones."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from agfnet.evaluation.calibrate import _by_others
from agfnet.evaluation.fit_decision import fit_decision
from agfnet.evaluation.fitting import among
from agfnet.metrics.calibration import ece, nll
from agfnet.prediction.calibration import reweighted, tempered
from agfnet.types import Case, Prediction, Reason, TableError

CLASSES = ("cyst", "lipoma", "naevus")
TOO_SURE = 0.4


def honest(cases, rng):
    """What can be known of so many cases, (cases, 3): their diagnoses are drawn from it."""
    odds = np.exp(rng.normal([-1.0, 1.0, 0.0], 2.5, (cases, 3)))
    return odds / odds.sum(1, keepdims=True)


PRIOR = honest(100_000, np.random.default_rng(9)).mean(0)


def asked_about(patients, rng, *, far=0.0):
    """A case for each of `patients` as an overconfident network answers it; its image lies `far` from the usual."""
    made = []
    for i, (patient, p) in enumerate(zip(patients, honest(len(patients), rng), strict=True)):
        own = tempered(p, TOO_SURE)
        case = Case(
            case_id=f"{patient}-{i}", patient_id=patient, row=i + 2, views={}, label=CLASSES[rng.choice(3, p=p)]
        )
        said = Prediction(
            case_id=case.case_id,
            probabilities=own,
            view_probabilities={"clinical": own, "ultrasound": tempered(own, 2.0)},
            view_weights={"fused": 1.0},
            views_present=("clinical", "ultrasound"),
            statistics={
                "clinical": (rng.standard_normal((1, 4)) + far).astype(np.float32),
                "ultrasound": rng.standard_normal((1, 4)).astype(np.float32),
            },
        )
        made.append((case, said))
    return made


def learnt(rng):
    return {view: rng.standard_normal((400, 4)).astype(np.float32) for view in ("clinical", "ultrasound")}


def with_photo_alone(asked):
    """The same cases where the network sees their photo alone, of which it makes far too much."""
    made = []
    for case, p in asked:
        own = tempered(p.probabilities, 0.4)
        less = {name: {"clinical": getattr(p, name)["clinical"]} for name in ("view_probabilities", "statistics")}
        made.append((case, replace(p, probabilities=own, views_present=("clinical",), **less)))
    return made


@pytest.fixture(scope="module")
def decision():
    rng = np.random.default_rng(0)
    pairs = asked_about([f"P{i // 2}" for i in range(600)], rng)
    # Many cases of one patient, all with a strange photo: one patient's, however many they are.
    busy = asked_about(["busy"] * 100, rng, far=20.0)
    fewer = {"clinical": with_photo_alone(pairs)}
    return fit_decision([*pairs, *busy], fewer, learnt(rng), CLASSES, PRIOR, {"notes": ["said before"]})


@pytest.fixture(scope="module")
def fresh():
    return asked_about([f"F{i}" for i in range(5000)], np.random.default_rng(1))


@pytest.fixture(scope="module")
def decided(decision, fresh):
    return [decision.decide(p.probabilities, p.view_probabilities, p.statistics) for _, p in fresh]


def test_sets_cover_and_are_no_larger_than_they_need_be(decided, fresh):
    inside = [CLASSES.index(case.label) in made.diagnosis_set for made, (case, _) in zip(decided, fresh, strict=True)]
    assert np.mean(inside) == pytest.approx(0.9, abs=0.035)


def test_the_answered_are_wrong_no_more_often_than_wanted_and_not_for_want_of_answers(decided, fresh):
    certainty = np.array([made.probabilities.max() for made in decided])
    wrong = np.array(
        [
            made.probabilities.argmax() != CLASSES.index(case.label)
            for made, (case, _) in zip(decided, fresh, strict=True)
        ]
    )
    answered = np.array([not made.referred for made in decided])
    assert wrong[answered].mean() <= 0.1
    # With these very cases at hand, the surest could be answered until a tenth of them is wrong.
    order = np.argsort(-certainty)
    possible = np.flatnonzero(np.cumsum(wrong[order]) <= 0.1 * np.arange(1, len(order) + 1)).max() / len(order)
    assert 0.5 * possible < answered.mean() < possible


def test_with_a_view_missing_sets_cover_and_answers_are_right_as_often(decision, fresh):
    """Held against cases that were asked with that view alone; against whole ones neither would hold."""
    alone = with_photo_alone(fresh)
    both = replace(decision, limits={"clinical": decision.limits["clinical;ultrasound"]})
    covered, wrong = [], []
    for one in (decision, both):
        decided = [one.decide(p.probabilities, p.view_probabilities, p.statistics) for _, p in alone]
        truth = [CLASSES.index(case.label) for case, _ in alone]
        covered.append(np.mean([y in made.diagnosis_set for y, made in zip(truth, decided, strict=True)]))
        errors = [y != made.probabilities.argmax() for y, made in zip(truth, decided, strict=True) if not made.referred]
        wrong.append(np.mean(errors) if errors else 0.0)
    assert covered[0] == pytest.approx(0.9, abs=0.035)
    assert covered[1] < 0.87
    assert wrong[0] <= 0.1 < wrong[1]


def test_probabilities_are_calibrated_for_the_views_that_are_there(decision, fresh):
    """Each set of views has the temperature that undoes its own overconfidence."""
    for asked, views, wanted in (
        (fresh, "clinical;ultrasound", TOO_SURE),
        (with_photo_alone(fresh), "clinical", 0.4 * TOO_SURE),
    ):
        assert decision.limits[views].temperature == pytest.approx((1 / wanted,), rel=0.15)
        p = np.stack([said.probabilities for _, said in asked])
        labels = np.array([CLASSES.index(case.label) for case, _ in asked])
        assert ece(labels, decision.calibrated(p, views.split(";"))) < 0.03 < ece(labels, p)


def test_another_mix_of_diagnoses_is_said():
    rng = np.random.default_rng(0)
    asked = asked_about([f"P{i}" for i in range(300)], rng)
    made = fit_decision(asked, {}, learnt(rng), CLASSES, np.array([0.05, 0.05, 0.9]), {})
    assert "(naevus: " in "\n".join(made.facts["notes"])
    assert "there). The temperatures allow for it" in "\n".join(made.facts["notes"])


def test_views_that_nothing_was_fitted_with_are_referred(decision, fresh):
    _, p = fresh[0]
    scan = {"ultrasound": p.view_probabilities["ultrasound"]}
    made = decision.decide(np.array([0.98, 0.01, 0.01]), scan, {"ultrasound": p.statistics["ultrasound"]})
    assert made.diagnosis_set == (0, 1, 2)
    assert Reason("unsure") in made.referred


def test_few_ordinary_cases_are_handed_back_as_strange(decided):
    strange = np.mean([Reason("strange", "clinical") in made.referred for made in decided])
    assert 0.0 < strange < 0.03


def test_the_usual_is_what_fresh_cases_are_compared_with(decision, decided):
    certainty = [made.probabilities.max() for made in decided]
    distances = [made.distances["ultrasound"] for made in decided]
    for edges, values in ((decision.usual.certainty, certainty), (decision.usual.distances["ultrasound"], distances)):
        shares = np.bincount(np.searchsorted(edges, values), minlength=10) / len(values)
        assert shares == pytest.approx(np.full(10, 0.1), abs=0.035)


def test_prevalence_and_notes(decision):
    assert decision.prevalence == pytest.approx(tuple(PRIOR))
    assert decision.facts["notes"] == ["said before"]


def test_of_few_cases_it_is_said_what_they_are_too_few_for():
    rng = np.random.default_rng(0)
    made = fit_decision(asked_about([f"P{i}" for i in range(20)], rng), {}, learnt(rng), CLASSES, PRIOR, {})
    told = "\n".join(made.facts["notes"])
    assert "cyst: " in told
    assert "class 0" not in told
    assert "Too few patients to tell what lies beyond all but 1.0% of ordinary cases (with clinical: 20, " in told
    assert "every such case is referred" in told
    assert "With " not in told


def test_of_a_rare_view_it_is_said_too():
    """The limit of its images rests on those who have it, one case of each."""
    rng = np.random.default_rng(0)
    pairs = asked_about([f"P{i}" for i in range(240)], rng)
    twice = asked_about([f"P{i}" for i in range(200, 240)], rng)
    asked = [*with_photo_alone(pairs[:200]), *pairs[200:], *with_photo_alone(twice)]
    made = fit_decision(asked, {}, learnt(rng), CLASSES, PRIOR, {})
    assert "(with ultrasound: 40, several views: 40)" in "\n".join(made.facts["notes"])


def test_what_holds_for_some_views_alone_names_them():
    rng = np.random.default_rng(0)
    asked = asked_about([f"P{i}" for i in range(200)], rng)
    made = fit_decision(asked, {"clinical": with_photo_alone(asked[:5])}, learnt(rng), CLASSES, PRIOR, {})
    assert "With clinical alone: 5 patients do not show an error of at most 10%" in "\n".join(made.facts["notes"])


def test_a_view_that_no_calibration_case_has_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(TableError, match="no case has a dermoscopic"):
        fit_decision(
            asked_about(["P0", "P1", "P2"], rng), {}, {"dermoscopic": np.zeros((9, 4), np.float32)}, CLASSES, PRIOR, {}
        )


def test_more_ordinary_cases_may_be_handed_back_where_that_is_wanted():
    made = []
    for share in (0.01, 0.2):
        rng = np.random.default_rng(0)
        asked = asked_about([f"P{i}" for i in range(300)], rng)
        made.append(fit_decision(asked, {}, learnt(rng), CLASSES, PRIOR, {}, false_refers=share).refer)
    strict, loose = made
    assert loose.disagreement < strict.disagreement
    assert all(loose.references[view].limit < strict.references[view].limit for view in strict.references)


def test_everything_after_the_temperature_is_fitted_for_the_patients_that_predictions_are_for():
    rng = np.random.default_rng(3)
    asked, images = asked_about([f"P{i}" for i in range(300)], rng), learnt(rng)
    mix = np.array([0.9, 0.05, 0.05])
    plain = fit_decision(asked, {}, images, CLASSES, PRIOR, {})
    other = fit_decision(asked, {}, images, CLASSES, PRIOR, {}, prevalence=mix)
    (temperature,) = {decision.limits["clinical;ultrasound"].temperature for decision in (plain, other)}
    assert other.prevalence == pytest.approx(tuple(mix))
    decided = [other.decide(p.probabilities, p.view_probabilities, p.statistics) for _, p in asked]
    said = np.stack([made.probabilities for made in decided])
    calibrated = tempered(np.stack([p.probabilities for _, p in asked]), temperature)
    assert said == pytest.approx(reweighted(calibrated, PRIOR, mix))
    predicted = np.bincount(said.argmax(1), minlength=3) + 0.5
    assert other.usual.predicted == pytest.approx(predicted / predicted.sum())
    inside = [CLASSES.index(case.label) in made.diagnosis_set for made, (case, _) in zip(decided, asked, strict=True)]
    assert 0.87 < np.mean(inside) < 0.96  # the likeliest is always in its set
    # Stated again it changes nothing: no answer is asked to be sure twice.
    again = [other.decide(p.probabilities, p.view_probabilities, p.statistics, mix).referred for _, p in asked]
    assert again == [made.referred for made in decided]


def test_few_cases_of_a_set_of_views_take_the_temperature_of_all():
    """Right by chance, or of one class alone, they would else be made certain, or anything."""
    rng = np.random.default_rng(0)
    asked = asked_about([f"P{i}" for i in range(200)], rng)
    rare = with_photo_alone([pair for pair in asked if pair[0].label == "naevus"])
    for fewer in (with_photo_alone(asked[:2]), rare):
        made = fit_decision(asked, {"clinical": fewer}, learnt(rng), CLASSES, PRIOR, {})
        assert made.limits["clinical"].temperature == made.limits["clinical;ultrasound"].temperature
        assert "With clinical alone: fewer than 20 patients" in "\n".join(made.facts["notes"])


def by_others(made, asked, fewer):
    network = SimpleNamespace(classes=CLASSES, bundle=SimpleNamespace(prior=PRIOR))
    return _by_others(made, asked, fewer, network, seed=0)


def test_one_patient_with_other_views_than_the_rest_is_no_obstacle():
    rng = np.random.default_rng(0)
    asked = [*with_photo_alone(asked_about([f"P{i}" for i in range(60)], rng)), *asked_about(["B"], rng)]
    made = fit_decision(asked, {}, learnt(rng), CLASSES, PRIOR, {})
    assert by_others(made, asked, {}).sum(1) == pytest.approx(1.0)


def test_what_is_shown_of_a_calibration_is_better_after_it_also_among_other_diagnoses():
    rng = np.random.default_rng(2)
    pairs = asked_about([f"P{i}" for i in range(900)], rng)
    asked = [
        pair for i, pair in enumerate(pairs) if pair[0].label != "lipoma" or i % 6 == 0
    ]  # half of the cases before
    made = fit_decision(asked, {}, learnt(rng), CLASSES, PRIOR, {})
    labels = np.array([CLASSES.index(case.label) for case, _ in asked])
    before = np.stack([p.probabilities for _, p in asked])
    figures = [nll(labels, among(labels, p, PRIOR)) for p in (before, by_others(made, asked, {}))]
    assert figures[1] < figures[0]
