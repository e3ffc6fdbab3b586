"""Scores of the top class: the confusion matrix and what follows from it.

The predicted class is the one with the highest probability, the first of them where several are equal. A
figure that is not defined (the sensitivity of a class that never occurs, the PPV of one that is never
predicted) is NaN, never 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from agfnet.metrics.weighting import FloatArray, check_cases, check_weights, mean_over_classes, ratio


def confusion_matrix(labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None) -> FloatArray:
    """How often each class was taken for each other.

    Args:
        labels: (n,) integers in 0 .. K-1.
        probabilities: (n, K) floats, rows with sum 1.
        weights: None, (n,) or (D, n), not negative.

    Returns:
        (K, K) or (D, K, K): weight of the cases by true class (rows) and predicted class (columns).

    Raises:
        ValueError: the input is not as described.

    >>> confusion_matrix([0, 0, 1], [[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]]).tolist()
    [[1.0, 1.0], [0.0, 1.0]]
    """
    y, p = check_cases(labels, probabilities)
    w = check_weights(weights, y.size)
    k = p.shape[1]
    cells = np.zeros((y.size, k * k))
    cells[np.arange(y.size), y * k + p.argmax(axis=1)] = 1.0
    return np.asarray((w @ cells).reshape(*w.shape[:-1], k, k))


def scores_from_confusion(confusion: FloatArray) -> dict[str, FloatArray]:
    """Every figure that a confusion matrix holds.

    With TP, FP, FN, TN of class k against the rest: sensitivity TP/(TP+FN), specificity TN/(TN+FP), PPV
    TP/(TP+FP), NPV TN/(TN+FN), F1 2TP/(2TP+FP+FN). The F1 of a class that never occurs is NaN even if it was
    predicted (the other classes pay for that through their FN).

    Args:
        confusion: (..., K, K), rows true, columns predicted.

    Returns:
        `accuracy` of shape (...), and `sensitivity`, `specificity`, `ppv`, `npv`, `f1` of shape (..., K); all in
        0 .. 1 or NaN. PPV and NPV hold for the prevalence of these cases only.
    """
    total = confusion.sum(axis=(-2, -1))[..., None]
    hit = np.diagonal(confusion, axis1=-2, axis2=-1)
    occurs, predicted = confusion.sum(axis=-1), confusion.sum(axis=-2)
    rejected = total - occurs - predicted + hit
    return {
        "accuracy": ratio(hit.sum(axis=-1), total[..., 0]),
        "sensitivity": ratio(hit, occurs),
        "specificity": ratio(rejected, total - occurs),
        "ppv": ratio(hit, predicted),
        "npv": ratio(rejected, total - predicted),
        "f1": np.where(occurs > 0, ratio(2 * hit, occurs + predicted), np.nan),
    }


def accuracy(labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None) -> FloatArray:
    """Share of the cases whose top class is right: sum_i w_i [y_i = argmax_k p_ik] / sum_i w_i.

    Args:
        labels: (n,) integers in 0 .. K-1.
        probabilities: (n, K) floats, rows with sum 1.
        weights: None, (n,) or (D, n), not negative.

    Returns:
        A scalar, or (D,); 0 .. 1, higher is better.

    Raises:
        ValueError: the input is not as described.

    >>> float(accuracy([0, 1, 1, 0], [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]]))
    0.75
    """
    return scores_from_confusion(confusion_matrix(labels, probabilities, weights))["accuracy"]


def balanced_accuracy(labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None) -> FloatArray:
    """Mean sensitivity over the classes among the labels.

    Args:
        labels: (n,) integers in 0 .. K-1.
        probabilities: (n, K) floats, rows with sum 1.
        weights: None, (n,) or (D, n), not negative.

    Returns:
        A scalar, or (D,); 0 .. 1, higher is better; chance is 1 / (classes that occur). NaN where the weights leave
        one of them without a case.

    Raises:
        ValueError: the input is not as described.

    >>> float(balanced_accuracy([0, 0, 0, 1], [[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]]))
    0.5
    """
    y, p = check_cases(labels, probabilities)
    return mean_over_classes(scores_from_confusion(confusion_matrix(y, p, weights))["sensitivity"], y)
