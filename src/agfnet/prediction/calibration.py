"""Apply what was fitted on calibration cases; fitting is in `agfnet.evaluation.calibrate`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def tempered(probabilities: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Probabilities at another temperature, p ** (1 / T), scaled to sum 1; Guo et al. 2017 (1706.04599).

    Args:
        probabilities: (..., K), rows with sum 1.
        temperature: above 1 less sure, below 1 more sure; 1 changes nothing.

    Raises:
        ValueError: the temperature is not positive.

    >>> import numpy as np
    >>> tempered(np.array([0.8, 0.2]), 2.0).round(4).tolist()
    [0.6667, 0.3333]
    """
    if not temperature > 0.0:
        raise ValueError(f"a temperature is positive, not {temperature}")
    logits = np.log(np.clip(probabilities, 1e-300, None)) / temperature
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))
