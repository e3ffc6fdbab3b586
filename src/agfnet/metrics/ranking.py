"""Scores of the order that probabilities put the cases in: ROC curves and the areas under them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from agfnet.metrics.weighting import (
    BoolArray,
    FloatArray,
    check_binary,
    check_cases,
    check_weights,
    cumulative,
    mean_over_classes,
    ratio,
    tie_groups,
)


def _roc_weights(positive: BoolArray, scores: FloatArray, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Weight of true and of false positives at each threshold, from none to all: two of (..., G + 1)."""
    order, ends = tie_groups(scores, descending=True)
    ordered = weights[..., order]
    true = cumulative(ordered * positive[order], ends)
    return true, cumulative(ordered, ends) - true


def binary_auc(positive: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> FloatArray:
    """Area under the ROC curve: P(score of a positive > score of a negative) + 1/2 P(equal).

    Args:
        positive: (n,) booleans.
        scores: (n,) finite floats, higher for more likely positive.
        weights: None, (n,) or (D, n), not negative.

    Returns:
        A scalar, or (D,); 0 .. 1, chance is 0.5; NaN without a positive or without a negative.

    Raises:
        ValueError: the input is not as described.

    >>> float(binary_auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]))
    0.75
    """
    truth, s = check_binary(positive, scores)
    true, false = _roc_weights(truth, s, check_weights(weights, s.size))
    # The trapezium under each step of the curve gives tied pairs their half.
    area = (np.diff(false, axis=-1) * (true[..., 1:] + true[..., :-1])).sum(axis=-1) / 2
    return ratio(area, true[..., -1] * false[..., -1])


def sensitivity_at_specificity(
    positive: ArrayLike, scores: ArrayLike, specificity: float = 0.9, weights: ArrayLike | None = None
) -> FloatArray:
    """Highest sensitivity among the thresholds whose specificity is at least the given one.

    A case is called positive if its score is at or above the threshold. No interpolation: the figure is
    reached by a threshold that exists. The threshold is chosen on the same cases, so the figure is slightly
    optimistic for a threshold that is fixed beforehand.

    Args:
        positive: (n,) booleans.
        scores: (n,) finite floats, higher for more likely positive.
        specificity: the specificity that must be kept, above 0 and up to 1.
        weights: None, (n,) or (D, n), not negative.

    Returns:
        A scalar, or (D,); 0 .. 1; NaN without a positive or without a negative.

    Raises:
        ValueError: the input is not as described.

    >>> float(sensitivity_at_specificity([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]))
    0.5
    """
    if not 0 < specificity <= 1:
        raise ValueError(f"specificity must be above 0 and at most 1, not {specificity}")
    truth, s = check_binary(positive, scores)
    true, false = _roc_weights(truth, s, check_weights(weights, s.size))
    # 1 - 0.9 is not exactly 0.1: without the allowance one false positive in ten would be refused.
    allowed = false <= (1 - specificity + 1e-9) * false[..., -1:]
    best = np.where(allowed, true, 0.0).max(axis=-1)
    return ratio(np.where(false[..., -1] > 0, best, np.nan), true[..., -1])


def one_vs_rest_auc(labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None) -> FloatArray:
    """AUC of each class's probability against all other classes (see `binary_auc`).

    Args:
        labels: (n,) integers in 0 .. K-1.
        probabilities: (n, K) floats, rows with sum 1.
        weights: None, (n,) or (D, n), not negative.

    Returns:
        (K,) or (D, K); 0 .. 1; NaN for a class that never occurs, or that is the only one.

    Raises:
        ValueError: the input is not as described.

    >>> one_vs_rest_auc([0, 1], [[0.7, 0.2, 0.1], [0.4, 0.5, 0.1]]).tolist()
    [1.0, 1.0, nan]
    """
    y, p = check_cases(labels, probabilities)
    w = check_weights(weights, y.size)
    return np.stack([binary_auc(y == k, p[:, k], w) for k in range(p.shape[1])], axis=-1)


def macro_auc(labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None) -> FloatArray:
    """Mean of the one-vs-rest AUCs of the classes among the labels, each with the same weight.

    Args:
        labels: (n,) integers in 0 .. K-1.
        probabilities: (n, K) floats, rows with sum 1.
        weights: None, (n,) or (D, n), not negative.

    Returns:
        A scalar, or (D,); 0 .. 1, chance is 0.5; NaN where only one class occurs, or where the weights leave one of
        several without a case.

    Raises:
        ValueError: the input is not as described.

    >>> float(macro_auc([0, 1], [[0.7, 0.2, 0.1], [0.4, 0.5, 0.1]]))
    1.0
    """
    y, p = check_cases(labels, probabilities)
    return mean_over_classes(one_vs_rest_auc(y, p, weights), y)


def malignancy(labels: ArrayLike, probabilities: ArrayLike, malignant: Sequence[int]) -> tuple[BoolArray, FloatArray]:
    """The question "malignant or benign?": the answer, and the summed probability of the malignant classes.

    Pass both to `binary_auc` and `sensitivity_at_specificity`.

    Args:
        labels: (n,) integers in 0 .. K-1.
        probabilities: (n, K) floats, rows with sum 1.
        malignant: indices of the malignant classes: at least one, not all, each once.

    Returns:
        positive (n,) bool and score (n,) float in 0 .. 1.

    Raises:
        ValueError: the input is not as described.

    >>> positive, score = malignancy([0, 2], [[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]], [1, 2])
    >>> positive.tolist(), score.tolist()
    ([False, True], [0.5, 0.75])
    """
    y, p = check_cases(labels, probabilities)
    chosen = sorted(set(malignant))
    if not chosen or len(chosen) != len(malignant) or chosen[0] < 0 or chosen[-1] >= p.shape[1]:
        raise ValueError(f"malignant must name classes in 0 .. {p.shape[1] - 1}, each once, not {list(malignant)}")
    if len(chosen) == p.shape[1]:
        raise ValueError("malignant names every class: nothing is left to tell them from")
    return np.isin(y, chosen), p[:, chosen].sum(axis=1)


def roc_curve(
    positive: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The ROC curve, with straight lines where tied scores hold both positives and negatives.

    Args:
        positive: (n,) booleans.
        scores: (n,) finite floats, higher for more likely positive.
        weights: None or (n,), not negative.

    Returns:
        False-positive rate, true-positive rate and threshold ("positive if score >= t"), each (G + 1,) for G
        distinct scores, from (0, 0, inf) to (1, 1, lowest score); a rate is NaN where it has no cases.

    Raises:
        ValueError: the input is not as described.

    >>> [x.tolist() for x in roc_curve([0, 1], [0.2, 0.8])]
    [[0.0, 0.0, 1.0], [0.0, 1.0, 1.0], [inf, 0.8, 0.2]]
    """
    truth, s = check_binary(positive, scores)
    w = check_weights(weights, s.size)
    if w.ndim != 1:
        raise ValueError("a curve takes one set of weights, not one per draw")
    true, false = _roc_weights(truth, s, w)
    order, ends = tie_groups(s, descending=True)
    thresholds = np.concatenate([[np.inf], s[order][ends]])
    return ratio(false, false[-1]), ratio(true, true[-1]), thresholds


def precision_recall_curve(
    positive: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None
) -> tuple[FloatArray, FloatArray]:
    """Precision and recall at every distinct score, from the highest on.

    Args:
        positive: (n,) booleans.
        scores: (n,) finite floats, higher for more likely positive.
        weights: None or (n,), not negative.

    Returns:
        Precision and recall, each (G,) for G distinct scores; recall is NaN without positives.

    Raises:
        ValueError: the input is not as described.

    >>> [x.tolist() for x in precision_recall_curve([0, 1, 1], [0.2, 0.8, 0.2])]
    [[1.0, 0.6666666666666666], [0.5, 1.0]]
    """
    truth, s = check_binary(positive, scores)
    w = check_weights(weights, s.size)
    if w.ndim != 1:
        raise ValueError("a curve takes one set of weights, not one per draw")
    true, false = (x[1:] for x in _roc_weights(truth, s, w))
    return ratio(true, true + false), ratio(true, true[-1])


def net_benefit(
    positive: ArrayLike, scores: ArrayLike, thresholds: ArrayLike, weights: ArrayLike | None = None
) -> FloatArray:
    """Net benefit of acting where the probability reaches a threshold t: (TP - FP * t / (1 - t)) / n.

    Acting on everyone has it at prevalence - (1 - prevalence) * t / (1 - t), acting on no one at 0. Source: Vickers &
    Elkin 2006.

    Args:
        positive: (n,) booleans.
        scores: (n,) probabilities.
        thresholds: (T,) in [0, 1).
        weights: None or (n,), not negative.

    Returns:
        (T,).

    Raises:
        ValueError: the input is not as described.

    >>> net_benefit([0, 1], [0.3, 0.8], [0.5]).tolist()
    [0.5]
    """
    truth, s = check_binary(positive, scores)
    w = check_weights(weights, s.size)
    t = np.asarray(thresholds, np.float64)
    if w.ndim != 1 or t.ndim != 1 or not ((t >= 0.0) & (t < 1.0)).all():
        raise ValueError("net benefit takes one set of weights, and thresholds (T,) in [0, 1)")
    acted = (s[None] >= t[:, None]) * w
    return np.asarray((acted @ truth - (acted @ ~truth) * t / (1.0 - t)) / w.sum())
