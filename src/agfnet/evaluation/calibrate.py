"""Fit what turns scores into probabilities that mean what they say; applying is in `agfnet.prediction.calibration`."""

from __future__ import annotations

import math

from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar

from agfnet.metrics.calibration import nll
from agfnet.metrics.weighting import check_cases
from agfnet.prediction.calibration import tempered

LIMITS = (0.05, 20.0)
"""Of a temperature: a few cases that are all right, or all wrong, would otherwise ask for 0 or infinity."""


def fit_temperature(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """The temperature with the least negative log-likelihood; Guo et al. 2017 (1706.04599).

    Args:
        labels: (n,) integers in 0 .. K-1, of cases that were not trained on.
        probabilities: (n, K) floats, rows with sum 1.

    Returns:
        A temperature within `LIMITS`.

    Raises:
        ValueError: the input is not as described.
    """
    y, p = check_cases(labels, probabilities)
    found = minimize_scalar(
        lambda log_t: float(nll(y, tempered(p, math.exp(log_t)))),
        bounds=(math.log(LIMITS[0]), math.log(LIMITS[1])),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return math.exp(float(found.x))
