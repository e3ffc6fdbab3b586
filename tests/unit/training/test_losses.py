from __future__ import annotations

import numpy as np
import pytest
import torch

from agfnet.models.network import AGFNet
from agfnet.prediction.calibration import reweighted
from agfnet.training.losses import DiagnosisLoss


def test_class_weights():
    assert torch.equal(DiagnosisLoss([10, 30]).weights, torch.ones(2))
    for how, ratio in (("balanced", 3.0), ("sqrt", 3.0**0.5)):
        weight = DiagnosisLoss([10, 30], class_weights=how).weights
        assert weight[0] / weight[1] == pytest.approx(ratio)
        assert (10 * weight[0] + 30 * weight[1]) / 40 == pytest.approx(1.0)


def test_unknown_labels_and_absent_views_do_not_count():
    torch.manual_seed(0)
    network = AGFNet(3, ["a", "b"], "test_efficientnet", fusion_options={"width": 32}, extra_classes=[2]).eval()
    loss = DiagnosisLoss([5, 3, 1], [2], label_smoothing=0.1)
    images = {m: torch.randn(3, 3, 64, 64) for m in "ab"}
    present = torch.tensor([[True, True], [True, False], [True, True]])
    label, extra = torch.tensor([0, 1, -1]), torch.tensor([[1], [-1], [-1]])
    whole = loss(network(images, present), label, extra, present)
    kept = {m: x[:2] for m, x in images.items()}
    known = loss(network(kept, present[:2]), label[:2], extra[:2], present[:2])
    assert whole.item() == pytest.approx(known.item(), rel=1e-5)
    unlike = {**images, "b": images["b"].clone()}
    unlike["b"][1] = 7.0  # where the view is absent
    assert loss(network(unlike, present), label, extra, present).item() == pytest.approx(whole.item(), rel=1e-6)
    none = loss(network(images, present), torch.full((3,), -1), torch.full((3, 1), -1), present)
    assert none.item() == 0.0


def test_a_rare_class_keeps_its_weight_in_a_small_batch():
    """As in the batches of several processes: the mean over them is the loss of all cases together."""
    loss = DiagnosisLoss([6, 2], class_weights="balanced")
    logits, label = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.5, 0.0], [0.0, 1.0]]), torch.tensor([0, 0, 0, 1])
    alone = torch.stack([loss._diagnosis(logits[i : i + 1], label[i : i + 1]) for i in range(4)]).mean()
    assert loss._diagnosis(logits, label).item() == pytest.approx(alone.item())


def best_answer(loss: DiagnosisLoss, label: torch.Tensor) -> torch.Tensor:
    """The probabilities (K,) for which the loss of cases that look alike is least."""
    logits = torch.zeros(len(loss.weights), requires_grad=True)
    descent = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def step() -> torch.Tensor:
        descent.zero_grad()
        value = loss._diagnosis(logits.expand(len(label), -1), label)
        value.backward()
        return value

    descent.step(step)
    return logits.detach().softmax(0)


@pytest.mark.parametrize("how", ["none", "sqrt", "balanced"])
@pytest.mark.parametrize("smoothing", [0.0, 0.05])
def test_the_loss_is_least_at_the_probabilities_among_the_training_cases(how, smoothing):
    """Of 1,000 cases that look alike, whatever the weights and the smoothing."""
    counts = [900, 90, 10]
    loss = DiagnosisLoss(counts, class_weights=how, label_smoothing=smoothing)
    label = torch.arange(3).repeat_interleave(torch.tensor(counts))
    assert torch.allclose(best_answer(loss, label), torch.tensor([0.9, 0.09, 0.01]), atol=1e-4)


@pytest.mark.parametrize("how", ["none", "sqrt", "balanced"])
def test_a_certain_case_is_answered_as_what_it_is(how):
    """Smoothing holds its probability down, but neither a rare class nor a common one is drowned, whoever is asked."""
    counts = [970, 20, 10]
    loss = DiagnosisLoss(counts, class_weights=how, label_smoothing=0.05)
    for c in range(3):
        said = best_answer(loss, torch.tensor([c])).double().numpy()
        equal = reweighted(said, np.array(counts) / 1000, np.ones(3))
        assert said[c] > 0.94
        assert equal[c] > 0.9


def test_each_opinion_answers_for_itself():
    """The combined opinion takes what the fused and the views' own say, and asks nothing of them."""
    torch.manual_seed(0)
    network = AGFNet(3, ["a", "b"], "test_efficientnet", fusion="concatenation").eval()
    output = network({m: torch.randn(2, 3, 64, 64) for m in "ab"})
    loss = DiagnosisLoss([1, 1, 1], view_loss=0.5)
    label, extra, present = (
        torch.tensor([0, 2]),
        torch.zeros(2, 0, dtype=torch.int64),
        torch.ones(2, 2, dtype=torch.bool),
    )
    said = [torch.nn.functional.cross_entropy(x, label) for x in (output.fused_logits, *output.view_logits.unbind(1))]
    assert loss(output, label, extra, present).item() == pytest.approx((said[0] + 0.5 * (said[1] + said[2])).item())


def test_the_loss_is_the_sum_of_its_parts_over_the_views_that_are_there():
    torch.manual_seed(0)
    options = {"fusion_options": {"width": 32}, "extra_classes": [2, 4]}
    network = AGFNet(3, ["a", "b"], "test_efficientnet", **options).eval()
    for name, parameter in network.named_parameters():
        if "head" in name:
            torch.nn.init.normal_(parameter)
    present = torch.tensor([[True, True], [True, False]])
    out = network({m: torch.randn(2, 3, 64, 64) for m in "ab"}, present)
    label, extra, entropy = torch.tensor([0, 2]), torch.tensor([[1, 3], [0, 2]]), torch.nn.functional.cross_entropy

    def further(logits):
        n = len(logits)
        return (entropy(logits[:, :2], extra[:n, 0]) + entropy(logits[:, 2:], extra[:n, 1])) / 2

    wanted = entropy(out.fused_logits, label) + 0.3 * further(out.extra_logits)
    for i, n in ((0, 2), (1, 1)):
        own, local = entropy(out.view_logits[:n, i], label[:n]), entropy(out.local_logits[:n, i], label[:n])
        wanted = wanted + 0.7 * (own + local + 0.3 * further(out.view_extra_logits[:n, i]))
    made = DiagnosisLoss([1, 1, 1], [2, 4], view_loss=0.7, extra_loss=0.3)(out, label, extra, present)
    assert made.item() == pytest.approx(wanted.item(), rel=1e-5)
