"""Diagnosis sets: against MAPIE, and their promise by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from mapie.classification import SplitConformalClassifier
from sklearn.base import BaseEstimator, ClassifierMixin

from agfnet.evaluation.fitting import fit_conformal, one_case_each
from agfnet.prediction.conformal import Conformal

K = 4


class Told(ClassifierMixin, BaseEstimator):
    """A fitted classifier whose inputs are the probabilities."""

    classes_ = np.arange(K)

    def fit(self, X, y):  # noqa: ARG002 - as scikit-learn calls it
        return self

    def predict_proba(self, X):
        return X

    def predict(self, X):
        return X.argmax(1)

    def __sklearn_is_fitted__(self):
        return True


def draw(n, seed, skew=(0.4, 0.3, 0.2, 0.1)):
    """Labels and probabilities of a network that is often wrong and not calibrated."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(K, n, p=skew)
    logits = rng.normal(0, 1.2, (n, K))
    logits[np.arange(n), labels] += 1.5 - 0.4 * labels
    p = np.exp(2 * logits)
    return labels, p / p.sum(1, keepdims=True)


def patients(n):
    return [f"p{i}" for i in range(n)]


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_marginal_sets_are_mapies(coverage):
    labels, p = draw(300, 0)
    _, new = draw(500, 1)
    oracle = SplitConformalClassifier(Told(), confidence_level=coverage, conformity_score="lac", prefit=True)
    oracle.conformalize(p, labels)
    _, sets = oracle.predict_set(new)
    ours = fit_conformal(labels, p, patients(300), coverage=coverage).sets(new, class_conditional=False)
    expected = sets[:, :, 0] | (new == new.max(1, keepdims=True))  # ours are never empty
    assert np.array_equal(ours, expected)


def test_coverage_over_many_splits():
    """Mean coverage within a point of nominal; class by class within four with 50 cases a class and more."""
    covered, by_class = [], []
    for seed in range(200):
        labels, p = draw(800, [2, seed])
        new_labels, new = draw(2000, [3, seed])
        fitted = fit_conformal(labels, p, patients(800))
        assert min(fitted.counts) >= 50
        # The rule that the likeliest class is always in can only add: the bare threshold is what has the promise.
        covered.append((1 - new[np.arange(2000), new_labels] <= fitted.marginal).mean())
        inside = fitted.sets(new)[np.arange(2000), new_labels]
        by_class.append([inside[new_labels == k].mean() for k in range(K)])
    assert np.mean(covered) == pytest.approx(0.9, abs=0.01)
    assert (np.mean(by_class, axis=0) >= 0.9 - 0.01).all()
    assert np.abs(np.mean(by_class, axis=0) - 0.9).max() < 0.04


def test_marginal_sets_may_fail_a_class_that_conditional_sets_cover():
    labels, p = draw(4000, 5)
    new_labels, new = draw(20_000, 6)
    fitted = fit_conformal(labels, p, patients(4000))
    rare = new_labels == 3
    marginal, conditional = (
        fitted.sets(new, class_conditional=c)[np.arange(20_000), new_labels][rare].mean() for c in (False, True)
    )
    assert marginal < 0.85
    assert conditional > 0.87


def test_too_few_cases_of_a_class_give_no_thresholds_by_class():
    labels, p = draw(60, 7)
    labels[labels == 3] = 0
    labels[:5] = 3
    fitted = fit_conformal(labels, p, patients(60))
    assert fitted.counts[3] == 5
    assert fitted.per_class is None
    assert np.array_equal(fitted.sets(p), fitted.sets(p, class_conditional=False))


def test_nine_cases_are_enough_at_ninety_percent():
    labels = np.repeat(np.arange(K), 9)
    p = np.full((36, K), 0.1)
    p[np.arange(36), labels] = 0.7
    assert fit_conformal(labels, p, patients(36)).per_class is not None


def test_a_class_has_as_many_patients_as_have_it_whatever_else_they_have():
    """Nine patients with a rare lesion and four common ones each: one case a patient would leave two of them."""
    labels = np.tile([1, 0, 0, 0, 0], 9)
    p = np.full((45, 2), 0.4)
    p[np.arange(45), labels] = 0.6
    owners = [f"P{i // 5}" for i in range(45)]
    fitted = fit_conformal(labels, p, owners)
    assert fitted.counts == (9, 9)
    assert fitted.per_class == pytest.approx((0.4, 0.4))


def test_one_case_of_each_patient():
    owners = ["a", "b", "a", "c", "a", "b"]
    for seed in range(20):
        kept = one_case_each(owners, seed)
        assert sorted(owners[i] for i in kept) == ["a", "b", "c"]
    assert len({tuple(one_case_each(owners, s).tolist()) for s in range(20)}) > 1


def test_no_set_is_empty():
    sets = Conformal(0.01, None, (9, 9)).sets(np.array([[0.5, 0.5], [0.6, 0.4]]))
    assert sets.any(1).all()


@pytest.mark.parametrize("coverage", [0.0, 1.0, -1.0])
def test_a_coverage_that_cannot_be(coverage):
    with pytest.raises(ValueError, match="coverage"):
        fit_conformal(*draw(50, 0), patients(50), coverage=coverage)
