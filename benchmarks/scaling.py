"""How cost grows with pixels, pairs and views: fitted exponents, near 1 where the cost is linear.

    python benchmarks/scaling.py -o build/bench

Every point of an axis is timed in turn, in rounds; the median counts, as a ratio to the axis's first point. Inference
is the exported graph in ONNX Runtime; training is forward, loss and backward in PyTorch, float32. Writes scaling.json
and scaling.png.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from agfnet.evaluation.canvas import canvases, line, save
from agfnet.export.onnx import example, export_graph
from agfnet.files import write_json
from agfnet.models.network import AGFNet
from agfnet.prediction.predictor import open_session
from agfnet.training.precision import keep_freed_memory

Call = Callable[[], object]
SIDES = (160, 224, 288, 352, 416)
PAIRS = (8, 16, 32, 64)
VIEWS = (1, 2, 3, 4)
"""Sizes that are trained with. Below them, what a step costs whatever its size (in the convolutions' backward, mostly)
hides how cost grows."""
AT_LEAST = 0.25
"""Seconds that a point is timed for in a round."""
FIRST = 3
"""Calls that do not count: ONNX Runtime takes memory in the first, and by the plan it made of that in the second."""
SIDE, BATCH, CASES = 160, 8, 16
"""Of the axes that do not change them: side, pairs, and cases of the axis of views. Each axis begins with 16 images."""


def network(views: int, encoder: str) -> AGFNet:
    """A network of so many views, with random weights: time does not depend on them."""
    torch.manual_seed(0)
    return AGFNet(9, [f"view{i}" for i in range(views)], encoder)


def inference(net: AGFNet, side: int, threads: int) -> Callable[[int], Call]:
    """For a batch size, one pass of the exported graph."""
    sizes = dict.fromkeys(net.modalities, (side, side))
    graph = export_graph(net.eval(), sizes)

    def at(batch: int) -> Call:
        session = open_session(graph, threads=threads)
        taken = {i.name for i in session.get_inputs()}
        values = (np.ascontiguousarray(t.numpy()) for t in example(net, sizes, batch))
        feeds = {n: v for n, v in zip([*net.modalities, "present"], values, strict=True) if n in taken}
        return lambda: session.run(None, feeds)

    return at


def training(net: AGFNet, side: int) -> Callable[[int], Call]:
    """For a batch size, one forward and backward pass, with memory kept as `agfnet train` keeps it."""
    keep_freed_memory()
    net = net.train().to(memory_format=torch.channels_last)
    sizes = dict.fromkeys(net.modalities, (side, side))

    def at(batch: int) -> Call:
        *images, _ = example(net, sizes, batch)
        given = {
            m: x.contiguous(memory_format=torch.channels_last) for m, x in zip(net.modalities, images, strict=True)
        }
        labels = torch.zeros(batch, dtype=torch.int64)

        def step() -> None:
            net.zero_grad(set_to_none=True)
            cross_entropy(net(given).logits, labels).backward()

        return step

    return at


def seconds(call: Call) -> float:
    """Mean seconds of a call that is made again and again for `AT_LEAST` seconds."""
    count, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < AT_LEAST or not count:
        call()
        count += 1
    return passed / count


def measured(calls: Mapping[int, Callable[[], Call]], rounds: int) -> dict[int, float]:
    """Median seconds of each call.

    In each round it is made anew, as the threads of other sessions would take part of the processor.

    Args:
        calls: size -> what makes the call.
        rounds: how often each is timed.
    """
    times: dict[int, list[float]] = {x: [] for x in calls}
    for _ in range(rounds):
        for x, make in calls.items():
            call = make()
            for _ in range(FIRST):
                call()
            times[x].append(seconds(call))
            del call
    return {x: median(own) for x, own in times.items()}


def axis(name: str, unit: Callable[[int], float], times: Mapping[int, float]) -> dict[str, Any]:
    """Ratios to the first point, and the exponent b of time = a * x^b by least squares of the logarithms."""
    x = np.array([unit(point) for point in times])
    y = np.array(list(times.values()))
    exponent = float(np.polyfit(np.log(x), np.log(y), 1)[0])
    return {"axis": name, "x": x.tolist(), "seconds": y.tolist(), "ratio": (y / y[0]).tolist(), "exponent": exponent}


def main() -> None:
    """Read the arguments, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", "-o", type=Path, default=Path("build/bench"))
    parser.add_argument("--encoder", default="tf_efficientnet_lite0")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    two = network(2, given.encoder)
    makers: dict[str, Callable[[AGFNet, int], Callable[[int], Call]]] = {
        "inference": lambda net, side: inference(net, side, given.threads),
        "training": training,
    }
    made: dict[str, list[dict[str, Any]]] = {}
    for kind, make in makers.items():
        by_pairs = make(two, SIDE)
        calls = {
            "pixels of a view": {side: partial(make(two, side), BATCH) for side in SIDES},
            "pairs in a batch": {batch: partial(by_pairs, batch) for batch in PAIRS},
            "views": {views: partial(make(network(views, given.encoder), SIDE), CASES) for views in VIEWS},
        }
        made[kind] = [
            axis(name, (lambda side: side**2) if name.startswith("pixels") else float, measured(own, given.rounds))
            for name, own in calls.items()
        ]
        for own in made[kind]:
            print(f"{kind}: {own['axis']}: exponent {own['exponent']:.2f}")
    given.out.mkdir(parents=True, exist_ok=True)
    write_json(given.out / "scaling.json", {"encoder": given.encoder, "threads": given.threads, **made})
    figure, rows = canvases(6.4, [1, 1])
    for row, (kind, axes) in zip(rows, made.items(), strict=True):
        for number, own in enumerate(axes):
            relative = np.array(own["x"]) / own["x"][0]
            row.plot(relative, own["ratio"], marker="o", label=f"{own['axis']}: {own['exponent']:.2f}", **line(number))
        row.plot([1, 16], [1, 16], color="#999999", linewidth=0.8, label="linear: 1")
        row.set_xscale("log", base=2)
        row.set_yscale("log", base=2)
        row.set_ylabel(f"{kind}: time, ratio")
        row.legend(title="axis: exponent", fontsize=8)
    rows[-1].set_xlabel("size, ratio to the smallest")
    save(figure, given.out / "scaling.png")


if __name__ == "__main__":
    main()
