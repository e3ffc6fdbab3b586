from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from agfnet.config import ReconstructionConfig, TrainingConfig
from agfnet.data.dataset import UNKNOWN, Batch
from agfnet.metrics.classification import accuracy, balanced_accuracy
from agfnet.metrics.ranking import macro_auc
from agfnet.models.network import AGFNet
from agfnet.training.mixing import Blend, draw_blend
from agfnet.training.module import LesionModule, decays
from agfnet.training.reconstruction import choose_hidden, consistency_loss, focus_loss


def module_of(**recipe):
    network = AGFNet(4, ["a", "b"], "test_efficientnet", fusion_options={"width": 32})
    return LesionModule(network, TrainingConfig(**recipe), ReconstructionConfig())


def test_figures_of_an_epoch_are_those_of_every_evaluation(monkeypatch):
    """Over all batches, a class without a case and cases without a label left out."""
    module = module_of().eval()
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 1, 2, 0, 1, UNKNOWN, 2, 0, 1, 2, 2, 0])
    images = {m: torch.randn(12, 3, 64, 64, generator=generator) for m in "ab"}
    present = torch.ones(12, 2, dtype=torch.bool)
    with torch.no_grad():
        torch.nn.init.normal_(module.network.head.weight, generator=generator)
        for rows in (slice(0, 5), slice(5, 12)):
            part = {m: x[rows] for m, x in images.items()}
            none = torch.zeros(len(labels[rows]), 0, dtype=torch.int64)
            module.validation_step(Batch(part, present[rows], labels[rows], none), 0)
        p = module.network(images, present).logits.softmax(-1).double().numpy()
    told = {}
    monkeypatch.setattr(module, "log_dict", lambda figures, **_: told.update(figures))
    module.on_validation_epoch_end()
    known = labels.numpy() != UNKNOWN
    y, p = labels.numpy()[known], p[known]
    assert told["val_cases"] == 11
    assert told["val_loss"] == pytest.approx(-np.log(p[np.arange(11), y]).mean(), rel=1e-4)
    for name, metric in (("accuracy", accuracy), ("balanced_accuracy", balanced_accuracy), ("auc", macro_auc)):
        assert told[f"val_{name}"] == pytest.approx(float(metric(y, p)), abs=1e-6)


def test_cases_are_blended_with_those_of_the_same_views():
    present = torch.tensor([[1, 1], [1, 0], [1, 1], [0, 1], [1, 0], [1, 1]], dtype=torch.bool)
    images = {m: torch.rand(6, 3, 8, 8) * present[:, i, None, None, None] for i, m in enumerate("ab")}
    batch = Batch(images, present, torch.arange(6), torch.zeros(6, 0, dtype=torch.int64))
    shares, moved = [], 0
    for seed in range(200):
        blend = draw_blend(present, 0.4, np.random.default_rng(seed))
        shares.append(blend.share)
        moved += int((blend.partner != torch.arange(6)).sum())
        assert torch.equal(present[blend.partner], present)
        for m, made in blend.images(batch).items():
            expected = blend.share * images[m] + (1 - blend.share) * images[m][blend.partner]
            assert torch.allclose(made, expected, atol=1e-6)
    assert 70 < sum(share == 1.0 for share in shares) < 130
    assert moved > 100
    assert draw_blend(present, 0.0, np.random.default_rng(0)).share == 1.0


def test_the_loss_of_blended_cases_is_blended():
    module = module_of()
    output = module.network({m: torch.randn(3, 3, 64, 64) for m in "ab"})
    present, none = torch.ones(3, 2, dtype=torch.bool), torch.zeros(3, 0, dtype=torch.int64)
    batch = Batch({}, present, torch.tensor([0, 1, 3]), none)
    partner = torch.tensor([1, 2, 0])
    own, other = (module.loss(output, label, none, present) for label in (batch.label, batch.label[partner]))
    assert own.item() != pytest.approx(other.item())
    assert module._diagnosis(output, batch, Blend(1.0, torch.arange(3))).item() == pytest.approx(own.item())
    assert module._diagnosis(output, batch, Blend(0.25, partner)).item() == pytest.approx(
        0.25 * own.item() + 0.75 * other.item()
    )


def test_frl_adds_its_losses_by_their_weights(monkeypatch):
    """The second diagnosis is pulled to the first, never the first to the second."""
    frl = ReconstructionConfig(second_view=2.0, reconstruction=3.0, consistency=5.0, focus=7.0, hide=0.4, policy="top")
    network = AGFNet(4, ["a", "b"], "test_efficientnet", fusion_options={"width": 32}, dropout=0.0)
    torch.nn.init.normal_(network.head.weight)
    made = LesionModule(network, TrainingConfig(), frl).eval()
    present, none = torch.ones(3, 2, dtype=torch.bool), torch.zeros(3, 0, dtype=torch.int64)
    batch = Batch({m: torch.randn(3, 3, 64, 64) for m in "ab"}, present, torch.tensor([0, 1, 3]), none)
    pyramids = network.encode(batch.images, present)
    first = network.fuse(pyramids, present)
    first = first._replace(logits=first.logits.detach().requires_grad_())
    asked, completed = [], []

    def noted(evidence, fraction, policy):
        asked.append((fraction, policy))
        return choose_hidden(evidence, fraction, policy)

    monkeypatch.setattr("agfnet.training.module.choose_hidden", noted)
    made.decoder.register_forward_hook(lambda _module, _inputs, output: completed.append(output))
    parts = made._reconstructed(pyramids, first, batch, begun=True)
    assert asked == [(0.4, "top")] * 2
    second = network.fuse(completed[0].pyramids, present)
    assert {name: value.item() for name, value in parts.items()} == pytest.approx({
        "second": 2.0 * made.loss(second, batch.label, none, present).item(),
        "reconstruction": 3.0 * completed[0].loss.item(),
        "consistency": 5.0 * consistency_loss(first.logits, second.logits).item(),
        "focus": 7.0 * focus_loss(first, second, batch.label, present).item(),
    }, rel=1e-4)  # fmt: skip
    assert parts["consistency"].item() > 0
    (gradient,) = torch.autograd.grad(parts["consistency"], first.logits, allow_unused=True)
    assert gradient is None
    assert list(made._reconstructed(pyramids, first, batch, begun=False)) == ["reconstruction"]


def test_the_decoders_gradient_has_no_say_in_the_networks_step():
    made = module_of(clip=1.0)
    for part, size in ((made.network, 0.5), (made.decoder, 1000.0)):
        for parameter in part.parameters():
            parameter.grad = torch.full_like(parameter, size / sum(p.numel() for p in part.parameters()) ** 0.5)
    before = [p.grad.clone() for p in made.network.parameters()]
    made.configure_gradient_clipping(torch.optim.SGD(made.parameters(), 0.1))
    assert all(torch.equal(p.grad, b) for p, b in zip(made.network.parameters(), before, strict=True))
    norm = torch.stack([p.grad.square().sum() for p in made.decoder.parameters()]).sum().sqrt()
    assert norm.item() == pytest.approx(1.0, rel=1e-3)


def test_processes_share_the_mean_of_their_running_statistics(monkeypatch):
    module = module_of()
    norms = [m for m in module.network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for i, norm in enumerate(norms):
        norm.running_mean.fill_(i)
        norm.running_var.fill_(2.0 + i)
    other = SimpleNamespace(reduce=lambda own, reduce_op: {"mean": (own + 10.0) / 2}[reduce_op])  # it has 10 everywhere
    monkeypatch.setattr(LesionModule, "trainer", SimpleNamespace(world_size=2, strategy=other))
    module.on_after_backward()
    assert norms
    for i, norm in enumerate(norms):
        assert torch.all(norm.running_mean == (i + 10.0) / 2)
        assert torch.all(norm.running_var == (i + 12.0) / 2)


def test_rates_and_decay(monkeypatch):
    """Encoders learn slower, matrices alone decay; the rate rises over the warm-up and falls along a cosine."""
    module = module_of(learning_rate=2e-3, encoder_rate=0.25, weight_decay=0.1, warmup=0.2)
    monkeypatch.setattr(LesionModule, "trainer", SimpleNamespace(estimated_stepping_batches=50))
    made = module.configure_optimizers()
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    assert made["lr_scheduler"]["interval"] == "step"
    of = {id(p): g for g in optimizer.param_groups for p in g["params"]}
    assert len(of) == sum(1 for _ in module.parameters())
    for name, parameter in module.named_parameters():
        group = of[id(parameter)]
        assert group["initial_lr"] == pytest.approx(5e-4 if name.startswith("network.encoders.") else 2e-3)
        assert group["weight_decay"] == (0.1 if decays(parameter) else 0.0)
    assert decays(torch.nn.Linear(3, 2).weight)
    assert decays(torch.nn.Conv2d(4, 4, 3).weight)
    assert not decays(torch.nn.Linear(3, 2).bias)
    assert not decays(torch.nn.Conv2d(4, 4, 3, groups=4).weight)
    rates = []
    for _ in range(50):
        rates.append(optimizer.param_groups[-1]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:10] == pytest.approx([2e-4 * (i + 1) for i in range(10)])
    assert rates[10] == pytest.approx(2e-3)
    assert rates[30] == pytest.approx(1e-3)
    assert rates[49] < 5e-6
    assert all(np.diff(rates[10:]) < 0)


def test_steps_draw_by_seed_epoch_step_and_process(monkeypatch):
    drawn = []
    keys = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 0, 0, 0)]
    for seed, epoch, step, rank in keys:
        monkeypatch.setattr(LesionModule, "current_epoch", epoch)
        monkeypatch.setattr(LesionModule, "global_rank", rank)
        module_of(seed=seed).on_train_batch_start(None, step)
        drawn.append(tuple(torch.rand(4).tolist()))
    assert drawn[0] == drawn[-1]
    assert len(set(drawn)) == 5


def test_learned_queries_are_no_matrix():
    assert not decays(torch.nn.Parameter(torch.zeros(1, 4, 8)))
    assert not decays(torch.nn.Linear(8, 1).weight)
