"""A whole experiment: train, export, evaluate; once, or fold by fold."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from agfnet.config import Config, DataConfig
from agfnet.data.fingerprints import image_fingerprints
from agfnet.data.split import patient_folds
from agfnet.data.table import own_cases
from agfnet.evaluation.evaluate import CHOSEN, TO_CHOOSE, evaluate_outcomes
from agfnet.evaluation.pictures import training_curves
from agfnet.export.onnx import TOLERANCE, export_graph, export_run, parity
from agfnet.files import hold_folder, read_json
from agfnet.prediction.asking import predict_cases
from agfnet.prediction.bundle import read_bundle
from agfnet.prediction.predictor import Outcome, Predictor
from agfnet.runfolder import CACHE, FACTS, LOCK
from agfnet.training.build import Task, build_network, check_learnable, task_of
from agfnet.training.folder import check_apart
from agfnet.training.ranks import ALONE, Machine, first_process
from agfnet.training.run import parts, train
from agfnet.types import BundleError, ConfigError, Split

log = logging.getLogger("agfnet")
Answered = tuple[Predictor, list[Outcome]]
"""A network, and what it said of the cases that were held out."""


def run(config: Config, folder: Path, *, resume: bool = False, machine: Machine = ALONE) -> dict[str, Any]:
    """Train on the training part, export, and evaluate the exported file on the validation part.

    Returns:
        The scorecard of the validation part (`FOLDER/validation/`); empty in all processes but the first, which
        writes everything.
    """
    cases = parts(config, own_cases(config.data))
    if first_process() and not (folder / FACTS).exists():
        check_exportable(config)
    answered = _run(config, folder, cases, resume=resume, machine=machine)
    if answered is None:
        return {}
    return _scored([answered], folder, folder / "validation", config, "validation")


def run_folds(
    config: Config, folder: Path, folds: int, *, resume: bool = False, machine: Machine = ALONE
) -> dict[str, Any]:
    """Cross-validate by patient: each fold is a run of its own, and all held-out cases are scored together.

    The cases are those of the training and validation parts (all, where no case has a part); test and
    calibration cases are never among them.

    Raises:
        ConfigError: the folder holds a run that is no fold.
    """
    if (folder / FACTS).exists():
        raise ConfigError(f"{folder}: holds a run of its own. Choose another folder for --folds.")
    config = sharing_images(config, folder)
    splits, task = fold_parts(config, folds, config.training.seed)
    if first_process() and not any(folder.glob(f"fold-*/{FACTS}")):
        check_exportable(config)
    pooled = []
    for k, split in enumerate(splits, start=1):
        log.info("fold %d of %d", k, folds)
        answered = _run(config, folder / f"fold-{k}", split, resume=resume, machine=machine, task=task)
        if answered is not None:
            pooled.append(answered)
    if not pooled:
        return {}
    return _scored(pooled, folder / "fold-1", folder / "pooled", config, f"{folds} folds, pooled")


def fold_parts(config: Config, folds: int, seed: int, *, dealt: DataConfig | None = None) -> tuple[list[Split], Task]:
    """The cases to train on and those held out, fold by fold, by patient; and the classes of all of them.

    The cases are those of the training and validation parts (all, where no case has a part).

    Args:
        config: of the network.
        folds: how many.
        seed: of the draw.
        dealt: whose cases are dealt to the folds, where other networks see more views than this one: all of them
            have the same folds then, and this one leaves out the cases that it cannot see.

    Raises:
        TableError: a class has fewer patients than there are folds, a fold leaves no training case of a class or a
            view, or one image is in two folds.
    """
    wanted = {*config.data.train, *config.data.validation}
    every = own_cases(dealt or config.data)
    parted = any(case.split is not None for case in every)
    cases = [case for case in every if case.split in wanted or not parted]
    if left := sum(case.split is None for case in every if parted):
        log.warning("%s: %d cases have no part, where others have one; they are left out", config.data.table, left)
    seen = {case.case_id: case for case in (every if dealt is None else own_cases(config.data))}
    own = [seen[case.case_id] for case in cases if case.case_id in seen]
    splits = []
    for rows in patient_folds(cases, folds, seed):
        held = {cases[i].case_id for i in rows}
        splits.append(Split([c for c in own if c.case_id not in held], [c for c in own if c.case_id in held]))
    task = task_of(config, own, own)
    for k, split in enumerate(splits, start=1):
        check_learnable(config, task.classes, split.train, where=f"with fold {k} of {folds} held out, ")
    if first_process():
        held_out = {f"fold-{k}": split.validation for k, split in enumerate(splits, start=1)}
        check_apart(config, held_out, image_fingerprints(own))
    return splits, task


def sharing_images(config: Config, folder: Path) -> Config:
    """The configuration with its decoded images in `folder`, where it names no other place: for several runs."""
    if config.data.cache is not None:
        return config
    return config.model_copy(update={"data": config.data.model_copy(update={"cache": folder / CACHE})})


def train_and_export(
    config: Config,
    folder: Path,
    cases: Split,
    *,
    resume: bool,
    machine: Machine = ALONE,
    task: Task | None = None,
) -> None:
    """Train and export; what is done is not done again.

    Raises:
        ConfigError: another process works in the folder; see also `train`.
    """
    with hold_folder(folder / LOCK) if first_process() else nullcontext():
        train(
            config,
            folder,
            resume=resume,
            machine=machine,
            cases=cases,
            task=task,
            on_epoch=lambda history: training_curves(history, folder / "curves.png"),
        )
        if first_process() and not _readable(folder):
            log.info("exporting the network, which takes about half a minute")
            export_run(folder)


EXPORTED = {"test_convnext", "test_efficientnet", *(f"tf_efficientnet_lite{n}" for n in range(3))}
"""Encoders of which it is known that they can be exported."""


def check_exportable(config: Config) -> None:
    """Export a network before it is trained, where its encoders are not known: hours later it would be too late.

    Raises:
        ConfigError: it cannot be.
    """
    encoder = config.model.encoder
    unknown = sorted({*(encoder.values() if isinstance(encoder, dict) else [encoder])} - EXPORTED)
    if not unknown:
        return
    log.info("trying to export a network of %s, which takes about half a minute", ", ".join(unknown))
    sizes = {view: own.size for view, own in config.data.views.items()}
    with torch.random.fork_rng():
        network = build_network(config, Task(("a", "b"), {}), pretrained=False).eval()
        try:
            apart = parity(network, export_graph(network, sizes), sizes, 1 + len(sizes))
        except Exception as error:  # whatever PyTorch's exporter or ONNX Runtime finds
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ConfigError(
                f"a network of {', '.join(unknown)} cannot be exported ({reason}). Take another model.encoder."
            ) from error
    if not apart <= TOLERANCE:
        raise ConfigError(
            f"a network of {', '.join(unknown)} answers otherwise by {apart:.2g} once it is exported, more than "
            f"{TOLERANCE}. Take another model.encoder."
        )


def _readable(folder: Path) -> bool:
    """Whether a run has a bundle that this version reads."""
    try:
        read_bundle(folder)
    except BundleError:
        return False
    return True


def _run(
    config: Config,
    folder: Path,
    cases: Split,
    *,
    resume: bool,
    machine: Machine = ALONE,
    task: Task | None = None,
) -> Answered | None:
    """Train and export; then predict the second list from the exported file, in the first process."""
    train_and_export(config, folder, cases, resume=resume, machine=machine, task=task)
    if not first_process():
        return None
    predictor = Predictor(folder)
    return predictor, predict_cases(predictor, cases.validation)


def _scored(answered: Sequence[Answered], run: Path, out: Path, config: Config, part: str) -> dict[str, Any]:
    """The scorecard of what was said of cases that were held out: by `run`, or by the folds of which it is one."""
    told = read_json(run / FACTS)
    facts = {"table": told["table"], "table_sha256": told["table_sha256"], "part": part}
    return evaluate_outcomes(
        answered,
        out,
        skip_bad=config.data.skip_bad,
        notes=[TO_CHOOSE] if config.training.early_stopping is None else [f"All of these cases {CHOSEN}."],
        facts=facts,
    )
