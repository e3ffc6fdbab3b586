"""Tests that need independent cases, and the adjustment of several p-values.

DeLong and McNemar treat cases as independent. Two lesions of one patient are not, so both refuse such data;
use `statistics.paired_difference` there.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest, rankdata

from agfnet.metrics.patients import patient_index
from agfnet.metrics.statistics import LEVEL
from agfnet.metrics.weighting import BoolArray, FloatArray, check_binary


@dataclass(frozen=True, slots=True, kw_only=True)
class DeLong:
    """Two AUCs on the same cases, first minus second with its standard error and interval, two-sided p."""

    first: float
    second: float
    difference: float
    standard_error: float
    low: float
    high: float
    p: float


@dataclass(frozen=True, slots=True, kw_only=True)
class McNemar:
    """Cases that only the first and that only the second model got right, and the exact two-sided p."""

    only_first: int
    only_second: int
    p: float


def _refuse_repeated(patients: Sequence[Hashable], n: int, test: str) -> None:
    if len(patients) != n:
        raise ValueError(f"patients must have one id for each of the {n} cases, not {len(patients)}")
    counts = np.bincount(patient_index(patients))
    if counts.max() > 1:
        row = int(np.flatnonzero(counts > 1)[0])
        patient = list(dict.fromkeys(patients))[row]
        raise ValueError(
            f"{test} needs one lesion per patient, but {int((counts > 1).sum())} have several "
            f"(first: {patient!r}): use paired_difference, which draws patients"
        )


def _placements(positive: BoolArray, scores: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Share of negatives below each positive, and share of positives above each negative."""
    m, n = int(positive.sum()), int((~positive).sum())
    ranks = rankdata(scores)
    below_each = (ranks[positive] - rankdata(scores[positive])) / n
    above_each = 1 - (ranks[~positive] - rankdata(scores[~positive])) / m
    return below_each, above_each


def delong(
    positive: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    patients: Sequence[Hashable],
    *,
    level: float = LEVEL,
) -> DeLong:
    """DeLong's test of two correlated AUCs.

    var = var(V10_first - V10_second) / m + var(V01_first - V01_second) / n, with V10 and V01 the placement
    values of the m positives and n negatives; z = difference / sqrt(var). Sources: DeLong, DeLong &
    Clarke-Pearson 1988 (doi:10.2307/2531595); ranks as in Sun & Xu 2014 (doi:10.1109/LSP.2014.2337313).

    Args:
        positive: (n,) booleans.
        first: (n,) scores of one model, higher for more likely positive.
        second: (n,) scores of the other.
        patients: (n,) ids, all different.
        level: of the interval of the difference, between 0 and 1.

    Returns:
        The AUCs (0 .. 1), their difference, its standard error and normal interval, and p. Where the variance
        is 0, p is 1 if the AUCs are equal and NaN if they are not: the test says nothing there.

    Raises:
        ValueError: a patient has more than one lesion, fewer than two positives or negatives, or bad input.

    >>> result = delong([0, 0, 0, 1, 1, 1], [1, 2, 4, 3, 5, 6], [1, 4, 5, 3, 2, 6], list("abcdef"))
    >>> round(result.first, 4), round(result.second, 4), round(result.p, 3)
    (0.8889, 0.5556, 0.221)
    """
    truth, a = check_binary(positive, first)
    _, b = check_binary(positive, second)
    _refuse_repeated(patients, truth.size, "DeLong's test")
    if truth.sum() < 2 or (~truth).sum() < 2:
        raise ValueError("DeLong's test needs at least two positives and two negatives")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, not {level}")
    a10, a01 = _placements(truth, a)
    b10, b01 = _placements(truth, b)
    auc_a, auc_b = float(a10.mean()), float(b10.mean())
    difference = auc_a - auc_b
    variance = np.var(a10 - b10, ddof=1) / a10.size + np.var(a01 - b01, ddof=1) / a01.size
    error = math.sqrt(variance) if variance > 1e-20 else 0.0
    if error > 0:
        p = math.erfc(abs(difference) / error / math.sqrt(2))
    else:
        p = 1.0 if abs(difference) < 1e-12 else math.nan
    reach = NormalDist().inv_cdf((1 + level) / 2) * error
    return DeLong(
        first=auc_a,
        second=auc_b,
        difference=difference,
        standard_error=error,
        low=difference - reach,
        high=difference + reach,
        p=p,
    )


def mcnemar(first_right: ArrayLike, second_right: ArrayLike, patients: Sequence[Hashable]) -> McNemar:
    """McNemar's test of two accuracies on the same cases.

    Only the discordant cases count, b right by the first alone and c by the second alone: p is that of b of b + c
    in a binomial distribution with a chance of 1/2, two-sided and exact. Source: McNemar 1947
    (doi:10.1007/BF02295996).

    Args:
        first_right: (n,) booleans, whether the first model got each case right.
        second_right: (n,) booleans, the same for the second.
        patients: (n,) ids, all different.

    Returns:
        The discordant counts and p; p is 1 where no case is discordant.

    Raises:
        ValueError: a patient has more than one lesion, or bad input.

    >>> mcnemar([1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0], range(6)).p
    0.0625
    """
    a, b = np.asarray(first_right), np.asarray(second_right)
    if a.ndim != 1 or a.shape != b.shape or a.size == 0:
        raise ValueError(f"both models need the same cases, at least one, not shapes {a.shape} and {b.shape}")
    if not (np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all()):
        raise ValueError("right or wrong must be given as True and False (or 1 and 0)")
    _refuse_repeated(patients, a.size, "McNemar's test")
    only_a, only_b = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
    p = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return McNemar(only_first=only_a, only_second=only_b, p=p)


def holm(p_values: ArrayLike) -> FloatArray:
    """Holm's step-down adjustment for a family of tests.

    In ascending order, adjusted p_(i) = max over j <= i of min(1, (m - j + 1) p_(j)): rejecting where it is
    at most alpha keeps the chance of any false rejection at alpha. Source: Holm 1979.

    Args:
        p_values: (m,) in 0 .. 1.

    Returns:
        (m,) adjusted, in the order given.

    Raises:
        ValueError: not one-dimensional, or a value that is NaN or outside 0 .. 1 (leave undefined tests out
            of the family).

    >>> [round(float(p), 4) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1:
        raise ValueError(f"p_values must have the shape (tests,), not {p.shape}")
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("every p-value must be in 0 .. 1: leave undefined tests out of the family")
    order = np.argsort(p, kind="stable")
    steps = np.minimum(1.0, p[order] * np.arange(p.size, 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(steps)
    return adjusted
