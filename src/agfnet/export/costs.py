"""What the network costs: parameters, arithmetic and time of each part, and the fusion's share."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from agfnet.config import Config, apply_overrides, load_config, parse_config
from agfnet.export.onnx import Graph, example, export_graph
from agfnet.models.network import AGFNet, Output
from agfnet.models.shapes import Pyramid
from agfnet.prediction.predictor import Predictor, open_session
from agfnet.runfolder import WEIGHTS
from agfnet.training.build import Task, build_network

BUDGET = {1: 0.60, 16: 0.30}
"""Largest time that fusion and heads may add to the encoders' forward time, by batch size."""
PARAMETER_BUDGET = 3_000_000


_USUAL_CLASSES = 5
"""How many there are where a configuration names none: the heads are small."""
_TWO_VIEWS = {"data": {"table": "none", "views": {"clinical": {"kind": "photo"}, "ultrasound": {"kind": "ultrasound"}}}}


def summary_config(path: Path | None, encoder: str | None) -> Config:
    """The configuration that is summed up.

    Args:
        path: its file; None: a photo and a scan with the usual settings.
        encoder: another one than it names, for every view.
    """
    overrides = [] if encoder is None else [f"model.encoder={encoder}"]
    if path is not None:
        return load_config(path, overrides)
    return parse_config(apply_overrides(_TWO_VIEWS, overrides), "--encoder")


def network_of(config: Config) -> AGFNet:
    """The network of a configuration, untrained, without further labels."""
    return build_network(
        config, Task(config.data.classes or tuple(map(str, range(_USUAL_CLASSES))), {}), pretrained=False
    )


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the network.

    Attributes:
        name: what it is.
        parameters: how many.
        gflops: multiplications and additions of one case, in 1e9.
    """

    name: str
    parameters: int
    gflops: float


@dataclass(frozen=True, slots=True)
class Timing:
    """Forward times at one batch size, in milliseconds (median).

    Attributes:
        batch: cases at once.
        eager: PyTorch in float32, the whole network.
        encoders: the exported encoders alone.
        graph: the exported network.
    """

    batch: int
    eager: float
    encoders: float
    graph: float

    @property
    def fusion_share(self) -> float:
        """Time of everything after the encoders, over the encoders' time."""
        return self.graph / self.encoders - 1.0

    @property
    def speedup(self) -> float:
        """How many times as fast as eager PyTorch the graph is."""
        return self.eager / self.graph


class _EncodersOnly(AGFNet):
    """The network without what comes after the encoders: the reference for the fusion's share."""

    def fuse(self, pyramids: Sequence[Pyramid], present: Tensor) -> Output:  # noqa: ARG002
        """The pooled maps in the place of an output, so that nothing of the encoders is optimised away."""
        pooled = torch.cat([m.mean((2, 3)) for maps in pyramids for m in maps], dim=1)
        return Output(pooled, pooled, pooled, pooled, pooled, pooled, [], [], pooled)


def part_costs(network: AGFNet, sizes: Mapping[str, tuple[int, int]]) -> list[Part]:
    """Parameters and arithmetic of each part, from one case."""
    parts: dict[str, nn.Module] = {f"encoder {m}": e for m, e in network.encoders.items()}
    parts |= {f"fusion {name}": child for name, child in network.fusion.named_children()}
    *images, present = example(network, sizes, 1)
    counter = FlopCounterMode(display=False)
    with counter:  # with gradients: the counter follows modules by their graph
        network.eval()(dict(zip(network.modalities, images, strict=True)), present)
    counted = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    names = {id(module): name for name, module in network.named_modules()}
    rows = []
    for title, module in parts.items():
        flops = counted.get(f"{type(network).__name__}.{names[id(module)]}", 0)
        rows.append(Part(title, sum(p.numel() for p in module.parameters()), flops / 1e9))
    total = sum(p.numel() for p in network.parameters())
    rows.append(
        Part(
            "heads",
            total - sum(r.parameters for r in rows),
            counted["Global"] / 1e9 - sum(r.gflops for r in rows),
        )
    )
    return rows


def fusion_parameters(parts: Sequence[Part]) -> int:
    """Parameters of everything but the encoders."""
    return sum(part.parameters for part in parts if not part.name.startswith("encoder"))


def timings(
    network: AGFNet,
    sizes: Mapping[str, tuple[int, int]],
    *,
    threads: int = 2,
    batches: Sequence[int] = (1, 16),
) -> list[Timing]:
    """Eager PyTorch, the exported encoders and the exported network, measured in turn."""
    bare = _bare(network)
    sessions = [open_session(export_graph(net, sizes), threads=threads) for net in (bare, network)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return [_timing(network, sessions, example(network, sizes, batch)) for batch in batches]
    finally:
        torch.set_num_threads(before)


def _bare(network: AGFNet) -> AGFNet:
    """The same encoders without the rest; shares the network's parameters."""
    bare = _EncodersOnly.__new__(_EncodersOnly)
    bare.__dict__ = network.__dict__
    return bare


def _timing(network: AGFNet, sessions: Sequence[onnxruntime.InferenceSession], inputs: tuple[Tensor, ...]) -> Timing:
    graph = Graph(network).eval()
    names = [*network.modalities, "present"]
    feeds = dict(zip(names, (np.ascontiguousarray(t.numpy()) for t in inputs), strict=True))
    batch = len(inputs[0])
    times: list[list[float]] = [[], [], []]
    with torch.inference_mode():
        calls: list[Callable[[], object]] = [lambda: graph(*inputs)]
        for session in sessions:
            taken = {i.name: feeds[i.name] for i in session.get_inputs()}
            calls.append(lambda s=session, t=taken: s.run(None, t))  # type: ignore[misc]
        # In blocks, with calls that do not count: PyTorch's threads still spin for a while after its last call.
        for _ in range(3):
            for own, call in zip(times, calls, strict=True):
                for turn in range(3 + max(4, 30 // batch)):
                    start = time.perf_counter()
                    call()
                    if turn >= 3:
                        own.append(1e3 * (time.perf_counter() - start))
    return Timing(batch, *(median(own) for own in times))


_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def parameter_count(folder: Path) -> int:
    """Parameters in a run's weights file, without the running statistics of batch normalisation."""
    with safe_open(folder / WEIGHTS, framework="numpy") as file:
        names = [name for name in file.keys() if not name.endswith(_STATISTICS)]  # noqa: SIM118 - no mapping
        return sum(math.prod(file.get_slice(name).get_shape()) for name in names)


def forward_time(predictor: Predictor, repeats: int = 20) -> float:
    """Median time of the exported graph on one case with every view, in milliseconds."""
    images = {m: np.zeros((1, 3, *spec.size), np.float32) for m, spec in predictor.specs.items()}
    present = np.ones((1, len(images)), dtype=bool)
    predictor.run(images, present)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        predictor.run(images, present)
        times.append(time.perf_counter() - start)
    return 1000.0 * median(times)
