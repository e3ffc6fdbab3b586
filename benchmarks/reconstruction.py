"""How well does FRL's decoder rebuild hidden features, against the mean of the visible ones around each?

    python benchmarks/reconstruction.py RUN [RUN ...] -o reconstruction.json

Of each run's validation cases: 1 - cosine similarity at hidden positions, mean over scales and views, as in training,
for the decoder, for the eight neighbours' mean, and for the mean of all visible positions. Called where the run was
trained.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from agfnet.data.table import own_cases
from agfnet.files import write_json
from agfnet.runfolder import CACHE, CHECKPOINTS
from agfnet.training.build import CaseData, view_specs
from agfnet.training.module import LesionModule
from agfnet.training.reconstruction import blank, choose_hidden, hidden_losses
from agfnet.training.run import load_run, parts
from agfnet.types import RESEARCH_USE


@torch.inference_mode()
def losses(folder: Path, seed: int) -> dict[str, float]:
    """The three losses of one run, means over batches of cases."""
    config, task, network, _ = load_run(folder)
    module = LesionModule(network, config.training, config.reconstruction)
    stored = torch.load(folder / CHECKPOINTS / "last.ckpt", map_location="cpu", weights_only=True)["state_dict"]
    decoder = module.decoder
    if decoder is None:
        raise SystemExit(f"{folder}: was not trained with a reconstruction.")
    decoder.load_state_dict({k.removeprefix("decoder."): v for k, v in stored.items() if k.startswith("decoder.")})
    module.eval()
    data = CaseData(config, task, view_specs(config, network), *parts(config, own_cases(config.data)), folder / CACHE)
    torch.manual_seed(seed)
    found: dict[str, list[float]] = {"decoder": [], "neighbours": [], "mean of the visible": []}
    every = [(0, i) for i in range(len(data.validation))]
    for batch in DataLoader(data.validation, batch_size=32, sampler=every, collate_fn=data.validation.collate):
        pyramids = network.encode(batch.images, batch.present)
        grids = [maps[-1][:, 0] for maps in pyramids]
        hidden = [choose_hidden(grid, config.reconstruction.hide, "random") for grid in grids]
        completed = decoder(pyramids, hidden, batch.present)
        found["decoder"].append(float(completed.loss))
        found["neighbours"].append(float(completed.neighbours))
        found["mean of the visible"].append(
            float(hidden_losses(blank(pyramids, hidden), pyramids, hidden, batch.present))
        )
    return {name: sum(own) / len(own) for name, own in found.items()}


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", "-o", type=Path, required=True)
    given = parser.parse_args()
    made = {str(run): losses(run, given.seed) for run in given.runs}
    write_json(given.out, {"notice": RESEARCH_USE, "seed": given.seed, "runs": made})
    for run, own in made.items():
        print(run, {name: round(value, 4) for name, value in own.items()})


if __name__ == "__main__":
    main()
