"""From a configuration and cases to the network and its data."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from agfnet.config import Config
from agfnet.data.dataset import Batch, CaseDataset, EpochSampler, FrameCache
from agfnet.data.preprocess import ViewSpec
from agfnet.data.table import cases_sha256
from agfnet.models.encoders import Encoder
from agfnet.models.network import AGFNet
from agfnet.types import Case, ConfigError, TableError

MOST_VALUES = 50
"""Of a further label: a column with more is one of numbers or names."""
FEW_A_STEP = 4
"""Images of a view in a step, on average, below which their mean and variance say little of all."""
log = logging.getLogger("agfnet")


@dataclass(frozen=True, slots=True)
class Task:
    """What is learnt.

    Attributes:
        classes: the diagnoses in order.
        extra_classes: further label column -> its values in order.
    """

    classes: tuple[str, ...]
    extra_classes: Mapping[str, tuple[str, ...]]


def task_of(config: Config, train: Sequence[Case], validation: Sequence[Case]) -> Task:
    """The classes of the configuration, or of the training cases.

    Raises:
        TableError: fewer than two classes, a class without a training case or with `;` in its name, a case without a
            label, a label that the configuration does not know, or a view without a training image.
        ConfigError: `data.malignant` names an unknown class.
    """
    if all(case.label is None for case in (*train, *validation)):
        raise TableError(f"{config.data.table}: no case has a label. Is the diagnosis in a column `label`?")
    if bare := [case for case in train if case.label is None]:
        raise TableError(
            f"{config.data.table}: {len(bare)} of {len(train)} training cases have no label, the first in row "
            f"{bare[0].row}, case {bare[0].case_id}; training needs one. Fill it in or drop the row."
        )
    classes = config.data.classes or tuple(sorted({str(case.label) for case in train}))
    for case in (*train, *validation):
        if case.label is not None and case.label not in classes:
            raise TableError(f"row {case.row}: label {case.label!r} is not one of the classes {list(classes)}.")
    if all(case.label is None for case in validation):
        raise TableError(f"{config.data.table}: no validation case has a label; training needs some to look at.")
    _check_classes(config, classes)
    check_learnable(config, classes, train)
    extra = {
        column: tuple(sorted({v for case in train if (v := case.extra_labels.get(column)) is not None}))
        for column in config.data.extra_labels
    }
    for column, values in extra.items():
        if len(values) < 2:
            raise TableError(
                f"column {column!r} has {len(values)} value in the training part; drop it from data.extra_labels."
            )
        if len(values) > MOST_VALUES:
            raise TableError(
                f"column {column!r} has {len(values)} values in the training part; a further label is a class, as a "
                "part of the body is. Write numbers as a few ranges, or drop it from data.extra_labels."
            )
    return Task(classes, extra)


def check_learnable(config: Config, classes: Sequence[str], train: Sequence[Case], *, where: str = "") -> None:
    """Every class and every view has a training case; a view of few is warned of.

    Args:
        config: of the run.
        classes: the diagnoses.
        train: the training cases.
        where: said before what is missing, such as the fold.

    Raises:
        TableError: one has none.
    """
    unseen = set(classes) - {case.label for case in train}
    if unseen:
        raise TableError(
            f"{config.data.table}: {where}no training case is {', '.join(sorted(unseen))}: the network could not learn "
            "it. Add such cases, or leave it out of data.classes and of the table."
        )
    for view in config.data.views:
        having = sum(bool(case.views.get(view)) for case in train)
        if not having:
            raise TableError(
                f"{config.data.table}: {where}no training case has an image of {view}: the network could not learn it. "
                "Add such images, or leave the view out of data.views."
            )
        kept = 1.0 - (config.training.modality_dropout if len(config.data.views) > 1 else 0.0)
        each = config.training.batch_size * kept * having / len(train)
        if each < FEW_A_STEP:
            log.warning(
                "%s%s: only about %.1f images a step, too few for an encoder's batch normalisation. Raise "
                "training.batch_size, or train on the cases that have one.",
                where,
                view,
                each,
            )


def _check_classes(config: Config, classes: Sequence[str]) -> None:
    """Classes that can be told apart and written; see `task_of`."""
    if len(classes) < 2:
        raise TableError(f"the training part has {len(classes)} class; a diagnosis needs two or more.")
    unreadable = [name for name in classes if ";" in name]
    if unreadable:
        raise TableError(
            f"label {unreadable[0]!r}: diagnosis sets are written with `;` between their classes. Rename it."
        )
    strange = set(config.data.malignant) - set(classes)
    if strange:
        raise ConfigError(f"data.malignant names {sorted(strange)}, which is no class; classes: {list(classes)}.")
    if set(config.data.malignant) == set(classes):
        raise ConfigError("data.malignant names every class; leave it empty, or leave out the benign ones.")


def build_network(config: Config, task: Task, *, pretrained: bool) -> AGFNet:
    """The network of a configuration; `pretrained` false leaves the weights to be loaded by the caller."""
    model = config.model
    return AGFNet(
        len(task.classes),
        list(config.data.views),
        model.encoder,
        pretrained=(model.weights or True) if pretrained and model.pretrained else False,
        fusion=model.fusion,
        fusion_options=model.fusion_options,
        extra_classes=[len(values) for values in task.extra_classes.values()],
        dropout=model.dropout,
        drop_path=model.drop_path,
    )


def view_specs(config: Config, network: AGFNet) -> dict[str, ViewSpec]:
    """How each view becomes input: the configuration's sizes with the encoder's normalisation."""
    specs = {}
    for modality, view in config.data.views.items():
        encoder = network.encoders[modality]
        assert isinstance(encoder, Encoder)  # noqa: S101
        specs[modality] = ViewSpec(view.kind, view.size, encoder.mean, encoder.std, view.mm_per_pixel)
    return specs


class CaseData(pl.LightningDataModule):
    """Training and validation batches.

    Args:
        config: the configuration.
        task: the classes.
        specs: how each view becomes input.
        train, validation: the cases; validation may be empty.
        cache: folder of decoded images.
    """

    def __init__(
        self,
        config: Config,
        task: Task,
        specs: Mapping[str, ViewSpec],
        train: Sequence[Case],
        validation: Sequence[Case],
        cache: Path,
    ) -> None:
        super().__init__()
        self.recipe, self.workers = config.training, config.data.workers
        self.first_epoch = 0

        def dataset(cases: Sequence[Case], *, training: bool) -> CaseDataset:
            return CaseDataset(
                cases=cases,
                specs=specs,
                classes=task.classes,
                extra_classes=task.extra_classes,
                cache=FrameCache(cache),
                training=training,
                strength=config.training.augmentation,
                modality_dropout=config.training.modality_dropout,
                seed=config.training.seed,
            )

        self.train = dataset(train, training=True)
        self.validation = dataset(validation, training=False)

    def setup(self, stage: str) -> None:  # noqa: ARG002
        """See that all processes train on the same cases: each has found by itself which ones it can read."""
        assert self.trainer is not None  # noqa: S101
        own = cases_sha256(self.train.cases, self.validation.cases)
        if self.trainer.strategy.broadcast(own) != own:
            raise ConfigError(
                "the processes of this training cannot read the same images (data.skip_bad); see that every node "
                "reaches the files, and start again."
            )

    def state_dict(self) -> dict[str, Any]:
        """The epoch that follows this checkpoint's: workers draw its first batches before Lightning names it."""
        assert self.trainer is not None  # noqa: S101
        return {"first_epoch": self.trainer.current_epoch + 1}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.first_epoch = int(state_dict["first_epoch"])

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled by (seed, epoch); see `EpochSampler`."""
        return self._loader(self.train, self.recipe.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Every case once, by one of the processes."""
        return self._loader(self.validation, 2 * self.recipe.batch_size, shuffle=False)

    def _loader(self, dataset: CaseDataset, batch: int, *, shuffle: bool) -> DataLoader[Batch]:
        """Batches of this process; `batch` counts the cases of all."""
        rank, replicas = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        sampler = EpochSampler(
            dataset.labels, batch=batch, shuffle=shuffle, seed=self.recipe.seed, rank=rank, replicas=replicas
        )
        sampler.set_epoch(self.first_epoch)
        return DataLoader(
            dataset,  # type: ignore[arg-type]
            batch_size=batch // replicas,
            sampler=sampler,
            collate_fn=dataset.collate,
            num_workers=self.workers,
            persistent_workers=shuffle and self.workers > 0,
            pin_memory=torch.cuda.is_available(),
        )
