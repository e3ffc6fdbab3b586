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
        self._last = deque[tuple[float, int, Mapping[str, float]]](maxlen=window)

    def add(self, probabilities: NDArray[np.float64], distances: Mapping[str, float]) -> None:
        """One more case: its calibrated probabilities (K,), and the distance of each of its views."""
        self._last.append((float(probabilities.max()), int(probabilities.argmax()), dict(distances)))

    @property
    def cases(self) -> int:
        """How many cases the indices of the outputs are over."""
        return len(self._last)

    def cases_with(self) -> dict[str, int]:
        """Modality -> how many of them have it: the cases that the index of its images is over."""
        return {view: len(self._distances(view)) for view in self.usual.distances}

    def inputs(self) -> dict[str, float]:
        """Modality -> index of its images' distance from the training images."""
        return {view: _shift(self._distances(view), edges) for view, edges in self.usual.distances.items()}

    def _distances(self, view: str) -> list[float]:
        return [distances[view] for *_, distances in self._last if view in distances]

    def outputs(self) -> dict[str, float]:
        """Index of the certainty, and of the predicted classes."""
        counts = np.bincount([predicted for _, predicted, _ in self._last], minlength=len(self.usual.predicted))
        return {
            "certainty": _shift([certainty for certainty, *_ in self._last], self.usual.certainty),
            "predicted": stability_index(counts, self.usual.predicted),
        }


def _shift(values: Sequence[float], edges: Sequence[float]) -> float:
    counts = np.bincount(np.searchsorted(edges, np.array(values, float)), minlength=len(edges) + 1)
    return stability_index(counts, np.full(len(edges) + 1, 1.0 / (len(edges) + 1)))
