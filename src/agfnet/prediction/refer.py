"""Answer, or hand the case back: too unsure, the views disagree, or the image is unlike those that were trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agfnet.types import Reason


@dataclass(frozen=True, slots=True)
class Reference:
    """What a view's training images look like to its encoder half way up: one Gaussian of its channels' statistics.

    Half way, since the last layers see what tells the classes apart and little else: a blank or a grey picture can lie
    among the training images there (Lee et al. 2018, 1807.03888, take several layers for this).

    Attributes:
        mean: (D,) of the training images' statistics; see `channel_statistics`.
        whiten: (D, D), so that |whiten (x - mean)| is the Mahalanobis distance.
        limit: distance above which an image is strange.
    """

    mean: NDArray[np.float32]
    whiten: NDArray[np.float32]
    limit: float

    def distance(self, statistics: NDArray[np.float32]) -> NDArray[np.float64]:
        """Distance (...) of an image's statistics (..., D)."""
        apart = statistics.astype(np.float64) - self.mean
        return np.asarray(np.linalg.norm(apart @ self.whiten.T.astype(np.float64), axis=-1))

    def farthest(self, statistics: NDArray[np.float32]) -> float:
        """Distance of the farthest of a view's images (I, D): one strange image among several is strange."""
        return float(self.distance(statistics).max())


@dataclass(frozen=True, slots=True)
class ReferRule:
    """When a case is handed back.

    Attributes:
        disagreement: largest Jensen-Shannon divergence of the views' opinions of an answered case, nats.
        references: modality -> reference.
    """

    disagreement: float
    references: Mapping[str, Reference]

    def reasons(self, *, sure: bool, disagreement: float, distances: Mapping[str, float]) -> tuple[Reason, ...]:
        """Why one case is referred; empty: it is answered.

        Args:
            sure: whether the likeliest class is likely enough.
            disagreement: see `disagreement`.
            distances: modality -> distance.
        """
        found = [] if sure else [Reason("unsure")]
        # What is no number is referred.
        found += [] if disagreement <= self.disagreement else [Reason("disagree")]
        strange = [view for view, distance in distances.items() if not distance <= self.references[view].limit]
        return (*found, *(Reason("strange", view) for view in strange))


def disagreement(opinions: Sequence[NDArray[np.float64]]) -> float:
    """Jensen-Shannon divergence of the views' opinions, each (K,), in nats: 0 (agree, or only one) to ln(number).

    >>> import numpy as np
    >>> round(disagreement([np.array([1.0, 0.0]), np.array([0.0, 1.0])]), 4)
    0.6931
    """
    if len(opinions) < 2:
        return 0.0
    p = np.stack(opinions)
    return max(0.0, float(_entropy(p.mean(0)) - _entropy(p).mean()))


def _entropy(p: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(-(p * np.log(np.where(p > 0.0, p, 1.0))).sum(-1))
