"""A finished run to a bundle: the ONNX graph, checked against the PyTorch network."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agfnet.models.encoders import STRIDES
from agfnet.models.network import AGFNet
from agfnet.prediction.bundle import BUNDLE, GRAPH, write_bundle
from agfnet.prediction.predictor import open_session
from agfnet.runfolder import CONFIG, WEIGHTS
from agfnet.training.build import view_specs
from agfnet.training.run import load_run
from agfnet.types import RESEARCH_USE, BundleError

log = logging.getLogger("agfnet")

OPSET = 20
TOLERANCE = 1e-4
"""Largest difference between the graph and PyTorch: of a probability; of any other output where its largest value is
at most 1, else relative to that value (evidence of a small sharp region reaches some tens of logits)."""

DESCRIBED = STRIDES.index(16)
"""The map whose channels tell an image that is unlike those of the training; see `Reference`."""
LEAST_DEVIATION = 1e-2
"""Of a channel: on a blank image it is the same everywhere."""


class Graph(nn.Module):
    """The network with plain tensors in and out, as a graph needs it."""

    def __init__(self, network: AGFNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Images of each modality, then presence (B, M), to the outputs that `output_names` lists."""
        *images, present = inputs
        pyramids = self.network.encode(dict(zip(self.network.modalities, images, strict=True)), present)
        out = self.network.fuse(pyramids, present)
        maps = [m for view in out.attention for m in view]
        statistics = [channel_statistics(p[DESCRIBED]) for p in pyramids]
        return (out.logits, out.view_logits, out.weights, out.extra_logits, *maps, *out.evidence, *statistics)


def channel_statistics(maps: Tensor) -> Tensor:
    """(B, 2 C) mean and log deviation over the positions of each channel of an encoder's maps (B, C, H, W)."""
    variance, mean = torch.var_mean(maps, dim=(2, 3), correction=0)
    return torch.cat([mean, 0.5 * (variance + LEAST_DEVIATION**2).log()], dim=1)


def output_names(network: AGFNet) -> list[str]:
    """Names of the graph's outputs."""
    has_maps = network.fusion.local_features > 0
    maps = [f"attention_{m}_{s}" for m in network.modalities for s in STRIDES] if has_maps else []
    return [
        "logits",
        "view_logits",
        "weights",
        "extra_logits",
        *maps,
        *(f"evidence_{m}" for m in network.modalities),
        *(f"statistics_{m}" for m in network.modalities),
    ]


def export_graph(network: AGFNet, sizes: Mapping[str, tuple[int, int]]) -> bytes:
    """The network as an ONNX model with a dynamic batch.

    Args:
        network: in evaluation mode.
        sizes: modality -> (height, width) of its input.
    """
    graph = Graph(network).eval()
    inputs = example(network, sizes, batch=2)
    with torch.no_grad():
        graph(*inputs)  # the constants of the layout are made here, outside of the tracing
    batch = torch.export.Dim("batch", min=1, max=4096)
    with _quiet():
        program = torch.onnx.export(
            graph,
            inputs,
            dynamo=True,
            input_names=[*network.modalities, "present"],
            output_names=output_names(network),
            dynamic_shapes={"inputs": tuple({0: batch} for _ in inputs)},
            opset_version=OPSET,
            verbose=False,
        )
        assert program is not None  # noqa: S101
    return bytes(program.model_proto.SerializeToString())


def example(network: AGFNet, sizes: Mapping[str, tuple[int, int]], batch: int) -> tuple[Tensor, ...]:
    """Random inputs; where there are several views, each case from the second on lacks another one of them."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(batch, 3, *sizes[m], generator=generator) for m in network.modalities]
    present = torch.ones(batch, len(images), dtype=torch.bool)
    for lacking in range(min(batch - 1, len(images)) if len(images) > 1 else 0):
        present[1 + lacking, lacking] = False
    return *images, present


def parity(network: AGFNet, graph: bytes, sizes: Mapping[str, tuple[int, int]], batch: int) -> float:
    """Largest difference of any output between ONNX Runtime and PyTorch, NaN if either is; see `TOLERANCE`."""
    inputs = example(network, sizes, batch)
    with torch.no_grad():
        expected = [t.numpy() for t in Graph(network).eval()(*inputs)]
    session = open_session(graph)
    feeds: dict[str, NDArray[np.generic]] = {
        n: t.numpy() for n, t in zip([*network.modalities, "present"], inputs, strict=True)
    }
    found = session.run(output_names(network), feeds)
    differences = [float(np.abs(np.exp(expected[0]) - np.exp(found[0])).max())]
    for a, b in zip(expected, found, strict=True):
        differences.append(float(np.abs(a - b).max(initial=0.0)) / max(1.0, float(np.abs(a).max(initial=0.0))))
    return float(np.max(differences))  # Python's own would leave a NaN out


def export_run(folder: Path) -> Path:
    """Export a finished run into its folder as a bundle.

    Raises:
        BundleError: the run is not finished, or the graph does not give PyTorch's figures to 1e-4.
    """
    config, task, network, facts = load_run(folder)
    specs = view_specs(config, network)
    sizes = {m: spec.size for m, spec in specs.items()}
    graph = export_graph(network, sizes)
    difference = parity(network, graph, sizes, 1 + len(network.modalities))
    if not difference <= TOLERANCE:
        raise BundleError(
            f"{folder}: the exported graph differs from PyTorch by {difference:.2g}, more than {TOLERANCE}."
        )
    bundle = folder / BUNDLE
    write_bundle(
        bundle,
        {
            "notice": RESEARCH_USE,
            "classes": list(task.classes),
            "malignant": list(config.data.malignant),
            "extra_classes": {k: list(v) for k, v in task.extra_classes.items()},
            "views": {
                m: {
                    "kind": s.kind,
                    "size": s.size,
                    "mean": s.mean,
                    "std": s.std,
                    "mm_per_pixel": s.mm_per_pixel,
                }
                for m, s in specs.items()
            },
            "flips": config.prediction.flips,
            "zoom": config.prediction.zoom,
            "opset": OPSET,
            "parity": difference,
            "trained_on": facts["trained_on"],
            "chosen_on": facts["chosen_on"],
            "run": {k: facts.get(k) for k in ("table_sha256", "seed", "versions", "cases")},
        },
        {
            GRAPH: graph,
            WEIGHTS: (folder / WEIGHTS).read_bytes(),
            CONFIG: (folder / CONFIG).read_bytes(),
        },
    )
    log.info("%s: exported; the graph gives PyTorch's figures to %.1g", bundle, difference)
    return bundle


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's progress and its warnings about itself are of no use to the user."""
    loggers = [logging.getLogger(n) for n in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
