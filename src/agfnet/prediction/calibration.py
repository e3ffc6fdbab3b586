"""Probabilities that mean what they say: apply what was fitted on calibration cases, and state another prevalence.

Fitting is in `agfnet.evaluation.fitting`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def tempered(probabilities: NDArray[np.float64], temperature: float | Sequence[float]) -> NDArray[np.float64]:
    """Probabilities at another temperature, p_k ** (1 / T_k), scaled to sum 1; Guo et al. 2017 (1706.04599).

    Args:
        probabilities: (..., K), rows with sum 1.
        temperature: one for all classes, or (K,): above 1 less sure, below 1 more sure; 1 changes nothing.

    Raises:
        ValueError: a temperature is not positive.

    >>> import numpy as np
    >>> tempered(np.array([0.8, 0.2]), 2.0).round(4).tolist()
    [0.6667, 0.3333]
    """
    t = np.asarray(temperature, np.float64)
    if not (t > 0.0).all():
        raise ValueError(f"a temperature is positive, not {temperature}")
    logits = np.log(np.clip(probabilities, 1e-300, None)) / t
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def calibrated(
    probabilities: NDArray[np.float64],
    temperature: float | Sequence[float],
    learnt: NDArray[np.float64],
    stated: NDArray[np.float64],
) -> NDArray[np.float64]:
    """A network's probabilities (..., K) as they are answered: tempered, then re-weighted from what it learnt.

    Args:
        probabilities: see `tempered`.
        temperature: see `tempered`.
        learnt: (K,) prevalence, see `reweighted`.
        stated: (K,) prevalence of the patients that are asked about.
    """
    return reweighted(tempered(probabilities, temperature), learnt, stated)


def reweighted(
    probabilities: NDArray[np.float64], known: NDArray[np.float64], stated: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Probabilities under another prevalence, p_k * stated_k / known_k, scaled to sum 1; Saerens et al. 2002.

    Right where only the prevalence differs: each class looks as it did.

    Args:
        probabilities: (..., K), right under the prevalence `known`.
        known: (K,), positive.
        stated: (K,), not negative, not all zero.

    Raises:
        ValueError: a prevalence is not as described.

    >>> import numpy as np
    >>> reweighted(np.array([0.5, 0.5]), np.array([0.5, 0.5]), np.array([0.9, 0.1])).tolist()
    [0.9, 0.1]
    """
    if not ((known > 0.0).all() and (stated >= 0.0).all() and stated.sum() > 0.0):
        raise ValueError("prevalences are positive; a stated one may be 0 for some classes")
    odds = probabilities * (stated / stated.sum()) / (known / known.sum())
    return np.asarray(odds / odds.sum(-1, keepdims=True))
