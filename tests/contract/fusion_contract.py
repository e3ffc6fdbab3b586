"""What every fusion module must do; a new one inherits this class and names itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from agfnet.export.onnx import TOLERANCE, example, export_graph, output_names, parity
from agfnet.models.encoders import STRIDES
from agfnet.models.network import AGFNet
from agfnet.training.losses import DiagnosisLoss
from agfnet.training.reconstruction import FeatureReconstruction, choose_hidden, class_evidence


class PlainEncoder(nn.Module):
    """Maps of the right shapes by one convolution each; what real encoders export to is a test of whole runs."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Conv2d(3, c, s, stride=s) for c, s in zip(channels, STRIDES, strict=True))

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [convolve(images) for convolve in self.maps]


SIZES = {"clinical": (64, 96), "ultrasound": (96, 64), "doppler": (64, 64)}
UNEQUAL = {"clinical": (64, 64), "ultrasound": (64, 128), "doppler": (96, 64)}
"""Windows of one view are larger than those of another, whose slots are padded."""


class FusionContract:
    """Inherit, and set `fusion` (and `options`)."""

    fusion: ClassVar[str] = ""
    options: ClassVar[dict[str, object]] = {}

    def network(self, views: int = 2, seed: int = 0) -> AGFNet:
        torch.manual_seed(seed)
        return AGFNet(
            4,
            list(SIZES)[:views],
            "test_efficientnet",
            fusion=self.fusion,
            fusion_options=self.options,
            extra_classes=[3],
        )

    def batch(self, network: AGFNet, batch: int = 3, sizes: dict[str, tuple[int, int]] | None = None):
        *images, present = example(network, sizes or SIZES, batch)
        return dict(zip(network.modalities, images, strict=True)), torch.ones_like(present)

    @pytest.mark.parametrize("views", [1, 2, 3])
    def test_any_number_of_views(self, views):
        network = self.network(views)
        images, present = self.batch(network)
        output = network(images, present)
        assert output.logits.shape == (3, 4)
        assert output.view_logits.shape == (3, views, 4)
        assert torch.allclose(output.weights.sum(1), torch.ones(3))
        output.logits.sum().backward()

    @pytest.mark.parametrize("size", [(65, 97), (71, 128), (33, 33)])
    def test_odd_sizes(self, size):
        network = self.network()
        images, present = self.batch(network, sizes={"clinical": size, "ultrasound": size[::-1]})
        output = network(images, present)
        output.logits.sum().backward()
        assert output.logits.isfinite().all()
        for maps in output.attention:
            assert all(((m > 0) & (m < 1)).all() for m in maps)

    def test_a_single_case_in_evaluation(self):
        network = self.network().eval()
        images, present = self.batch(network, batch=1)
        assert network(images, present).logits.exp().sum().item() == pytest.approx(1.0, abs=1e-5)

    @pytest.mark.parametrize("absent", [0, 1])
    def test_an_absent_view_gives_no_gradient_to_its_encoder(self, absent):
        network = self.network()
        images, present = self.batch(network)
        present[:, absent] = False
        output = network(images, present)
        output.logits.sum().backward()
        assert output.logits.isfinite().all()
        for i, encoder in enumerate(network.encoders.values()):
            moved = any(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())
            assert moved == (i != absent)

    @pytest.mark.parametrize("training", [True, False])
    @pytest.mark.parametrize(("views", "absent"), [(2, 0), (2, 1), (3, 0), (3, 1), (3, 2)])
    def test_an_absent_view_cannot_be_seen(self, training, views, absent):
        network = self.network(views).train(training)
        network.dropout.p = 0.0
        name = network.modalities[absent]
        images, present = self.batch(network, sizes=UNEQUAL)
        present[1, absent] = False
        torch.manual_seed(0)
        before = network(images, present)
        changed = images | {name: images[name].clone()}
        changed[name][1] = 7.0
        torch.manual_seed(0)
        after = network(changed, present)
        assert torch.equal(before.logits, after.logits)
        assert torch.equal(before.fused_logits, after.fused_logits)

    def test_views_answer_together(self):
        """What one adds depends on the other: not so where features are only put side by side."""
        network = self.network().eval()
        images, present = self.batch(network, batch=2)
        one = network.encode(images, present)
        two = [[m.flip(0) for m in maps] for maps in one]

        def fused(first, second):
            pyramids = [first[0], second[1]]
            return network.fusion(pyramids, [maps[-1].mean((2, 3)) for maps in pyramids], present).features

        together = fused(one, two) + fused(two, one) - fused(one, one) - fused(two, two)
        assert (together.abs().max().item() > 1e-5) == (self.fusion != "concatenation")

    def test_batch_statistics_come_from_present_views_only(self):
        network = self.network()
        images, present = self.batch(network, batch=4)
        present[2:, 1] = False
        network(images, present)
        with_absent = {k: v.clone() for k, v in network.encoders["ultrasound"].state_dict().items()}
        fresh = self.network()
        fresh({m: x[:2] for m, x in images.items()}, present[:2])
        for name, value in fresh.encoders["ultrasound"].state_dict().items():
            assert torch.allclose(with_absent[name].float(), value.float(), atol=1e-5), name

    def test_permuting_the_batch_permutes_the_output(self):
        network = self.network().eval()
        images, present = self.batch(network)
        present[0, 1] = False
        order = torch.tensor([2, 0, 1])
        straight = network(images, present)
        permuted = network({m: x[order] for m, x in images.items()}, present[order])
        assert torch.allclose(straight.logits[order], permuted.logits, atol=1e-5)

    def test_state_dict_through_safetensors(self):
        network, other = self.network(seed=0).eval(), self.network(seed=1).eval()
        images, present = self.batch(network)
        assert not torch.equal(network(images, present).logits, other(images, present).logits)
        other.load_state_dict(load(save(network.state_dict())))
        assert torch.equal(network(images, present).logits, other(images, present).logits)

    def test_onnx_with_dynamic_batch(self):
        network = self.network()
        for modality, channels in network.channels.items():
            network.encoders[modality] = PlainEncoder(channels)
        network.eval()
        sizes = {m: SIZES[m] for m in network.modalities}
        graph = export_graph(network, sizes)
        for batch in (1, 2, 5):
            assert parity(network, graph, sizes, batch) < TOLERANCE
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        assert [o.name for o in session.get_outputs()] == output_names(network)

    def test_every_parameter_learns(self):
        network = self.network()
        decoder = FeatureReconstruction(network.channels, width=32)
        for parameter in decoder.change.parameters():  # 0 until the first step: nothing learns behind it
            torch.nn.init.normal_(parameter, std=0.1)
        images, present = self.batch(network)
        label, extra = torch.tensor([0, 1, 2]), torch.tensor([[0], [1], [2]])
        pyramids = network.encode(images, present)
        loss = DiagnosisLoss([1] * network.num_classes, [3])
        first = network.fuse(pyramids, present)
        grids = [tuple(maps[-1].shape[2:]) for maps in pyramids]
        hidden = [
            choose_hidden(class_evidence(e, label, grid), 0.3, "top")
            for e, grid in zip(first.evidence, grids, strict=True)
        ]
        completed = decoder(pyramids, hidden, present)
        second = network.fuse(completed.pyramids, present)
        total = completed.loss + sum(loss(output, label, extra, present) for output in (first, second))
        total.backward()
        still = [
            n for net in (network, decoder) for n, p in net.named_parameters() if p.grad is None or not p.grad.any()
        ]
        assert not still
        assert np.isfinite(total.item())


def distributed_steps(rank: int, fusions: list[tuple[str, dict[str, object]]], folder: str) -> None:
    """One of two processes: of each fusion three steps in which this rank lacks one view."""
    from pathlib import Path  # noqa: PLC0415 - runs in a process of its own

    torch.set_num_threads(1)
    store = torch.distributed.FileStore(f"{folder}/store", 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    for fusion, options in fusions:
        torch.manual_seed(0)
        network = AGFNet(4, ["clinical", "ultrasound"], "test_efficientnet", fusion=fusion, fusion_options=options)
        parallel = torch.nn.parallel.DistributedDataParallel(network)
        optimizer = torch.optim.SGD(parallel.parameters(), 0.01)
        for step in range(3):
            present = torch.ones(2, 2, dtype=torch.bool)
            present[:, (rank + step) % 2] = False
            images = {m: torch.randn(2, 3, 64, 64) for m in network.modalities}
            output = parallel(images, present)
            loss = output.logits.square().mean() + output.view_logits.square().mean()
            loss = loss + output.extra_logits.sum() + output.view_extra_logits.sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        (Path(folder) / f"{fusion}-{rank}.safetensors").write_bytes(save(network.state_dict()))
    torch.distributed.destroy_process_group()
