"""A whole experiment: train, export, evaluate; once, or fold by fold."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agfnet.config import Config
from agfnet.data.split import patient_folds
from agfnet.data.table import own_cases
from agfnet.evaluation.evaluate import CHOSEN, evaluate_outcomes
from agfnet.evaluation.pictures import training_curves
from agfnet.export.onnx import export_run
from agfnet.files import read_json
from agfnet.prediction.asking import predict_cases
from agfnet.prediction.bundle import BUNDLE, read_bundle
from agfnet.prediction.predictor import Outcome, Predictor
from agfnet.training.build import Task, task_of
from agfnet.training.ranks import ALONE, Machine, first_process
from agfnet.training.run import parts, train
from agfnet.types import BundleError, Case

log = logging.getLogger("agfnet")


def run(config: Config, folder: Path, *, resume: bool = False, machine: Machine = ALONE) -> dict[str, Any]:
    """Train on the training part, export, and evaluate the exported file on the validation part.

    Returns:
        The scorecard of the validation part (`FOLDER/validation/`); empty in all processes but the first, which
        writes everything.
    """
    cases = parts(config, own_cases(config.data))
    outcomes = _run(config, folder, cases, resume=resume, machine=machine)
    if not first_process():
        return {}
    return _scored(outcomes, [folder], folder / "validation", config, "validation")


def run_folds(
    config: Config, folder: Path, folds: int, *, resume: bool = False, machine: Machine = ALONE
) -> dict[str, Any]:
    """Cross-validate by patient: each fold is a run of its own, and all held-out cases are scored together.

    The cases are those of the training and validation parts (all, where no case has a part); test and
    calibration cases are never among them.
    """
    config = sharing_images(config, folder)
    splits, task = fold_parts(config, folds, config.training.seed)
    pooled: list[Outcome] = []
    for k, split in enumerate(splits, start=1):
        log.info("fold %d of %d", k, folds)
        pooled += _run(config, folder / f"fold-{k}", split, resume=resume, machine=machine, task=task)
    if not first_process():
        return {}
    runs = [folder / f"fold-{k}" for k in range(1, folds + 1)]
    return _scored(pooled, runs, folder / "pooled", config, f"{folds} folds, pooled")


def fold_parts(config: Config, folds: int, seed: int) -> tuple[list[tuple[list[Case], list[Case]]], Task]:
    """The cases to train on and those held out, fold by fold, by patient; and the classes of all of them.

    The cases are those of the training and validation parts (all, where no case has a part).

    Raises:
        TableError: a class has fewer patients than there are folds.
    """
    wanted = {*config.data.train, *config.data.validation}
    every = own_cases(config.data)
    parted = any(case.split is not None for case in every)
    cases = [case for case in every if case.split in wanted or not parted]
    if left := sum(case.split is None for case in every if parted):
        log.warning("%s: %d cases have no part, where others have one; they are left out", config.data.table, left)
    splits = []
    for rows in patient_folds(cases, folds, seed):
        held = set(rows.tolist())
        splits.append(([c for i, c in enumerate(cases) if i not in held], [cases[i] for i in sorted(held)]))
    return splits, task_of(config, cases, cases)


def sharing_images(config: Config, folder: Path) -> Config:
    """The configuration with its decoded images in `folder`, where it names no other place: for several runs."""
    if config.data.cache is not None:
        return config
    return config.model_copy(update={"data": config.data.model_copy(update={"cache": folder / "cache"})})


def train_and_export(
    config: Config,
    folder: Path,
    cases: tuple[Sequence[Case], Sequence[Case]],
    *,
    resume: bool,
    machine: Machine = ALONE,
    task: Task | None = None,
) -> None:
    """Train on the first of two lists of cases, look at the second, and export; what is done is not done again."""
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
        export_run(folder)


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
    cases: tuple[Sequence[Case], Sequence[Case]],
    *,
    resume: bool,
    machine: Machine = ALONE,
    task: Task | None = None,
) -> list[Outcome]:
    """Train and export; then predict the second list from the exported file, in the first process."""
    train_and_export(config, folder, cases, resume=resume, machine=machine, task=task)
    if not first_process():
        return []
    return predict_cases(Predictor(folder), cases[1])


def _scored(outcomes: list[Outcome], runs: Sequence[Path], out: Path, config: Config, part: str) -> dict[str, Any]:
    """The scorecard of what one run, or several folds' runs, said of cases that were held out."""
    told = read_json(runs[0] / "run.json")
    facts: dict[str, Any] = {"table": told["table"], "table_sha256": told["table_sha256"], "part": part}
    if len(runs) > 1:
        facts["bundle_sha256"] = [read_bundle(run / BUNDLE).sha256 for run in runs]
    return evaluate_outcomes(
        outcomes,
        Predictor(runs[0]),
        out,
        skip_bad=config.data.skip_bad,
        notes=[] if config.training.early_stopping is None else [CHOSEN],
        facts=facts,
    )
