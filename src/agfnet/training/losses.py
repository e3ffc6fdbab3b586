"""The diagnosis loss of one forward pass: the fused and each view's opinion, and the further labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from agfnet.data.dataset import UNKNOWN
from agfnet.models.network import Output


class DiagnosisLoss(nn.Module):
    """Cross-entropy of every opinion, each by itself: their combination has nothing to learn.

    Args:
        extra_classes: number of classes of each further label column.
        class_weights: (K,) weight of each class, or None.
        label_smoothing: 0 to 1.
        view_loss: weight of each view's own head, and of its local head where there is one.
        extra_loss: weight of the further labels.
    """

    def __init__(
        self,
        extra_classes: Sequence[int],
        *,
        class_weights: Tensor | None = None,
        label_smoothing: float = 0.0,
        view_loss: float = 0.5,
        extra_loss: float = 0.5,
    ) -> None:
        super().__init__()
        self.extra_classes = tuple(extra_classes)
        self.label_smoothing = label_smoothing
        self.view_loss = view_loss
        self.extra_loss = extra_loss
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, output: Output, label: Tensor, extra: Tensor, present: Tensor) -> Tensor:
        """The loss, a scalar, from labels (B,), further labels (B, E) and presence (B, M).

        Absent views and unknown labels do not count.
        """
        loss = self._diagnosis(output.fused_logits, label) + self.extra_loss * self._further(output.extra_logits, extra)
        for i in range(present.shape[1]):
            seen = present[:, i]
            alone = self._diagnosis(output.view_logits[:, i], label.where(seen, UNKNOWN))
            further = self._further(output.view_extra_logits[:, i], extra.where(seen[:, None], UNKNOWN))
            loss = loss + self.view_loss * (alone + self.extra_loss * further)
            if output.local_logits.shape[1]:
                local = self._diagnosis(output.local_logits[:, i], label.where(seen, UNKNOWN))
                loss = loss + self.view_loss * local
        return loss

    def _diagnosis(self, logits: Tensor, label: Tensor) -> Tensor:
        weights = self.class_weights
        return _cross_entropy(logits, label, weights if isinstance(weights, Tensor) else None, self.label_smoothing)

    def _further(self, logits: Tensor, extra: Tensor) -> Tensor:
        if not self.extra_classes:
            return logits.new_zeros(())
        parts = logits.split(self.extra_classes, dim=-1)
        terms = [_cross_entropy(p, extra[:, i], None, self.label_smoothing) for i, p in enumerate(parts)]
        return torch.stack(terms).mean()


def _cross_entropy(logits: Tensor, label: Tensor, weight: Tensor | None, smoothing: float) -> Tensor:
    """Mean over the known labels, each case weighted by its class; zero, with a gradient, where none is known.

    Weighted cross-entropy alone is least where each class has its weight times its probability. So the logarithms of
    the weights are added to the logits here, and what the network says are probabilities under the training cases' own
    prevalence: rare classes count more in what is learnt, not in what is said (as in logit adjustment, 2007.07314).

    The weights have a mean of 1 over the cases, so they are not divided out again in each batch: in a small one, as of
    one of several processes, a rare class would lose its weight.
    """
    shifted = logits.float() if weight is None else logits.float() + weight.log()
    each = F.cross_entropy(shifted, label, weight, ignore_index=UNKNOWN, label_smoothing=smoothing, reduction="none")
    return each.sum() / (label != UNKNOWN).sum().clamp(min=1)


def class_weights(counts: Sequence[int], how: str) -> Tensor | None:
    """Weights (K,) with a mean of 1 over the cases, from positive counts (K,); `how` is none, sqrt or balanced."""
    if how == "none":
        return None
    n = torch.tensor(counts, dtype=torch.float32)
    weight = 1.0 / (n.sqrt() if how == "sqrt" else n)
    return weight * n.sum() / (weight * n).sum()
