"""Every score against an independent implementation, and the laws that all of them keep."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from agfnet.metrics.calibration import (
    brier,
    classwise_ece,
    ece,
    nll,
    reliability_bins,
    simulate_calibrated,
)
from agfnet.metrics.classification import (
    accuracy,
    balanced_accuracy,
    confusion_matrix,
    scores_from_confusion,
)
from agfnet.metrics.ranking import (
    binary_auc,
    macro_auc,
    malignancy,
    net_benefit,
    one_vs_rest_auc,
    precision_recall_curve,
    roc_curve,
    sensitivity_at_specificity,
)
from agfnet.metrics.scores import HEADLINE, MALIGNANT, PER_CLASS, all_scores, shares_of
from agfnet.metrics.selective import augrc, aurc, risk_coverage_curve
from agfnet.metrics.statistics import bootstrap


def draw_cases(n: int, k: int, seed: int, *, decimals: int | None = None):
    """Cases with every class; `decimals` rounds the probabilities, which ties them."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(k), rng.integers(0, k, n - k)])
    logits = rng.normal(size=(n, k))
    logits[np.arange(n), labels] += 1.0
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    if decimals is not None:
        # Rounded down, and what is missing to the last class: rounded to nearest, the sum could pass 1.
        p = np.floor(p * 10**decimals) / 10**decimals
        p[:, -1] += 1 - p.sum(axis=1)
    return labels, p


CASES = [
    pytest.param(draw_cases(203, 5, 0), id="five classes"),
    pytest.param(draw_cases(60, 2, 1), id="two classes"),
    pytest.param(draw_cases(150, 4, 2, decimals=1), id="many ties"),
]


@pytest.mark.parametrize("cases", CASES)
class TestAgainstOtherImplementations:
    def test_confusion_and_rates(self, cases):
        y, p = cases
        top, k = p.argmax(axis=1), p.shape[1]
        assert np.array_equal(confusion_matrix(y, p), sk.confusion_matrix(y, top, labels=range(k)))
        assert accuracy(y, p) == pytest.approx(sk.accuracy_score(y, top))
        assert balanced_accuracy(y, p) == pytest.approx(sk.balanced_accuracy_score(y, top))
        rates = scores_from_confusion(confusion_matrix(y, p))
        assert all_scores(y, p)["macro_f1"] == pytest.approx(sk.f1_score(y, top, average="macro"))
        expected = {"sensitivity": [], "specificity": [], "ppv": [], "npv": [], "f1": []}
        for c in range(k):
            expected["sensitivity"].append(sk.recall_score(y == c, top == c))
            expected["specificity"].append(sk.recall_score(y != c, top != c))
            expected["ppv"].append(sk.precision_score(y == c, top == c))
            expected["npv"].append(sk.precision_score(y != c, top != c))
            expected["f1"].append(sk.f1_score(y == c, top == c))
        for name, values in expected.items():
            np.testing.assert_allclose(rates[name], values, err_msg=name)

    def test_auc_and_roc(self, cases):
        y, p = cases
        expected = [sk.roc_auc_score(y == c, p[:, c]) for c in range(p.shape[1])]
        np.testing.assert_allclose(one_vs_rest_auc(y, p), expected)
        assert macro_auc(y, p) == pytest.approx(np.mean(expected))
        for ours, theirs in zip(
            roc_curve(y == 0, p[:, 0]), sk.roc_curve(y == 0, p[:, 0], drop_intermediate=False), strict=True
        ):
            np.testing.assert_allclose(ours, theirs)

    def test_precision_and_recall(self, cases):
        y, p = cases
        for c in range(p.shape[1]):
            precision, recall = precision_recall_curve(y == c, p[:, c])
            theirs = sk.precision_recall_curve(y == c, p[:, c])
            # Theirs rises in threshold and ends with a point of no threshold.
            np.testing.assert_allclose(precision, theirs[0][-2::-1])
            np.testing.assert_allclose(recall, theirs[1][-2::-1])

    def test_net_benefit(self, cases):
        y, p = cases
        thresholds = [0.0, 0.1, 0.5, 0.9]
        expected = []
        for t in thresholds:
            acted = p[:, 0] >= t
            false, true = (acted & (y != 0)).sum(), (acted & (y == 0)).sum()
            expected.append((true - false * t / (1 - t)) / y.size)
        assert net_benefit(y == 0, p[:, 0], thresholds) == pytest.approx(np.array(expected))
        assert net_benefit(y == 0, p[:, 0], [0.0])[0] == pytest.approx((y == 0).mean())  # acting on everyone

    @pytest.mark.parametrize("specificity", [0.5, 0.9, 1.0])
    def test_sensitivity_at_specificity(self, cases, specificity):
        y, p = cases
        positive, score = malignancy(y, p, [0])
        best = 0.0
        for threshold in [*score, np.inf]:
            called = score >= threshold
            if (~called[~positive]).mean() >= specificity - 1e-12:
                best = max(best, called[positive].mean())
        assert sensitivity_at_specificity(positive, score, specificity) == pytest.approx(best)

    def test_nll_and_brier(self, cases):
        y, p = cases
        onehot = np.eye(p.shape[1])[y]
        clipped = np.clip(p, 1e-12, 1)
        assert nll(y, p) == pytest.approx(-(np.log(clipped) * onehot).sum() / len(y))
        binary = [sk.brier_score_loss(onehot[:, c], p[:, c]) for c in range(p.shape[1])]
        assert brier(y, p) == pytest.approx(np.sum(binary))

    def test_risk_coverage(self, cases):
        y, p = cases
        confidence, wrong = p.max(axis=1), p.argmax(axis=1) != y
        expected = np.mean([wrong[confidence >= c].mean() for c in confidence])
        assert aurc(y, p) == pytest.approx(expected)
        a = 1 - wrong.mean()
        auc = sk.roc_auc_score(~wrong, confidence)
        assert augrc(y, p) == pytest.approx((1 - auc) * a * (1 - a) + (1 - a) ** 2 / 2)  # eq. of 2407.01032
        curve = risk_coverage_curve(y, p)
        for t, c, r in zip(np.unique(confidence)[::-1], curve["coverage"], curve["risk"], strict=True):
            assert c == pytest.approx((confidence >= t).mean())
            assert r == pytest.approx(wrong[confidence >= t].mean())


def cut_by_hand(outcome, score, bins):
    """Calibration error with every row repeated `bins` times, so that the bins hold whole rows."""
    order = np.argsort(score)
    parts = zip(
        np.array_split(np.repeat(outcome[order], bins), bins),
        np.array_split(np.repeat(score[order], bins), bins),
        strict=True,
    )
    return sum(abs(o.mean() - s.mean()) for o, s in parts) / bins


@pytest.mark.parametrize("n", [7, 60, 203])
def test_calibration_errors_are_those_of_repeated_rows(n):
    y, p = draw_cases(n, 5, 3)
    hit = (p.argmax(axis=1) == y).astype(float)
    assert ece(y, p) == pytest.approx(cut_by_hand(hit, p.max(axis=1), 15))
    by_class = [cut_by_hand((y == c).astype(float), p[:, c], 15) for c in range(5)]
    assert classwise_ece(y, p) == pytest.approx(np.mean(by_class))
    bins = reliability_bins(y, p)
    assert np.abs(bins["accuracy"] - bins["confidence"]).mean() == pytest.approx(ece(y, p))
    assert bins["accuracy"].mean() == pytest.approx(accuracy(y, p))


def test_calibration_error_of_one_confidence_is_the_plain_gap():
    y, p = np.array([0] * 7 + [1] * 3), np.tile([0.9, 0.1], (10, 1))
    assert ece(y, p) == pytest.approx(0.2)
    assert ece(y[::-1], p) == pytest.approx(0.2)


def test_bins_must_be_positive():
    with pytest.raises(ValueError, match="bins"):
        ece([0, 1], [[0.5, 0.5], [0.5, 0.5]], bins=0)


def test_simulation_repeats_and_is_checked():
    _, p = draw_cases(40, 3, 4)
    first, second = (simulate_calibrated(p, draws=20, seed=5) for _ in range(2))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert first["bin_accuracy"].shape == (20, 15)
    with pytest.raises(ValueError, match="draws"):
        simulate_calibrated(p, draws=0)
    with pytest.raises(ValueError, match="shape"):
        simulate_calibrated(p[0])


def test_simulation_in_blocks_is_the_same_as_whole(monkeypatch):
    _, p = draw_cases(40, 3, 4)
    whole = simulate_calibrated(p, draws=20)
    monkeypatch.setattr("agfnet.metrics.calibration.block_size", lambda _: 3)
    blocks = simulate_calibrated(p, draws=20)
    for name in whole:
        np.testing.assert_allclose(blocks[name], whole[name])


RANGES = {"nll": (0, 28), "brier": (0, 2), "augrc": (0, 0.5)}
cases_strategy = st.tuples(
    st.integers(5, 40), st.integers(2, 5), st.integers(0, 10_000), st.sampled_from([None, 1])
).map(lambda drawn: draw_cases(drawn[0], drawn[1], drawn[2], decimals=drawn[3]))


@settings(max_examples=30, deadline=None)
@given(cases_strategy, st.integers(0, 10_000))
def test_laws_of_every_score(cases, seed):
    """Integer weights are repeated rows, scale and order do not matter, a block is its rows, ranges hold.

    But for means over classes where a class has no weight: they are of all classes or not defined.
    """
    y, p = cases
    rng = np.random.default_rng(seed)
    weights = rng.integers(0, 4, y.size)
    weights[rng.integers(y.size)] += 1
    weighted = all_scores(y, p, weights, malignant=[0])
    repeated = all_scores(np.repeat(y, weights), np.repeat(p, weights, axis=0), malignant=[0])
    scaled = all_scores(y, p, 0.5 * weights, malignant=[0])
    order = rng.permutation(y.size)
    permuted = all_scores(y[order], p[order], weights[order], malignant=[0])
    block = all_scores(y, p, np.stack([np.ones(y.size), weights]), malignant=[0])
    assert set(weighted) == {*HEADLINE, *MALIGNANT, *PER_CLASS}
    lost = not np.isin(y, y[weights > 0]).all()
    for name, value in weighted.items():
        if lost and name in {"balanced_accuracy", "macro_f1", "macro_auc"}:
            assert np.isnan(value), name
            continue
        np.testing.assert_allclose(repeated[name], value, atol=1e-9, err_msg=name)
        np.testing.assert_allclose(scaled[name], value, atol=1e-9, err_msg=name)
        np.testing.assert_allclose(permuted[name], value, atol=1e-9, err_msg=name)
        np.testing.assert_allclose(block[name][1], value, atol=1e-9, err_msg=name)
        defined = np.atleast_1d(value)[np.isfinite(np.atleast_1d(value))]
        low, high = RANGES.get(name, (0, 1))
        assert (defined >= low - 1e-12).all(), name
        assert (defined <= high + 1e-12).all(), name


def test_a_class_that_never_occurs_is_nan_and_left_out_of_means():
    y = np.array([0, 0, 1, 1])
    p = np.array([[0.8, 0.1, 0.1], [0.2, 0.2, 0.6], [0.1, 0.8, 0.1], [0.1, 0.6, 0.3]])
    scores = all_scores(y, p, malignant=[2])
    for name in ("sensitivity", "f1", "auc"):
        assert np.isnan(scores[name][2]), name
    assert scores["ppv"][2] == 0  # predicted once, wrongly: that is known
    assert scores["balanced_accuracy"] == pytest.approx(0.75)
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 1) / 2)
    assert np.isnan(scores["malignant_auc"])
    assert np.isnan(scores["malignant_sensitivity_at_90_specificity"])


def test_a_mean_over_classes_is_not_of_the_easy_ones_alone():
    """Two cases of a class that is always missed are in 87 % of the draws: the others would score 1, not 2/3."""
    y = np.repeat([0, 1, 2], [60, 38, 2])
    p = np.eye(3)[np.where(y == 2, 0, y)]
    found = bootstrap(partial(all_scores, y, p), range(100), draws=500)
    for name in ("balanced_accuracy", "macro_f1", "macro_auc"):
        assert 0.8 < found[name].defined < 0.95, name
    assert found["balanced_accuracy"].high == pytest.approx(2 / 3)


def test_a_class_that_is_never_predicted_has_no_ppv():
    rates = scores_from_confusion(confusion_matrix([0, 1], [[0.9, 0.1], [0.8, 0.2]]))
    assert np.isnan(rates["ppv"][1])
    assert np.isnan(rates["npv"][0])
    assert rates["f1"][1] == 0


def test_only_one_class_leaves_every_auc_undefined():
    y, p = np.zeros(3, dtype=int), np.tile([0.6, 0.4], (3, 1))
    assert np.isnan(macro_auc(y, p))
    assert np.isnan(sensitivity_at_specificity(y == 1, p[:, 0]))
    assert np.isnan(roc_curve(y == 0, p[:, 0])[0]).all()


def test_a_certain_error_costs_a_finite_amount():
    assert nll([1], [[1.0, 0.0]]) == pytest.approx(-np.log(1e-12))


GOOD = np.array([[0.5, 0.5], [0.25, 0.75]])


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([], np.zeros((0, 2)), "no cases"),
        ([0, 1], [0.5, 0.5], "shape"),
        ([0, 1], [[1.0], [1.0]], "classes >= 2"),
        ([0], GOOD, "labels must have the shape"),
        ([[0], [1]], GOOD, "labels must have the shape"),
        ([0, 2], GOOD, "label 2 of case 1"),
        ([-1, 0], GOOD, "label -1 of case 0"),
        ([0.0, np.nan], GOOD, "integers"),
        ([0, 1], [[0.5, 0.5], [np.nan, 1.0]], "case 1 are not all finite"),
        ([0, 1], [[0.5, 0.5], [0.5, 0.6]], "case 1 .* sum to 1"),
        ([0, 1], [[0.5, 0.5], [-0.5, 1.5]], "case 1 are negative"),
    ],
)
def test_bad_cases_are_refused(labels, probabilities, message):
    for score in (accuracy, macro_auc, nll, ece, aurc):
        with pytest.raises(ValueError, match=message):
            score(labels, probabilities)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], "shape"),
        (np.ones((2, 2, 2)), "shape"),
        (np.ones((0, 2)), "shape"),
        ([1.0, -1.0], "not negative"),
        ([1.0, np.nan], "finite"),
        ([[1.0, 1.0], [0.0, 0.0]], "all zero"),
    ],
)
def test_bad_weights_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        accuracy([0, 1], GOOD, weights)


@pytest.mark.parametrize(
    ("positive", "scores", "message"),
    [
        ([], [], "no cases"),
        ([0, 1], [0.5], "shape"),
        ([0, 2], [0.5, 0.5], "True and False"),
        ([0, 1], [0.5, np.inf], "finite"),
    ],
)
def test_bad_binary_input_is_refused(positive, scores, message):
    with pytest.raises(ValueError, match=message):
        binary_auc(positive, scores)


@pytest.mark.parametrize("malignant", [[], [0, 0], [2], [-1], [0, 1]])
def test_bad_malignant_classes_are_refused(malignant):
    with pytest.raises(ValueError, match="malignant"):
        malignancy([0, 1], GOOD, malignant)


def test_curves_take_one_set_of_weights():
    with pytest.raises(ValueError, match="one set"):
        roc_curve([0, 1], [0.1, 0.9], np.ones((3, 2)))
    with pytest.raises(ValueError, match="one set"):
        risk_coverage_curve([0, 1], GOOD, np.ones((3, 2)))
    with pytest.raises(ValueError, match="specificity"):
        sensitivity_at_specificity([0, 1], [0.1, 0.9], 0.0)


def test_a_shares_cases_are_those_of_its_denominator():
    told = shares_of([0, 1], [[0.9, 0.1], [0.8, 0.2]])
    assert told["sensitivity"].tolist() == [[True, False], [False, True]]
    assert told["specificity"].tolist() == [[False, True], [True, False]]
    assert told["ppv"].tolist() == [[True, False], [True, False]]
    assert told["npv"].tolist() == [[False, True], [False, True]]
