"""The exported graph beside the PyTorch network, on the same cases, in one run.

    python benchmarks/inference.py RUN TABLE --part validation

Prints the largest difference of a probability over all cases, and the median time of a batch of 1 and of 16 cases in
both, in turn, with the ratio and the graph's 95th percentile. Decoding and preprocessing are measured apart.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

from agfnet.data.preprocess import normalise, read_frame
from agfnet.data.table import read_cases
from agfnet.prediction.predictor import Predictor
from agfnet.training.run import load_run


def main() -> None:
    """Read the arguments, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("table", type=Path)
    parser.add_argument("--part", default="validation")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    predictor = Predictor(arguments.run, threads=arguments.threads)
    _, _, network, _ = load_run(arguments.run)
    cases = [c for c in read_cases(arguments.table, views=list(predictor.specs)) if c.split == arguments.part]

    started = time.perf_counter()
    images, present = [], np.array([[bool(c.views[m]) for m in predictor.specs] for c in cases])
    for modality, spec in predictor.specs.items():
        blank = np.zeros((*spec.size, 3), np.uint8)
        frames = [
            read_frame(c.views[modality][0], spec, mm_per_pixel=c.mm_per_pixel.get(modality)).pixels
            if c.views[modality]
            else blank
            for c in cases
        ]
        images.append(normalise(np.stack(frames), spec))
    decode = 1e3 * (time.perf_counter() - started) / present.sum()

    result: dict[str, object] = {
        "cases": len(cases),
        "threads": arguments.threads,
        "decode_ms_an_image": round(decode, 2),
    }
    difference = 0.0
    with torch.inference_mode():
        for size in (1, 16):
            eager_times, graph_times = [], []
            for first in range(0, len(cases) if size == 16 else min(40, len(cases)), size):
                feeds = {m: x[first : first + size] for m, x in zip(predictor.specs, images, strict=True)}
                here = present[first : first + size]
                tensors = {m: torch.from_numpy(x) for m, x in feeds.items()}
                for _ in range(arguments.repeats if first == 0 else 1):
                    start = time.perf_counter()
                    expected = network(tensors, torch.from_numpy(here)).logits.exp().numpy()
                    middle = time.perf_counter()
                    found = np.exp(predictor.run(feeds, here)["logits"])
                    end = time.perf_counter()
                    if len(here) == min(size, len(cases)):
                        eager_times.append(1e3 * (middle - start))
                        graph_times.append(1e3 * (end - middle))
                difference = max(difference, float(np.abs(expected - found).max()))
            eager, graph = median(eager_times), median(graph_times)
            result[f"batch_{size}"] = {
                "eager_ms": round(eager, 1), "graph_ms": round(graph, 1), "times_as_fast": round(eager / graph, 2),
                "graph_p95_ms": round(float(np.percentile(graph_times, 95)), 1),
            }  # fmt: skip
    result["largest_difference_of_a_probability"] = difference
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
