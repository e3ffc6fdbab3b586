"""Every figure that is reported of a model on one set of cases, by name, in one pass.

The functions themselves are in `classification`, `ranking`, `calibration` and `selective`; this is the list that a
scorecard and a paired comparison of two networks compute, and the titles that all outputs share.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from agfnet.metrics.calibration import brier, classwise_ece, ece, nll
from agfnet.metrics.classification import confusion_matrix, scores_from_confusion
from agfnet.metrics.ranking import binary_auc, malignancy, one_vs_rest_auc, sensitivity_at_specificity
from agfnet.metrics.selective import augrc, aurc
from agfnet.metrics.weighting import BoolArray, FloatArray, check_cases, mean_over_classes

PER_CLASS = ("sensitivity", "specificity", "ppv", "npv", "f1", "auc")
TITLES = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro F1",
    "macro_auc": "Macro AUC (one vs rest)",
    "malignant_auc": "Malignant vs benign: AUC",
    "malignant_sensitivity_at_90_specificity": "Malignant vs benign: sensitivity at 90 % specificity, by these cases",
    "nll": "Negative log-likelihood",
    "brier": "Brier score (0 to 2)",
    "ece": "ECE, 15 equal-mass bins",
    "classwise_ece": "Classwise ECE",
    "aurc": "AURC",
    "augrc": "AUGRC",
}
"""Of every figure of all cases, as readers see it."""
LOWER_IS_BETTER = ("nll", "brier", "ece", "classwise_ece", "aurc", "augrc")
MALIGNANT = ("malignant_auc", "malignant_sensitivity_at_90_specificity")
BIASED = ("ece", "classwise_ece")
"""Figures that a bootstrap cannot judge, as it repeats cases, which looks like miscalibration: no interval, no p."""
OVER_CLASSES = {"balanced_accuracy": "sensitivity", "macro_f1": "f1", "macro_auc": "auc"}
"""Means over the classes, each with the figure of a class that it is of."""
HEADLINE = tuple(name for name in TITLES if name not in MALIGNANT)


def shares_of(labels: ArrayLike, probabilities: ArrayLike) -> dict[str, BoolArray]:
    """For each score that is a share of cases, a mask of the cases in its denominator.

    Returns:
        Name -> (n,) or (n, K).

    >>> {name: cases.tolist() for name, cases in shares_of([0, 1], [[0.9, 0.1], [0.8, 0.2]]).items()}["ppv"]
    [[True, False], [True, False]]
    """
    y, p = check_cases(labels, probabilities)
    true, said = (np.eye(p.shape[1], dtype=np.bool_)[chosen] for chosen in (y, p.argmax(1)))
    return {
        "accuracy": np.ones(y.size, np.bool_),
        "sensitivity": true,
        "specificity": ~true,
        "ppv": said,
        "npv": ~said,
    }


def all_scores(
    labels: ArrayLike,
    probabilities: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    malignant: Sequence[int] | None = None,
) -> dict[str, FloatArray]:
    """Every reported figure.

    Args:
        labels: (n,) integers in 0 .. K-1.
        probabilities: (n, K) floats, rows with sum 1.
        weights: None, (n,) or (D, n), not negative.
        malignant: indices of the malignant classes; the names in `MALIGNANT` are there only if they are
            given.

    Returns:
        The names in `HEADLINE` (and `MALIGNANT`): scalars or (D,); the names in `PER_CLASS`: (K,) or (D, K).
        NaN where a figure is not defined.

    Raises:
        ValueError: the input is not as described.

    >>> figures = all_scores([0, 1, 1], [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], malignant=[1])
    >>> round(float(figures["accuracy"]), 4), figures["sensitivity"].tolist(), float(figures["malignant_auc"])
    (0.6667, [1.0, 0.5], 1.0)
    """
    y, p = check_cases(labels, probabilities)
    figures = scores_from_confusion(confusion_matrix(y, p, weights))
    figures["auc"] = one_vs_rest_auc(y, p, weights)
    for name, of in OVER_CLASSES.items():
        figures[name] = mean_over_classes(figures[of], y)
    for name, score in {
        "nll": nll,
        "brier": brier,
        "ece": ece,
        "classwise_ece": classwise_ece,
        "aurc": aurc,
        "augrc": augrc,
    }.items():
        figures[name] = score(y, p, weights)
    if malignant is not None:
        positive, suspicion = malignancy(y, p, malignant)
        figures["malignant_auc"] = binary_auc(positive, suspicion, weights)
        figures["malignant_sensitivity_at_90_specificity"] = sensitivity_at_specificity(
            positive, suspicion, 0.9, weights
        )
    return figures
