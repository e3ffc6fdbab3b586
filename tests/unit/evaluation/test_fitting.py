from __future__ import annotations

import numpy as np
import pytest

from agfnet.evaluation.fitting import (
    LIMITS,
    PER_CLASS_CASES,
    choose_temperature,
    cross_fitted,
    fit_temperature,
    usual_limit,
)
from agfnet.metrics.calibration import nll
from agfnet.prediction.calibration import tempered


@pytest.mark.parametrize("truth", [0.5, 1.0, 2.5])
def test_the_temperature_that_was_put_in_comes_out(truth):
    rng = np.random.default_rng(0)
    logits = rng.normal(0.0, 2.0, (20_000, 4))
    honest = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([rng.choice(4, p=p) for p in honest])
    given = tempered(honest, 1 / truth)  # too sure by the factor
    found = fit_temperature(labels, given)
    assert found == pytest.approx(truth, rel=0.04)
    assert nll(labels, tempered(given, found)) <= nll(labels, given)


def test_answers_stay_and_extremes_are_finite():
    p = np.array([[1.0, 0.0, 0.0], [0.2, 0.5, 0.3]])
    for temperature in (0.1, 1.0, 10.0):
        made = tempered(p, temperature)
        assert np.isfinite(made).all()
        assert made.sum(1) == pytest.approx(1.0)
        assert (made.argmax(1) == p.argmax(1)).all()
    assert tempered(p, 1.0) == pytest.approx(p)
    with pytest.raises(ValueError, match="positive"):
        tempered(p, 0.0)


def test_cases_that_are_all_right_do_not_ask_for_certainty():
    assert LIMITS[0] <= fit_temperature([0, 1], [[0.9, 0.1], [0.1, 0.9]]) < 0.2
    assert 5.0 < fit_temperature([0, 1], [[0.1, 0.9], [0.9, 0.1]]) <= LIMITS[1]


def _distorted(rng, temperatures, cases):
    """Labels, the probabilities that they were drawn from but with each class's logit multiplied, and patients."""
    logits = rng.normal(0.0, 2.0, (cases, len(temperatures)))
    honest = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([rng.choice(len(temperatures), p=p) for p in honest])
    given = tempered(honest, [1 / t for t in temperatures])
    return labels, given, [f"P{i // 2}" for i in range(cases)]


def test_a_temperature_for_each_class_only_where_it_helps():
    rng = np.random.default_rng(0)
    for temperatures, found in (((0.5, 1.0, 3.0), (0.5, 1.0, 3.0)), ((2.0, 2.0, 2.0), (2.0,))):
        labels, given, patients = _distorted(rng, temperatures, 3000)
        prior = np.bincount(labels) / len(labels)
        assert choose_temperature(labels, given, patients, prior) == pytest.approx(found, rel=0.15)


def test_another_mix_of_diagnoses_is_not_taken_for_a_lack_of_calibration():
    """A network that is right for the training cases' mix stays as it is, whatever the mix of the calibration cases."""
    rng = np.random.default_rng(0)
    prior = np.array([0.8, 0.15, 0.05])
    labels = np.repeat([0, 1, 2], 500)
    seen = (
        rng.normal(0.0, 1.0, (1500, 3)) + 1.5 * np.eye(3)[labels]
    )  # log-likelihoods of three Gaussians, but for a sum
    right = np.exp(1.5 * seen) * prior
    right /= right.sum(1, keepdims=True)
    patients = [f"P{i}" for i in range(1500)]
    assert choose_temperature(labels, right, patients, prior) == pytest.approx((1.0,), rel=0.1)
    assert choose_temperature(labels, tempered(right, 0.5), patients, prior) == pytest.approx((2.0,), rel=0.1)
    assert fit_temperature(labels, right) > 1.3  # what the shift would be taken for


def test_a_class_of_few_cases_has_no_temperature_of_its_own():
    labels, given, patients = _distorted(np.random.default_rng(0), (0.5, 1.0, 3.0), 3000)
    rare = np.flatnonzero(labels == 2)[PER_CLASS_CASES - 1 :]
    kept = np.setdiff1d(np.arange(len(labels)), rare)
    prior = np.bincount(labels[kept]) / len(kept)
    assert len(choose_temperature(labels[kept], given[kept], [patients[i] for i in kept], prior)) == 1


def test_no_case_is_calibrated_by_its_own_patient(monkeypatch):
    rng = np.random.default_rng(0)
    labels, given, patients = _distorted(rng, (1.0, 1.0), 40)
    given[:, 0] += np.arange(40) * 1e-9  # tells the cases apart
    given /= given.sum(1, keepdims=True)
    owner = {row.tobytes(): patient for row, patient in zip(given, patients, strict=True)}
    fitted = []

    def fit(_, p, __):
        fitted.append({owner[row.tobytes()] for row in p})
        return float(len(fitted) + 1)

    monkeypatch.setattr("agfnet.evaluation.fitting.fit_temperature", fit)
    made = cross_fitted(labels, given, patients, np.array([0.5, 0.5]), per_class=False)
    for row, case, patient in zip(made, given, patients, strict=True):
        used = [i for i in range(len(fitted)) if tempered(case, i + 2.0) == pytest.approx(row, abs=1e-12)]
        assert len(used) == 1
        assert patient not in fitted[used[0]]
    assert set.union(*fitted) == set(patients)


@pytest.mark.parametrize(("n", "exceeding"), [(50, 0), (99, 0), (101, 0), (150, 0), (199, 1), (201, 1), (999, 9)])
def test_a_limit_that_few_ordinary_cases_exceed(n, exceeding):
    """One more of n + 1 values alike exceeds the k-th smallest with a chance of (n + 1 - k) / (n + 1): 1 % at most."""
    values = np.random.default_rng(0).permutation(n).astype(float)
    assert (values > usual_limit(values, 0.01)).sum() == exceeding
