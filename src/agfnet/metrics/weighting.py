"""What every score rests on: checked arrays, weights that stand for repeated rows, ties kept together.

A bootstrap is a weighting: a case drawn three times counts three times. Every score therefore takes
`weights`, either one set (n,) or one set per draw (D, n), and gives back one figure per set. Integer weights
are exactly the same as repeating rows, and only the ratios of the weights matter.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

SUM_TOLERANCE = 1e-3  # a table of probabilities rounded to four digits still passes


def check_cases(labels: ArrayLike, probabilities: ArrayLike) -> tuple[IntArray, FloatArray]:
    """The two arrays every score starts from, or an error that says what is wrong with them.

    Args:
        labels: (n,) integers in 0 .. K-1.
        probabilities: (n, K) floats in 0 .. 1, K >= 2, each row with sum 1 (to 0.001).

    Returns:
        labels (n,) int64 and probabilities (n, K) float64.

    Raises:
        ValueError: wrong shape, no cases, NaN, a label out of range, or rows that are not probabilities.
    """
    y, p = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 2 or p.shape[1] < 2:
        raise ValueError(f"probabilities must have the shape (cases, classes >= 2), not {p.shape}")
    if y.shape != (p.shape[0],):
        raise ValueError(f"labels must have the shape ({p.shape[0]},) to fit the probabilities, not {y.shape}")
    if y.size == 0:
        raise ValueError("there are no cases: no score is defined")
    if not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"labels must be integers 0 .. {p.shape[1] - 1}, not {y.dtype}")
    if y.min() < 0 or y.max() >= p.shape[1]:
        row = int(np.flatnonzero((y < 0) | (y >= p.shape[1]))[0])
        raise ValueError(f"label {y[row]} of case {row} is outside 0 .. {p.shape[1] - 1}")
    if not np.isfinite(p).all():
        row = int(np.flatnonzero(~np.isfinite(p).all(axis=1))[0])
        raise ValueError(f"the probabilities of case {row} are not all finite: {p[row]}")
    # The range has the sum's tolerance too: a float32 softmax may give 1.0000001.
    wrong = (p.min(axis=1) < -SUM_TOLERANCE) | (np.abs(p.sum(axis=1) - 1) > SUM_TOLERANCE)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(f"the probabilities of case {row} are negative or do not sum to 1 (sum {p[row].sum():.6g})")
    return y.astype(np.int64), p


def check_weights(weights: ArrayLike | None, n: int) -> FloatArray:
    """Weights as floats: ones where none are given.

    Args:
        weights: None, (n,) or (D, n); finite, not negative, each set with a positive sum.
        n: number of cases.

    Returns:
        (n,) or (D, n) float64.

    Raises:
        ValueError: wrong shape, a negative or non-finite weight, or a set that is all zero.
    """
    if weights is None:
        return np.ones(n)
    w = np.asarray(weights, dtype=np.float64)
    if w.ndim not in (1, 2) or w.shape[-1] != n or w.size == 0:
        raise ValueError(f"weights must have the shape ({n},) or (draws, {n}), not {w.shape}")
    total = w.sum(axis=-1)
    if not np.isfinite(total).all() or w.min() < 0:
        raise ValueError("weights must be finite and not negative")
    if np.any(total == 0):
        raise ValueError("a set of weights is all zero: no case is left")
    return w


def check_binary(positive: ArrayLike, scores: ArrayLike) -> tuple[BoolArray, FloatArray]:
    """A yes-or-no outcome and the score that ranks it.

    Args:
        positive: (n,) booleans, or integers 0 and 1.
        scores: (n,) finite floats; higher means more likely positive.

    Returns:
        positive (n,) bool and scores (n,) float64.

    Raises:
        ValueError: wrong shape, no cases, values other than 0 and 1, or scores that are not finite.
    """
    truth, s = np.asarray(positive), np.asarray(scores, dtype=np.float64)
    if s.ndim != 1 or truth.shape != s.shape:
        raise ValueError(f"positive and scores must both have the shape (cases,), not {truth.shape} and {s.shape}")
    if s.size == 0:
        raise ValueError("there are no cases: no score is defined")
    if not np.isin(truth, (0, 1)).all():
        raise ValueError("positive must hold only True and False (or 1 and 0)")
    if not np.isfinite(s).all():
        raise ValueError("scores must be finite")
    return truth.astype(np.bool_), s


def block_size(n: int) -> int:
    """How many draws over n cases to hold in memory at once: arrays of about 8 MB for any n."""
    return max(1, 1_000_000 // n)


def ratio(numerator: ArrayLike, denominator: ArrayLike) -> FloatArray:
    """Quotient of the two, NaN (never 0) where the denominator is 0."""
    top, bottom = np.broadcast_arrays(np.asarray(numerator, np.float64), np.asarray(denominator, np.float64))
    out = np.full(top.shape, np.nan)
    np.divide(top, bottom, out=out, where=bottom != 0)
    return out


def mean_over_classes(values: FloatArray, labels: IntArray) -> FloatArray:
    """Mean (...) of figures (..., K) over the classes among the labels (n,).

    NaN where the weights leave one of these classes without a case: a draw of a bootstrap that misses the rarest class
    would else be the mean of the easier ones, and the interval of two different things.
    """
    return np.asarray(values[..., np.unique(labels)].mean(axis=-1))


def weighted_mean(values: FloatArray, weights: FloatArray) -> FloatArray:
    """Mean of values (n,) under each set of weights (..., n); shape (...)."""
    return ratio(weights @ values, weights.sum(axis=-1))


def tie_groups(scores: FloatArray, *, descending: bool = False) -> tuple[IntArray, IntArray]:
    """Sorting order, and where each run of equal scores ends in it.

    Cases with equal scores must be counted together: otherwise figures depend on the order of the rows.

    Args:
        scores: (n,) floats.
        descending: highest score first.

    Returns:
        order (n,), and the last position of each of the G groups, (G,).
    """
    order = np.argsort(-scores if descending else scores, kind="stable")
    ordered = scores[order]
    ends = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), scores.size - 1)
    return order.astype(np.int64), ends.astype(np.int64)


def cumulative(values: FloatArray, ends: IntArray) -> FloatArray:
    """Running sums of sorted values (..., n) at 0 and at the end of each group: (..., G + 1)."""
    sums = np.cumsum(values, axis=-1)
    out = np.zeros((*values.shape[:-1], ends.size + 1))
    out[..., 1:] = sums if ends.size == values.shape[-1] else sums[..., ends]
    return out
