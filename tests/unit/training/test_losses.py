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


@pytest.mark.parametrize("how", ["none", "sqrt", "balanced"])
@pytest.mark.parametrize("smoothing", [0.0, 0.05])
def test_the_loss_is_least_at_the_probabilities_among_the_training_cases(how, smoothing):
    """Whatever the weights: of 1,000 cases that look alike, 900 are common ones."""
    counts = [900, 90, 10]
    loss = DiagnosisLoss([], class_weights=class_weights(counts, how), label_smoothing=smoothing)
    label = torch.arange(3).repeat_interleave(torch.tensor(counts))
    logits = torch.zeros(3, requires_grad=True)
    descent = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def step() -> torch.Tensor:
        descent.zero_grad()
        value = loss._diagnosis(logits.expand(len(label), -1), label)
        value.backward()
        return value

    descent.step(step)
    smoothed = torch.tensor([0.9, 0.09, 0.01]) * (1 - smoothing) + smoothing / 3
    assert torch.allclose(logits.softmax(0), smoothed, atol=1e-4)


def test_each_opinion_answers_for_itself():
    """The combined opinion takes what the fused and the views' own say, and asks nothing of them."""
    torch.manual_seed(0)
    network = AGFNet(3, ["a", "b"], "test_efficientnet", fusion="concatenation").eval()
    output = network({m: torch.randn(2, 3, 64, 64) for m in "ab"})
    loss = DiagnosisLoss([], view_loss=0.5)
    label, extra, present = (
        torch.tensor([0, 2]),
        torch.zeros(2, 0, dtype=torch.int64),
        torch.ones(2, 2, dtype=torch.bool),
    )
    said = [torch.nn.functional.cross_entropy(x, label) for x in (output.fused_logits, *output.view_logits.unbind(1))]
    assert loss(output, label, extra, present).item() == pytest.approx((said[0] + 0.5 * (said[1] + said[2])).item())
