from __future__ import annotations

import pytest
import torch

from agfnet.models.network import AGFNet
from agfnet.training.losses import DiagnosisLoss, class_weights


def test_class_weights():
    assert class_weights([10, 30], "none") is None
    for how, ratio in (("balanced", 3.0), ("sqrt", 3.0**0.5)):
        weight = class_weights([10, 30], how)
        assert weight[0] / weight[1] == pytest.approx(ratio)
        assert (10 * weight[0] + 30 * weight[1]) / 40 == pytest.approx(1.0)


def test_unknown_labels_and_absent_views_do_not_count():
    torch.manual_seed(0)
    network = AGFNet(3, ["a", "b"], "test_efficientnet", fusion_options={"width": 32}, extra_classes=[2]).eval()
    loss = DiagnosisLoss([2], label_smoothing=0.1)
    images = {m: torch.randn(3, 3, 64, 64) for m in "ab"}
    present = torch.tensor([[True, True], [True, False], [True, True]])
    label, extra = torch.tensor([0, 1, -1]), torch.tensor([[1], [-1], [-1]])
    whole = loss(network(images, present), label, extra, present)
    kept = {m: x[:2] for m, x in images.items()}
    known = loss(network(kept, present[:2]), label[:2], extra[:2], present[:2])
    assert whole.item() == pytest.approx(known.item(), rel=1e-5)
    none = loss(network(images, present), torch.full((3,), -1), torch.full((3, 1), -1), present)
    assert none.item() == 0.0


def test_a_rare_class_keeps_its_weight_in_a_small_batch():
    """As in the batches of several processes: the mean over them is the loss of all cases together."""
    loss = DiagnosisLoss([], class_weights=class_weights([6, 2], "balanced"))
    logits, label = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.5, 0.0], [0.0, 1.0]]), torch.tensor([0, 0, 0, 1])
    alone = torch.stack([loss._diagnosis(logits[i : i + 1], label[i : i + 1]) for i in range(4)]).mean()
    assert loss._diagnosis(logits, label).item() == pytest.approx(alone.item())


def test_class_weights_do_not_change_where_a_case_has_its_best_answer():
    """With smoothing, a certain case of the common class is best answered by just that."""
    loss = DiagnosisLoss([], class_weights=class_weights([500, 10, 0], "balanced"), label_smoothing=0.05)
    label = torch.tensor([0])
    losses = [loss._diagnosis(torch.tensor([[p, 1 - p, 1e-6]]).log(), label).item() for p in (0.6, 0.8, 0.9)]
    assert losses[0] > losses[1] > losses[2]
    assert class_weights([500, 10, 0], "balanced")[2] == 0
