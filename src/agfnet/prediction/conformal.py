"""Conformal prediction sets: classes among which the true one is, at a chosen coverage. Fitting is in `evaluation`.

The score of a class is 1 - p (least ambiguous sets, Sadinle et al. 2019); split conformal prediction (Vovk et al. 2005;
class-conditional: Mondrian). The promise holds for cases that are exchangeable with the calibration cases.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Conformal:
    """Thresholds of prediction sets.

    Attributes:
        marginal: a class is in the marginal set where its 1 - p is at most this.
        per_class: (K,) the same, class by class, for sets that cover every class alike; None where some class had too
            few calibration cases.
        counts: (K,) calibration cases of each class.
    """

    marginal: float
    per_class: tuple[float, ...] | None
    counts: tuple[int, ...]

    def sets(self, probabilities: NDArray[np.float64], *, class_conditional: bool = True) -> NDArray[np.bool_]:
        """Which classes are in the set of each case, (..., K); the likeliest class always is.

        Args:
            probabilities: (..., K), calibrated as those that the thresholds were fitted on.
            class_conditional: by class where there are such thresholds; else marginal.
        """
        limit = np.asarray(self.per_class if class_conditional and self.per_class else self.marginal)
        inside = 1.0 - probabilities <= limit + 1e-12
        return np.asarray(inside | (probabilities == probabilities.max(-1, keepdims=True)))
