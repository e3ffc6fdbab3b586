"""Scores of refusing to answer: the error among the cases kept when the least confident ones are passed on.

The confidence is the highest probability. Cases with equal confidence are kept or passed on together.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from agfnet.metrics.weighting import FloatArray, check_cases, check_weights, cumulative, ratio, tie_groups


def _running_errors(
    labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None
) -> tuple[FloatArray, FloatArray]:
    """Share of the mass kept, and of the mass kept and wrong, most confident first: two of (..., G + 1)."""
    y, p = check_cases(labels, probabilities)
    order, ends = tie_groups(p.max(axis=1), descending=True)
    ordered = check_weights(weights, y.size)[..., order]
    kept = cumulative(ordered, ends)
    wrong = cumulative(ordered * (p.argmax(axis=1) != y)[order], ends)
    total = kept[..., -1:]
    return kept / total, wrong / total


def risk_coverage_curve(
    labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None
) -> dict[str, FloatArray]:
    """Error against the share of cases that are answered.

    Args:
        labels: (n,) integers in 0 .. K-1.
        probabilities: (n, K) floats, rows with sum 1.
        weights: None or (n,), not negative.

    Returns:
        For each of the G distinct confidences as threshold, highest first, (G,): `coverage` (share kept),
        `risk` (errors among those kept) and `generalised_risk` (kept and wrong, as a share of all cases);
        each 0 .. 1; risk is NaN where nothing with weight is kept yet.

    Raises:
        ValueError: the input is not as described.

    >>> curve = risk_coverage_curve([0, 1], [[0.9, 0.1], [0.8, 0.2]])
    >>> curve["coverage"].tolist(), curve["risk"].tolist()
    ([0.5, 1.0], [0.0, 0.5])
    """
    kept, wrong = _running_errors(labels, probabilities, weights)
    if kept.ndim != 1:
        raise ValueError("a curve takes one set of weights, not one per draw")
    return {"coverage": kept[1:], "risk": ratio(wrong, kept)[1:], "generalised_risk": wrong[1:]}


def aurc(labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None) -> FloatArray:
    """Area under the risk-coverage curve.

    The mean over cases i of the error rate among the cases that are at least as confident as i. Source:
    Geifman et al. 2019 (arXiv:1805.08206), ties sharing one threshold.

    Args:
        labels: (n,) integers in 0 .. K-1.
        probabilities: (n, K) floats, rows with sum 1.
        weights: None, (n,) or (D, n), not negative.

    Returns:
        A scalar, or (D,); 0 .. 1, lower is better; at chance it equals the error rate.

    Raises:
        ValueError: the input is not as described.

    >>> float(aurc([0, 1], [[0.9, 0.1], [0.8, 0.2]]))
    0.25
    """
    kept, wrong = _running_errors(labels, probabilities, weights)
    risk = np.nan_to_num(ratio(wrong, kept)[..., 1:])  # undefined only where no weight is kept: it counts for nothing
    return np.asarray((np.diff(kept, axis=-1) * risk).sum(axis=-1))


def augrc(labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None) -> FloatArray:
    """Area under the generalised risk-coverage curve: the risk of a silent failure, averaged over coverage.

    AUGRC = integral over coverage c of P(wrong and kept at c) = (1 - AUC_f) a (1 - a) + (1 - a)^2 / 2, with
    the accuracy a and AUC_f that of the confidence telling right from wrong. Unlike AURC it does not
    overweigh the few most confident cases. Source: Traub et al. 2024 (arXiv:2407.01032).

    Args:
        labels: (n,) integers in 0 .. K-1.
        probabilities: (n, K) floats, rows with sum 1.
        weights: None, (n,) or (D, n), not negative.

    Returns:
        A scalar, or (D,); 0 .. 0.5, lower is better; at chance it is half the error rate.

    Raises:
        ValueError: the input is not as described.

    >>> float(augrc([0, 1], [[0.9, 0.1], [0.8, 0.2]]))
    0.125
    """
    kept, wrong = _running_errors(labels, probabilities, weights)
    return np.asarray((np.diff(kept, axis=-1) * (wrong[..., 1:] + wrong[..., :-1])).sum(axis=-1) / 2)
