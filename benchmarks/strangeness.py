"""At which depth of a network's encoders do images that are none of a view's kind stand out?

    python benchmarks/strangeness.py RUN TABLE --part calibration --ultrasound FOLDER --pictures FOLDER -o depths.json

Per view: the share of wrong images further from the training images than 99 % of the part's own, by the statistics of
the maps at each stride and by the mean of the coarsest map. Wrong images: see `trust.py`; and the case's other view.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from trust import blank, everyday, lost_contact

from agfnet.data.images import read_image
from agfnet.data.preprocess import ViewSpec, fit, normalise, read_frame
from agfnet.data.table import read_cases
from agfnet.evaluation.fitting import fit_reference
from agfnet.export.onnx import channel_statistics
from agfnet.files import write_json
from agfnet.models.encoders import STRIDES
from agfnet.training.build import view_specs
from agfnet.training.run import load_run
from agfnet.types import RESEARCH_USE, Case

Frames = Sequence[NDArray[np.uint8]]
COARSEST = "mean at stride 32"


@torch.inference_mode()
def described(encoder: torch.nn.Module, frames: Frames, spec: ViewSpec) -> dict[str, NDArray[np.float32]]:
    """Depth -> (n, D) description of fitted images."""
    found: dict[str, list[torch.Tensor]] = {}
    for i in range(0, len(frames), 16):
        maps = encoder(torch.from_numpy(normalise(np.stack(frames[i : i + 16]), spec)))
        for stride, own in zip(STRIDES, maps, strict=True):
            found.setdefault(f"stride {stride}", []).append(channel_statistics(own))
        found.setdefault(COARSEST, []).append(maps[-1].mean((2, 3)))
    return {depth: torch.cat(own).numpy() for depth, own in found.items()}


def own_frames(cases: Sequence[Case], view: str, spec: ViewSpec) -> Frames:
    """The first image of a view of every case that has it."""
    return [
        read_frame(c.views[view][0], spec, mm_per_pixel=c.mm_per_pixel.get(view)).pixels for c in cases if c.views[view]
    ]


def wrong_frames(cases: Sequence[Case], view: str, spec: ViewSpec, given: argparse.Namespace) -> dict[str, Frames]:
    """Kind of wrong image -> as many as asked for."""
    draws = [np.random.default_rng([given.seed, i]) for i in range(given.wrong)]
    one = read_image(cases[0].views[view][0])
    makers = {"blank": blank, "everyday picture": everyday(None)}
    if given.pictures is not None:
        makers["everyday picture, folder"] = everyday(given.pictures)
    if spec.kind == "ultrasound":
        makers["lost contact"] = lost_contact
    wrong: dict[str, Frames] = {k: [fit(make(one, rng), spec) for rng in draws] for k, make in makers.items()}
    if given.ultrasound is not None:
        files = sorted(path for path in given.ultrasound.rglob("*.png") if "mask" not in path.name)
        wrong["ultrasound of another organ"] = [fit(read_image(path), spec) for path in files[: given.wrong]]
    for other in cases[0].views:
        if other != view:
            paths = [c.views[other][0] for c in cases if c.views[other]][: given.wrong]
            wrong[f"{other} image"] = [read_frame(path, spec).pixels for path in paths]
    return wrong


def main() -> None:
    """Read the arguments, measure, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("table", type=Path)
    parser.add_argument("--part", default="calibration")
    parser.add_argument("--ultrasound", type=Path)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--wrong", type=int, default=200, help="wrong images of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", "-o", type=Path, required=True)
    given = parser.parse_args()
    config, _, network, _ = load_run(given.run)
    network.eval()
    specs = view_specs(config, network)
    cases = [case for case in read_cases(given.table, views=list(specs)) if case.split != "test"]
    learnt = [case for case in cases if case.split in config.data.train]
    held_out = [case for case in cases if case.split == given.part]
    made: dict[str, Mapping[str, Mapping[str, float]]] = {}
    for view, spec in specs.items():
        encoder = network.encoders[view]
        train, own = (described(encoder, own_frames(part, view, spec), spec) for part in (learnt, held_out))
        references = {d: fit_reference(train[d], own[d][:, None], false_refers=0.01) for d in train}
        made[view] = {
            kind: {d: float((references[d].distance(x) > references[d].limit).mean()) for d, x in found.items()}
            for kind, frames in wrong_frames(held_out, view, spec, given).items()
            for found in [described(encoder, frames, spec)]
        }
    told = {"notice": RESEARCH_USE, "part": given.part, "cases": len(held_out), "called_strange": made}
    write_json(given.out, told)
    print(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
