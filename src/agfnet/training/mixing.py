"""Mixup (1710.09412) for cases of several views: a case blended with another of its batch, in all its views alike."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from agfnet.data.dataset import Batch


class Blend(NamedTuple):
    """How a batch is mixed.

    Attributes:
        share: of each case itself, 0 to 1; 1: nothing is mixed.
        partner: (B,), the row of the batch that each case is blended with: one of which the same views are there, which
            may be the case itself.
    """

    share: float
    partner: Tensor

    def images(self, batch: Batch) -> dict[str, Tensor]:
        """The blended images, modality -> (B, 3, H, W)."""
        if self.share == 1.0:
            return batch.images
        return {m: torch.lerp(x[self.partner], x, self.share) for m, x in batch.images.items()}


def draw_blend(present: Tensor, concentration: float, rng: np.random.Generator) -> Blend:
    """Draw how a batch is mixed: half of the batches are not.

    Args:
        present: (B, M).
        concentration: of the Beta distribution that the share is drawn from; 0: no batch is mixed.
        rng: the same in all processes, so that they mix in the same steps.
    """
    alone = torch.arange(len(present), device=present.device)
    if concentration == 0.0 or rng.uniform() < 0.5:
        return Blend(1.0, alone)
    share = float(rng.beta(concentration, concentration))
    drawn = torch.from_numpy(rng.permutation(len(present))).to(present.device)
    return Blend(share, drawn.where((present == present[drawn]).all(1), alone))
