"""Training throughput: the data path, the same network on tensors in memory, and the bare encoders, in one run.

    python benchmarks/training.py -c configs/derm7pt.yaml data.table=cases.csv

The three are measured in turn, round by round, each in Lightning's Trainer; the figures are medians over the rounds.
Prints JSON: cases a second of each, and two ratios with what they should reach: data path to memory (0.9), and whole
network with FRL to bare encoders, both in memory (0.6).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from agfnet.config import Config, load_config
from agfnet.data.dataset import Batch, warm
from agfnet.data.table import own_cases
from agfnet.models.network import AGFNet
from agfnet.training.build import CaseData, build_network, task_of, view_specs
from agfnet.training.module import LesionModule
from agfnet.training.precision import bfloat16_pays, keep_freed_memory
from agfnet.training.run import parts
from agfnet.training.trainer import ADVICE

WARM = 2
DATA_TARGET, NETWORK_TARGET = 0.9, 0.6


class BareEncoders(pl.LightningModule):
    """The encoders alone, each with a linear head on the mean of its coarsest map."""

    def __init__(self, network: AGFNet) -> None:
        super().__init__()
        self.network = network
        self.heads = nn.ModuleList(nn.Linear(c[-1], network.num_classes) for c in network.channels.values())

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Cross-entropy of every head."""
        pyramids = self.network.encode(batch.images, batch.present)
        logits = [head(maps[-1].mean((2, 3))) for head, maps in zip(self.heads, pyramids, strict=True)]
        return torch.stack([nn.functional.cross_entropy(x, batch.label, ignore_index=-1) for x in logits]).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The recipe's optimiser on what is used here."""
        return torch.optim.AdamW([*self.network.encoders.parameters(), *self.heads.parameters()])


class Clock(pl.Callback):
    """Seconds from the end of the last warm step to the end of the last step: waiting for data counts."""

    def __init__(self) -> None:
        self.began = self.ended = 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: object, *_: object) -> None:  # noqa: ARG002
        """Look at the clock."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ended = time.perf_counter()
        if trainer.global_step == WARM:
            self.began = self.ended


def cases_a_second(
    module: pl.LightningModule, batches: DataLoader[Batch], steps: int, size: int, precision: str
) -> float:
    """Train for a few steps in Lightning's Trainer and give the cases a second after the warm steps.

    Args:
        module: what is trained.
        batches: from the data path, or from memory.
        steps: measured steps; `WARM` more come first.
        size: cases of a batch.
        precision: Lightning's name of it.
    """
    clock = Clock()
    trainer = pl.Trainer(
        max_steps=WARM + steps, callbacks=[clock], precision=precision, accelerator="auto", devices=1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(module, train_dataloaders=batches)
    return steps * size / (clock.ended - clock.began)


def prepared(config: Config, cache: Path) -> tuple[LesionModule, CaseData]:
    """The module and its data, decoded."""
    train, validation = parts(config, own_cases(config.data))
    task = task_of(config, train, validation)
    network = build_network(config, task, pretrained=False)
    data = CaseData(config, task, view_specs(config, network), train, validation, config.data.cache or cache)
    warm(data.train, lambda *_: None, skip_bad=False)
    frl = config.reconstruction.model_copy(update={"start": 0.0})  # in every measured step
    module = LesionModule(network, config.training, frl)
    return module.to(memory_format=torch.channels_last), data


def measured(config: Config, cache: Path, rounds: int, steps: int) -> dict[str, object]:
    """All rounds, their medians and the ratios."""
    module, data = prepared(config, cache)
    size = config.training.batch_size
    bfloat16 = config.training.precision == "bfloat16" or (config.training.precision == "auto" and bfloat16_pays())
    precision = "bf16-mixed" if bfloat16 else "32-true"
    loader = data.train_dataloader()
    if len(loader) < WARM + steps:
        raise SystemExit(f"the training part has {len(loader)} batches of {size}; {WARM + steps} are needed")
    batches = [batch for batch, _ in zip(loader, range(WARM + steps), strict=False)]
    memory: DataLoader[Batch] = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
    variants: dict[str, tuple[pl.LightningModule, DataLoader[Batch]]] = {
        "data_path": (module, loader),
        "memory": (module, memory),
        "bare_encoders": (BareEncoders(module.network), memory),
    }
    found: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, (trained, batches) in variants.items():
            found[name].append(round(cases_a_second(trained, batches, steps, size, precision), 3))
    middle = {name: median(values) for name, values in found.items()}
    return {
        "cases_a_second": middle,
        "data_path_to_memory": round(middle["data_path"] / middle["memory"], 3),
        "data_path_to_memory_target": DATA_TARGET,
        "network_to_bare_encoders": round(middle["memory"] / middle["bare_encoders"], 3),
        "network_to_bare_encoders_target": NETWORK_TARGET,
        "rounds": found,
        "steps": steps,
        "batch_size": size,
        "encoder": config.model.encoder,
        "fusion": config.model.fusion,
        "frl": config.reconstruction.enabled,
        "precision": precision,
        "workers": config.data.workers,
        "threads": torch.get_num_threads(),
        "processors": os.cpu_count(),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
    }


def main() -> None:
    """Read the arguments, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6, help="measured steps of each variant in a round")
    parser.add_argument("overrides", nargs="*", metavar="SECTION.KEY=VALUE")
    arguments = parser.parse_intermixed_args()
    for advice in (*ADVICE, ".*"):
        warnings.filterwarnings("ignore", message=advice, category=UserWarning)
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if not torch.cuda.is_available():
        keep_freed_memory()
    config = load_config(arguments.config, arguments.overrides)
    pl.seed_everything(config.training.seed, verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measured(config, Path(folder), arguments.rounds, arguments.steps), indent=2))


if __name__ == "__main__":
    main()
