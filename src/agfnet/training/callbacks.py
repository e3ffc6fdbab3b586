"""What happens around the epochs: the checkpoint, the history, one line of progress."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint, WeightAveraging
from torch import Tensor

from agfnet.files import write_atomically, write_json
from agfnet.types import ConfigError

log = logging.getLogger("agfnet")
History = list[dict[str, float]]


class RampedAverage(WeightAveraging):
    """Exponential moving average of weights and buffers whose decay rises as min(decay, (1 + n) / (10 + n)).

    Without the ramp, the average over a short training would mostly be the weights that it began with.

    Args:
        decay: 0 to 1.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        super().__init__(multi_avg_fn=self.average)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Have the average where the training is: the module itself is only moved there after this."""
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)

    def average(self, means: list[Tensor], now: list[Tensor], count: Tensor | int) -> None:
        """Move tensors of one kind towards their present values, in place; whole numbers are taken over."""
        if means[0].is_floating_point():
            done = float(count)
            torch._foreach_lerp_(means, now, 1.0 - min(self.decay, (1.0 + done) / (10.0 + done)))
        else:
            torch._foreach_copy_(means, now)


class EpochCheckpoint(Checkpoint):
    """Keeps the last complete epoch, and the best one where training may stop early.

    Args:
        folder: holds `last.ckpt` and `best.ckpt`.
        keep_best: also keep the epoch with the lowest validation NLL.
        counts_from: the first epoch, from 0, that can be the best.
    """

    def __init__(self, folder: Path, *, keep_best: bool, counts_from: int = 0) -> None:
        self.folder = folder
        self.keep_best = keep_best
        self.counts_from = counts_from
        self.best = float("inf")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Write the checkpoint; every process takes part, the first one writes."""
        counts = trainer.current_epoch >= self.counts_from and _validated(trainer, "val_loss")
        loss = float(trainer.callback_metrics["val_loss"]) if counts else float("inf")
        improved = self.keep_best and loss < self.best
        self.best = min(self.best, loss)
        for name in ["best", "last"] if improved else ["last"]:
            path = self.folder / f"{name}.ckpt"
            if trainer.is_global_zero:
                write_atomically(path, trainer.save_checkpoint)
            else:
                trainer.save_checkpoint(path)

    def state_dict(self) -> dict[str, Any]:
        """The best loss so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.best = float(state_dict["best"])


class EpochHistory(pl.Callback):
    """Collects each epoch's figures, writes them, and says them in one line with the time left.

    Args:
        path: the JSON file, rewritten after each epoch.
        on_epoch: called with the whole history after each epoch (draws the curves, say).
    """

    def __init__(self, path: Path, on_epoch: Callable[[Sequence[dict[str, float]]], None] | None = None) -> None:
        self.path = path
        self.on_epoch = on_epoch
        self.rows: History = []
        self.before = 0.0
        self.started = time.monotonic()
        self.first = 0

    @property
    def seconds(self) -> float:
        """Time spent on the epochs that are kept, over all stretches of a run that was stopped and resumed."""
        return self.before + time.monotonic() - self.started

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Start the clock."""
        self.started, self.first = time.monotonic(), trainer.current_epoch

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Forget the former epoch's losses: a part that this one does not have would be told again."""
        for name in [n for n in trainer.callback_metrics if n.startswith("train_")]:
            del trainer.callback_metrics[name]

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Add the epoch."""
        epoch, total = trainer.current_epoch, trainer.max_epochs or 0
        row = {"epoch": epoch + 1.0, "lr": float(trainer.optimizers[0].param_groups[-1]["lr"])}
        names = [n for n in trainer.callback_metrics if n.startswith("train_") or _validated(trainer, n)]
        row |= {n: float(trainer.callback_metrics[n]) for n in names}
        # The validation's too: it alone shows what the epoch's last step has done.
        if not all(math.isfinite(row.get(name, 0.0)) for name in ("train_loss", "val_loss")):
            raise ConfigError(
                f"the loss is no finite number in epoch {epoch + 1}; lower training.learning_rate or encoder_rate."
            )
        self.rows.append({name: value for name, value in row.items() if math.isfinite(value)})
        if not trainer.is_global_zero:
            return
        each = (time.monotonic() - self.started) / (epoch + 1 - self.first)
        left = each * (total - epoch - 1) / 60
        figures = "  ".join(f"{n} {row[n]:.3f}" for n in _SHOWN if n in row)
        log.info("epoch %d/%d  %s  %.0f s an epoch, %.0f min left", epoch + 1, total, figures, each, left)
        write_json(self.path, self.rows)
        if self.on_epoch is not None:
            self.on_epoch(self.rows)

    def state_dict(self) -> dict[str, Any]:
        """The history so far; it travels with the checkpoint."""
        return {"rows": self.rows, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.rows = list(state_dict["rows"])
        self.before = float(state_dict["seconds"])


_SHOWN = ("train_loss", "val_loss", "val_accuracy", "val_balanced_accuracy", "val_auc")


def _validated(trainer: pl.Trainer, name: str) -> bool:
    """Whether a validation figure is of this epoch: between two looks the old ones are still there."""
    every = trainer.check_val_every_n_epoch or 1
    return name.startswith("val_") and (trainer.current_epoch + 1) % every == 0
