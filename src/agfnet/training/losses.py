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
        counts: training cases of each class, K positive numbers.
        extra_classes: number of classes of each further label column.
        class_weights: none, sqrt or balanced; see `agfnet.config.TrainingConfig`.
        label_smoothing: share of each label, 0 to 1, that goes to all classes by their frequency.
        view_loss: weight of each view's own head, and of its local head where there is one.
        extra_loss: weight of the further labels.
    """

    frequencies: Tensor
    weights: Tensor

    def __init__(
        self,
        counts: Sequence[int],
        extra_classes: Sequence[int] = (),
        *,
        class_weights: str = "none",
        label_smoothing: float = 0.0,
        view_loss: float = 0.5,
        extra_loss: float = 0.5,
    ) -> None:
        super().__init__()
        self.extra_classes = tuple(extra_classes)
        self.label_smoothing = label_smoothing
        self.view_loss = view_loss
        self.extra_loss = extra_loss
        n = torch.tensor(counts, dtype=torch.float32)
        weights = n ** {"none": 0.0, "sqrt": -0.5, "balanced": -1.0}[class_weights]
        self.register_buffer("frequencies", n / n.sum(), persistent=False)
        self.register_buffer("weights", weights * n.sum() / (weights * n).sum(), persistent=False)

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
        """Mean over the known labels, each case weighted by its class; zero, with a gradient, where none is known.

        Weighted cross-entropy alone is least where each class has its weight times its probability. So the logarithms
        of the weights are added to the logits here, and what the network says are probabilities among the training
        cases: rare classes count more in what is learnt, not in what is said. Labels are smoothed by the frequency of
        the classes, so that this also holds for a case that tells nothing.

        The weights have a mean of 1 over the cases, so they are not divided out again in each batch: in a small one, as
        of one of several processes, a rare class would lose its weight.
        """
        known = (label != UNKNOWN).float()
        certain = F.one_hot(label.clamp(min=0), len(self.weights)).float()
        target = torch.lerp(certain, self.frequencies.expand_as(certain), self.label_smoothing)
        each = F.cross_entropy(logits.float() + self.weights.log(), target, self.weights, reduction="none")
        return (each * known).sum() / known.sum().clamp(min=1.0)

    def _further(self, logits: Tensor, extra: Tensor) -> Tensor:
        if not self.extra_classes:
            return logits.new_zeros(())
        parts = logits.float().split(self.extra_classes, dim=-1)
        return torch.stack([self._column(part, extra[:, i]) for i, part in enumerate(parts)]).mean()

    def _column(self, logits: Tensor, label: Tensor) -> Tensor:
        """Mean over the known labels of one column; zero, with a gradient, where none is known."""
        each = F.cross_entropy(
            logits, label, ignore_index=UNKNOWN, label_smoothing=self.label_smoothing, reduction="none"
        )
        return each.sum() / (label != UNKNOWN).sum().clamp(min=1)
