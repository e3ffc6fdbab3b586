"""Lightning's Trainer for a configuration and a machine."""

from __future__ import annotations

import logging
import math
import os
import shutil
import sys
import sysconfig
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, RichProgressBar
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.profilers import Profiler

from agfnet.config import Config
from agfnet.models.network import AGFNet
from agfnet.training.callbacks import EpochCheckpoint, EpochHistory, RampedAverage
from agfnet.training.precision import computes_in, depthwise_in_float32, keep_freed_memory
from agfnet.training.ranks import KeepTerminate, Machine
from agfnet.types import ConfigError

ADVICE = (
    ".*does not have many workers.*",
    ".*number of training batches.*",
    ".*treespec, LeafSpec.*",
    ".*sync_dist=True.*",
    ".*`broadcast_buffers` is deprecated.*",
    ".*Grad strides do not match bucket view strides.*",
    ".*find_unused_parameters=True was specified.*",
)
"""Warnings that ask for what was decided otherwise, or is done already."""


def make_trainer(
    config: Config,
    folder: Path,
    machine: Machine,
    history: EpochHistory,
    checkpoints: Path,
    profiler: Profiler | None = None,
) -> pl.Trainer:
    """The Trainer with all that happens around the epochs.

    Args:
        config: the configuration.
        folder: the run folder.
        machine: devices and nodes.
        history: collects the epochs' figures.
        checkpoints: folder of the checkpoints.
        profiler: told what each step does.
    """
    recipe, frl = config.training, config.reconstruction
    gpu = torch.cuda.is_available()
    bfloat16 = computes_in(recipe.precision) == "bfloat16"
    counts_from = math.floor(frl.start * recipe.epochs) if frl.enabled else 0
    callbacks: list[pl.Callback] = [
        history,
        EpochCheckpoint(checkpoints, keep_best=recipe.early_stopping is not None, counts_from=counts_from),
        KeepTerminate(),
    ]
    if recipe.ema:
        callbacks.insert(0, RampedAverage(recipe.ema))
    if recipe.early_stopping is not None:
        patience = math.ceil(recipe.early_stopping / recipe.validate_every)
        callbacks.append(_Patience(counts_from, patience))
    if sys.stderr.isatty():
        callbacks.append(RichProgressBar(leave=False))
    if not gpu:
        keep_freed_memory()
        if bfloat16:
            callbacks.append(_DepthwiseInFloat32())
    if recipe.compile:
        callbacks.append(_Compiled())
    for advice in ADVICE:
        warnings.filterwarnings("ignore", message=advice)
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return pl.Trainer(
        default_root_dir=folder,
        max_epochs=recipe.epochs,
        accelerator="auto" if gpu else "cpu",
        precision="bf16-mixed" if bfloat16 else "32-true",
        gradient_clip_val=recipe.clip,
        check_val_every_n_epoch=recipe.validate_every,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_progress_bar=sys.stderr.isatty(),
        enable_model_summary=False,
        logger=TensorBoardLogger(str(folder), name="tensorboard", version=""),
        callbacks=callbacks,
        profiler=profiler,
        **machine.options(),
    )


class _Patience(EarlyStopping):
    """Early stopping that a resumed run remembers: one that had already ended trains no further epoch.

    Args:
        counts_from: the first epoch, from 0, that counts: it is not over before FRL has begun.
        patience: looks at the validation part.
    """

    def __init__(self, counts_from: int, patience: int) -> None:
        super().__init__("val_loss", patience=patience, check_on_train_epoch_end=False)
        self.counts_from = counts_from

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch >= self.counts_from:
            super().on_validation_end(trainer, pl_module)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        trainer.should_stop = self.wait_count >= self.patience


class _DepthwiseInFloat32(pl.Callback):
    """Applies `depthwise_in_float32` for the length of the training; averaged copies are made before it."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        depthwise_in_float32(pl_module)


class _Compiled(pl.Callback):
    """Compiles the encoders when they are first called; parameters and names stay, and the rest as it is.

    Not the fusion: tracing the layout of its sequence takes longer than a training saves.
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        network = pl_module.network
        assert isinstance(network, AGFNet)  # noqa: S101
        for encoder in network.encoders.values():
            encoder.compile(dynamic=True)  # as many images as there are views in the batch


def check_compiler() -> None:
    """See that what `torch.compile` needs is here.

    Raises:
        ConfigError: it is not.
    """
    if torch.cuda.is_available():
        headers = Path(sysconfig.get_paths()["include"], "Python.h").exists()
        compiler = any(shutil.which(name) for name in (os.environ.get("CC", "gcc"), "clang"))
        here = find_spec("triton") is not None and compiler and headers
        needed = (
            "the package triton, a C compiler and Python's headers (Debian: apt install gcc python3-dev; or set CC)"
        )
    else:
        here = any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++"))
        needed = "a C++ compiler (Debian: apt install g++; or set CXX)"
    if not here:
        raise ConfigError(f"training.compile needs {needed}; install it, or train with training.compile=false.")
