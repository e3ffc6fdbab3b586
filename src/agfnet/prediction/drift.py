"""Are the cases that come in still like those that the bundle was calibrated on?"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

BINS = 10


@dataclass(frozen=True, slots=True)
class Usual:
    """What calibration cases look like to the network.

    Attributes:
        distances: modality -> (BINS - 1,) inner deciles of the distance to the training images.
        certainty: (BINS - 1,) inner deciles of the likeliest class's probability.
        predicted: (K,) shares of the predicted classes, half a case of each added.
    """

    distances: Mapping[str, tuple[float, ...]]
    certainty: tuple[float, ...]
    predicted: tuple[float, ...]


def stability_index(counts: ArrayLike, expected: ArrayLike) -> float:
    """Population stability index, sum of (a - e) ln(a / e) over bins, half a case a bin added as expected.

    By custom below 0.1 is no shift, above 0.25 a marked one. Of the same population n cases score about
    (bins - 1) (1/n + 1/m) above 0 where the shares were themselves estimated from m cases: 0.11 at n = 500, m = 100.

    Args:
        counts: (bins,) cases found in each.
        expected: (bins,) shares, each above 0, sum 1.

    >>> round(stability_index([50, 50], [0.5, 0.5]), 6)
    0.0
    """
    e = np.asarray(expected, np.float64)
    found = np.asarray(counts, np.float64) + 0.5 * len(e) * e
    a = found / found.sum()
    return float(((a - e) * np.log(a / e)).sum())


class Drift:
    """Stability indices over the last cases.

    Args:
        usual: the reference.
        window: how many cases are looked back on.
    """

    def __init__(self, usual: Usual, *, window: int = 500) -> None:
        self.usual = usual
        self._distances = {view: deque[float](maxlen=window) for view in usual.distances}
        self._certainty = deque[float](maxlen=window)
        self._predicted = deque[int](maxlen=window)

    def add(self, probabilities: NDArray[np.float64], distances: Mapping[str, float]) -> None:
        """One more case: its calibrated probabilities (K,), and the distance of each of its views."""
        self._certainty.append(float(probabilities.max()))
        self._predicted.append(int(probabilities.argmax()))
        for view, distance in distances.items():
            self._distances[view].append(distance)

    @property
    def cases(self) -> int:
        """How many cases the figures are over."""
        return len(self._predicted)

    def inputs(self) -> dict[str, float]:
        """Modality -> index of its images' distance from the training images."""
        return {view: _shift(self._distances[view], edges) for view, edges in self.usual.distances.items()}

    def outputs(self) -> dict[str, float]:
        """Index of the certainty, and of the predicted classes."""
        counts = np.bincount(np.array(self._predicted, int), minlength=len(self.usual.predicted))
        return {
            "certainty": _shift(self._certainty, self.usual.certainty),
            "predicted": stability_index(counts, self.usual.predicted),
        }


def _shift(values: Sequence[float], edges: Sequence[float]) -> float:
    counts = np.bincount(np.searchsorted(edges, np.array(values, float)), minlength=len(edges) + 1)
    return stability_index(counts, np.full(len(edges) + 1, 1.0 / (len(edges) + 1)))
