"""Scores of the probabilities themselves: whether 80 % sure means right in 80 % of the cases.

Calibration errors use bins of equal mass: the cases, sorted by confidence, are cut into parts of exactly the
same weight. A case on a cut counts for both sides by its share, and cases with equal confidence are cut in
the same proportion of right and wrong ones. So the figure depends neither on the order of the rows nor on
whether a row is repeated or weighted.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from agfnet.metrics.weighting import (
    FloatArray,
    block_size,
    check_cases,
    check_weights,
    cumulative,
    tie_groups,
    weighted_mean,
)

FLOOR = 1e-12  # of a probability under the logarithm: one certain error costs 27.6 nats, not infinity
BINS = 15


def nll(labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None) -> FloatArray:
    """Negative log-likelihood, -sum_i w_i ln(max(p_i[y_i], 1e-12)) / sum_i w_i.

    Args:
        labels: (n,) integers in 0 .. K-1.
        probabilities: (n, K) floats, rows with sum 1.
        weights: None, (n,) or (D, n), not negative.

    Returns:
        A scalar, or (D,); 0 .. 27.6 nats, lower is better; ln K for a uniform guess.

    Raises:
        ValueError: the input is not as described.

    >>> round(float(nll([0, 1], [[0.5, 0.5], [0.75, 0.25]])), 4)
    1.0397
    """
    y, p = check_cases(labels, probabilities)
    losses = -np.log(np.clip(p[np.arange(y.size), y], FLOOR, 1.0))
    return weighted_mean(losses, check_weights(weights, y.size))


def brier(labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None) -> FloatArray:
    """Multiclass Brier score, sum_i w_i sum_k (p_ik - [y_i = k])^2 / sum_i w_i.

    Summed over the classes as in Brier 1950: for two classes it is twice the usual binary figure.

    Args:
        labels: (n,) integers in 0 .. K-1.
        probabilities: (n, K) floats, rows with sum 1.
        weights: None, (n,) or (D, n), not negative.

    Returns:
        A scalar, or (D,); 0 .. 2, lower is better.

    Raises:
        ValueError: the input is not as described.

    >>> float(brier([0, 1], [[0.5, 0.5], [1.0, 0.0]]))
    1.25
    """
    y, p = check_cases(labels, probabilities)
    losses = np.square(p - np.eye(p.shape[1])[y]).sum(axis=1)
    return weighted_mean(losses, check_weights(weights, y.size))


def _at_cuts(masses: FloatArray, sums: FloatArray, bins: int) -> FloatArray:
    """Running sums (D, G + 1) as lines over the running masses, read at cuts of equal mass: (D, bins + 1)."""
    out = np.empty((sums.shape[0], bins + 1))
    for row, (mass, total) in enumerate(zip(np.broadcast_to(masses, sums.shape), sums, strict=True)):
        out[row] = np.interp(np.linspace(0.0, mass[-1], bins + 1), mass, total)
    return out


def _binned(values: FloatArray, confidences: FloatArray, weights: FloatArray, bins: int) -> FloatArray:
    """Sum of weight * value in each bin over the total mass: values (..., n), weights (..., n)."""
    if bins < 1:
        raise ValueError(f"bins must be at least 1, not {bins}")
    order, ends = tie_groups(confidences)
    ordered = np.atleast_2d(weights)[:, order]
    masses = cumulative(ordered, ends)
    sums = cumulative(ordered * values[..., order], ends)
    shares = np.diff(_at_cuts(masses, sums, bins), axis=-1) / masses[:, -1:]
    return shares if max(weights.ndim, values.ndim) == 2 else shares[0]


def ece(
    labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None, *, bins: int = BINS
) -> FloatArray:
    """Expected calibration error of the top class, sum_b |accuracy_b - confidence_b| / bins.

    A finite sample of a perfectly calibrated model does not score 0: compare with `simulate_calibrated`.
    Source: Guo et al. 2017 (arXiv:1706.04599); equal mass as in Nixon et al. 2019 (arXiv:1904.01685).

    Args:
        labels: (n,) integers in 0 .. K-1.
        probabilities: (n, K) floats, rows with sum 1.
        weights: None, (n,) or (D, n), not negative.
        bins: number of bins.

    Returns:
        A scalar, or (D,); 0 .. 1, lower is better.

    Raises:
        ValueError: the input is not as described.

    >>> round(float(ece([0, 0, 1], [[0.75, 0.25]] * 3, bins=2)), 4)
    0.0833
    """
    y, p = check_cases(labels, probabilities)
    confidence = p.max(axis=1)
    gaps = (p.argmax(axis=1) == y) - confidence
    return np.asarray(np.abs(_binned(gaps, confidence, check_weights(weights, y.size), bins)).sum(axis=-1))


def classwise_ece(
    labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None, *, bins: int = BINS
) -> FloatArray:
    """Mean over all K classes of the calibration error of its probability, sum_b |rate_b - p_b| / bins.

    Source: Kull et al. 2019 (arXiv:1910.12656), with bins of equal mass. A class that never occurs still
    counts: giving it probability is an error of calibration.

    Args:
        labels: (n,) integers in 0 .. K-1.
        probabilities: (n, K) floats, rows with sum 1.
        weights: None, (n,) or (D, n), not negative.
        bins: number of bins.

    Returns:
        A scalar, or (D,); 0 .. 1, lower is better.

    Raises:
        ValueError: the input is not as described.

    >>> float(classwise_ece([0, 1], [[0.75, 0.25], [0.75, 0.25]]))
    0.25
    """
    y, p = check_cases(labels, probabilities)
    w = check_weights(weights, y.size)
    errors = [np.abs(_binned((y == k) - p[:, k], p[:, k], w, bins)).sum(axis=-1) for k in range(p.shape[1])]
    return np.asarray(np.mean(errors, axis=0))


def reliability_bins(
    labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None, *, bins: int = BINS
) -> dict[str, FloatArray]:
    """Mean confidence and accuracy of the top class in each bin of equal mass, least confident first.

    Args:
        labels: (n,) integers in 0 .. K-1.
        probabilities: (n, K) floats, rows with sum 1.
        weights: None, (n,) or (D, n), not negative.
        bins: number of bins.

    Returns:
        `confidence` and `accuracy`, each (bins,) or (D, bins), 0 .. 1; every bin holds 1 / bins of the mass,
        so that the mean of |accuracy - confidence| is the ECE.

    Raises:
        ValueError: the input is not as described.

    >>> reliability_bins([0, 1], [[0.75, 0.25], [0.5, 0.5]], bins=2)["accuracy"].tolist()
    [0.0, 1.0]
    """
    y, p = check_cases(labels, probabilities)
    w = check_weights(weights, y.size)
    confidence = p.max(axis=1)
    hit = (p.argmax(axis=1) == y).astype(np.float64)
    return {
        "confidence": bins * _binned(confidence, confidence, w, bins),
        "accuracy": bins * _binned(hit, confidence, w, bins),
    }


def simulate_calibrated(
    probabilities: ArrayLike, *, draws: int = 1000, seed: int = 0, bins: int = BINS
) -> dict[str, FloatArray]:
    """What a perfectly calibrated model with these very probabilities would score at this number of cases.

    The label of every case is drawn from its own probabilities, again and again. Cases are drawn
    independently of each other: where patients have many lesions, the true spread is somewhat wider.
    Source: consistency resampling, Bröcker & Smith 2007 (doi:10.1175/WAF993.1).

    Args:
        probabilities: (n, K) floats, rows with sum 1.
        draws: number of simulated sets of labels.
        seed: of the simulation.
        bins: number of bins.

    Returns:
        `ece` (draws,), `classwise_ece` (draws,) and `bin_accuracy` (draws, bins).

    Raises:
        ValueError: the input is not as described.

    >>> simulated = simulate_calibrated([[0.5, 0.5]] * 100, draws=200, bins=1)
    >>> bool(0.03 < simulated["ece"].mean() < 0.05)
    True
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, not {draws}")
    p = np.asarray(probabilities, dtype=np.float64)
    _, p = check_cases(np.zeros(p.shape[0], dtype=np.int64), p)
    rng = np.random.default_rng(seed)
    size = block_size(p.shape[0])
    blocks = [_simulate_block(p, min(size, draws - start), rng, bins) for start in range(0, draws, size)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _simulate_block(p: FloatArray, draws: int, rng: np.random.Generator, bins: int) -> dict[str, FloatArray]:
    n, k = p.shape
    uniform = rng.random((draws, n))
    drawn = np.zeros((draws, n), dtype=np.int64)
    for bound in np.cumsum(p, axis=1).T[:-1]:  # the inverse of each case's distribution function
        drawn += uniform >= bound
    ones = np.ones(n)
    top, confidence = p.argmax(axis=1), p.max(axis=1)
    hits = _binned((drawn == top).astype(np.float64), confidence, ones, bins)
    sure = _binned(confidence, confidence, ones, bins)
    errors = [np.abs(_binned((drawn == j) - p[:, j], p[:, j], ones, bins)).sum(axis=-1) for j in range(k)]
    return {
        "ece": np.abs(hits - sure).sum(axis=-1),
        "classwise_ece": np.asarray(np.mean(errors, axis=0)),
        "bin_accuracy": bins * hits,
    }
