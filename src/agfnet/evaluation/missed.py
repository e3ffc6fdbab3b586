"""The error that harms most: a malignant lesion that is answered as benign, and not handed back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest

from agfnet.evaluation.summary import figure_text
from agfnet.metrics.statistics import LEVEL
from agfnet.metrics.weighting import check_cases


def missed_malignant(
    labels: ArrayLike,
    probabilities: ArrayLike,
    answered: Sequence[bool],
    patients: Sequence[str],
    malignant: Sequence[int],
) -> dict[str, Any] | None:
    """How many malignant cases were answered with a benign class and not referred.

    The interval is of patients, whose lesions are not independent, and exact (Clopper and Pearson 1934): a bootstrap
    would take no miss among few for certainty that there is none.

    Args:
        labels: (n,) integers in 0 .. K-1.
        probabilities: (n, K) floats, rows with sum 1; the highest is the answer.
        answered: (n,) whether the case was not referred.
        patients: (n,) ids.
        malignant: places of the malignant classes.

    Returns:
        `cases` missed `of_cases` malignant ones; `patients` with one missed `of_patients` with a malignant case;
        `share` of the patients: {value, low, high}. None where there is no malignant case.

    >>> missed_malignant([1, 1, 0], [[0.9, 0.1], [0.2, 0.8], [1.0, 0.0]], [True] * 3, ["a", "b", "c"], [1])["cases"]
    1
    """
    y, p = check_cases(labels, probabilities)
    positive = np.isin(y, list(malignant))
    if not positive.any():
        return None
    missed = positive & ~np.isin(p.argmax(1), list(malignant)) & np.asarray(answered, np.bool_)
    owners = np.asarray(patients)
    n, k = (len(np.unique(owners[chosen])) for chosen in (positive, missed))
    low, high = map(float, binomtest(k, n).proportion_ci(confidence_level=LEVEL, method="exact"))
    return {
        "cases": int(missed.sum()),
        "of_cases": int(positive.sum()),
        "patients": k,
        "of_patients": n,
        "share": {"value": k / n, "low": low, "high": high},
    }


def missed_text(found: Mapping[str, Any] | None) -> str:
    """What `missed_malignant` gives, as a sentence."""
    if found is None:
        return "Malignant cases answered as benign and not referred: not known, as no case here is malignant."
    share = figure_text(found["share"], ".1f", times=100, unit=" %")
    return (
        f"Malignant cases answered as benign and not referred: {found['cases']} of {found['of_cases']}; of patients "
        f"with a malignant case, {found['patients']} of {found['of_patients']}: {share}, exact 95 % interval."
    )
