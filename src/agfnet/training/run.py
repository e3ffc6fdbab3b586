"""One training run: from a configuration to a run folder. A stopped run goes on from its last complete epoch."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning
import torch
from safetensors.torch import load_file, save

from agfnet.config import Config, load_config, save_config
from agfnet.data.dataset import warm
from agfnet.data.table import own_cases
from agfnet.data.tablewrite import write_bad_cases
from agfnet.files import read_json, write_atomically, write_json
from agfnet.models.network import AGFNet
from agfnet.runfolder import BAD_CASES, CACHE, CHECKPOINTS, CONFIG, FACTS, HISTORY, WEIGHTS
from agfnet.training.build import CaseData, Task, build_network, task_of, view_specs
from agfnet.training.callbacks import EpochHistory
from agfnet.training.folder import begin, check_network
from agfnet.training.module import LesionModule
from agfnet.training.profile import StepProfiler, tell_profile
from agfnet.training.ranks import ALONE, Machine, first_process, rank, started_together, together
from agfnet.training.trainer import check_compiler, make_trainer
from agfnet.types import BundleError, Case, ConfigError, Split, TableError

log = logging.getLogger("agfnet")


def parts(config: Config, cases: Sequence[Case]) -> Split:
    """The training and the validation cases by the table's `split` column.

    Raises:
        TableError: the table has no split, or no case in a part.
    """
    chosen: list[list[Case]] = []
    for wanted, need in ((config.data.train, "train"), (config.data.validation, "validation")):
        chosen.append([case for case in cases if case.split in wanted])
        if not chosen[-1]:
            raise TableError(
                f"{config.data.table}: no case has split {' or '.join(wanted)} (data.{need}). Make the parts with "
                f"`agfnet split {config.data.table} -o TABLE`, or train with --folds."
            )
    return Split(*chosen)


def train(
    config: Config,
    folder: Path,
    *,
    resume: bool = False,
    machine: Machine = ALONE,
    cases: Split | None = None,
    task: Task | None = None,
    on_epoch: Callable[[Sequence[dict[str, float]]], None] | None = None,
) -> Path:
    """Train, and leave a run folder with config, facts, history, checkpoints and weights.

    Args:
        config: the configuration.
        folder: the run folder; must be new unless `resume`.
        resume: go on from the last complete epoch of this folder. A finished run is left as it is.
        machine: devices and nodes. The first process writes the folder; the others return once they have trained.
        cases: training and validation cases; None takes them from the table's `split` column.
        task: the classes; None takes them from the configuration and the training cases.
        on_epoch: called with the history after each epoch.

    Returns:
        The weights file.

    Raises:
        ConfigError: the folder holds another run, `resume` with another configuration, table or other images, or a
            machine that does not fit.
        TableError: cases that cannot be learnt from, too few that can be read, or one image in both parts.
        RankError: another process of the training ended.
        BundleError: `resume` of a run of another version's network.
    """
    if cases is None:
        cases = parts(config, own_cases(config.data))
    task = task or task_of(config, *cases)
    machine.check(config.training.batch_size, sum(case.label is not None for case in cases.validation))
    if config.training.compile:
        check_compiler()
    facts = begin(config, folder, cases, resume=resume) if first_process() else {}
    weights = folder / WEIGHTS
    if weights.exists():
        log.info("%s: training is already finished", folder)
        return weights
    pytorch_lightning.seed_everything(config.training.seed, workers=True, verbose=False)
    network = build_network(config, task, pretrained=True)
    specs = view_specs(config, network)
    _try_out(network, {m: spec.size for m, spec in specs.items()})
    data = CaseData(config, task, specs, cases.train, cases.validation, config.data.cache or folder / CACHE)
    bad = _decode(data, folder, machine, skip_bad=config.data.skip_bad)
    if bad:
        cases = _readable(cases, bad)
        machine.check(config.training.batch_size, sum(case.label is not None for case in cases.validation))
        data = CaseData(config, task, specs, cases.train, cases.validation, config.data.cache or folder / CACHE)
    left_out = sorted(bad)
    if facts.get("left_out", left_out) != left_out:
        raise ConfigError(
            f"{folder}: the run was started without other cases than those that cannot be read now: "
            f"{sorted(bad.symmetric_difference(facts['left_out']))}. Have their images as they were, or start anew."
        )
    facts |= {
        "left_out": left_out,
        "classes": list(task.classes),
        "extra_classes": {k: list(v) for k, v in task.extra_classes.items()},
        "cases": {"train": _count(cases.train), "validation": _count(cases.validation)},
        "processes": machine.processes,
    }
    if first_process():
        write_json(folder / FACTS, facts)  # the first of a run's files, by which the folder is known to be one
        save_config(config, folder / CONFIG)

    counts = [sum(case.label == name for case in cases.train) for name in task.classes]
    module = LesionModule(network, config.training, config.reconstruction, counts)
    module = module.to(memory_format=torch.channels_last)
    history = EpochHistory(folder / HISTORY, on_epoch)
    last = folder / CHECKPOINTS / "last.ckpt"
    with together(machine):
        profiler = StepProfiler() if machine.profile else None
        trainer = make_trainer(config, folder, machine, history, folder / CHECKPOINTS, profiler)
        _fit(trainer, module, data, last if last.exists() else None)
    if not first_process():
        return weights
    if profiler is not None:
        tell_profile(profiler, folder, config.training.batch_size, config.data.workers)
    # The checkpoint's weights are the averaged ones, also where a resumed run had no epoch left to train.
    best = folder / CHECKPOINTS / "best.ckpt"
    final = best if config.training.early_stopping is not None and best.exists() else last
    module.load_state_dict(torch.load(final, map_location="cpu", weights_only=True)["state_dict"])
    facts |= {"epochs": len(history.rows), "minutes": round(history.seconds / 60, 4)}
    write_json(folder / FACTS, facts)
    state = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    write_atomically(weights, lambda temporary: temporary.write_bytes(save(state)))
    return weights


def _fit(trainer: pytorch_lightning.Trainer, module: LesionModule, data: CaseData, checkpoint: Path | None) -> None:
    if checkpoint is not None:
        stored = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
        if stored.keys() != module.state_dict().keys():
            raise ConfigError(
                f"{checkpoint}: was made by a version of agfnet with another reconstruction (FRL). Finish the run with "
                "that version, or start anew in another folder."
            )
    try:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit as stop:  # how Lightning ends on Ctrl-C
        raise KeyboardInterrupt from stop
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"the device's memory is full ({error}). Lower training.batch_size or the views' size, or use more devices."
        ) from error


def load_run(folder: Path) -> tuple[Config, Task, AGFNet, dict[str, Any]]:
    """Configuration, classes, trained network (evaluation mode) and facts of a finished run.

    Raises:
        BundleError: the folder holds no finished run, or one of another version's network.
    """
    if not (folder / WEIGHTS).is_file():
        raise BundleError(f"{folder}: holds no finished training run (no {WEIGHTS}). Train, or go on with --resume.")
    config = load_config(folder / CONFIG)
    facts = read_json(folder / FACTS)
    check_network(folder, facts)
    task = Task(tuple(facts["classes"]), {k: tuple(v) for k, v in facts["extra_classes"].items()})
    network = build_network(config, task, pretrained=False)
    network.load_state_dict(load_file(folder / WEIGHTS))
    return config, task, network.eval(), facts


def _try_out(network: AGFNet, sizes: Mapping[str, tuple[int, int]]) -> None:
    """One forward pass of nothing, so that sizes that an encoder does not take are said before the work begins."""
    try:
        with torch.no_grad():
            network.eval()({m: torch.zeros(1, 3, *size) for m, size in sizes.items()})
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"the network does not take images of {dict(sizes)} (height, width): {error}") from error
    network.train()


def _decode(data: CaseData, folder: Path, machine: Machine, *, skip_bad: bool) -> set[str]:
    """Fill the cache of decoded images; list the cases that cannot be read, and return their ids."""
    shown = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal shown
        if time.monotonic() - shown > 5.0:
            shown = time.monotonic()
            log.info("decoding images: case %d of %d", done, total)

    started = started_together()
    share, on_machine = ((rank(), machine.processes), machine.devices) if started else ((0, 1), 1)
    bad = [
        found
        for part in (data.train, data.validation)
        for found in warm(part, progress, skip_bad=skip_bad, share=share, on_machine=on_machine)
    ]
    if bad and first_process():
        write_bad_cases(bad, folder / BAD_CASES)
    return {case.case_id for case, _ in bad}


def _readable(cases: Split, bad: set[str]) -> Split:
    """The training and validation cases without the bad ones, where enough is left to learn the same classes."""
    train, validation = ([case for case in part if case.case_id not in bad] for part in cases)
    lost = {str(case.label) for case in cases.train} - {str(case.label) for case in train}
    if lost:
        raise TableError(
            f"no training case that is {', '.join(sorted(lost))} can be read; see the images' errors in {BAD_CASES}."
        )
    if all(case.label is None for case in validation):
        raise TableError(f"no validation case with a label can be read; see the images' errors in {BAD_CASES}.")
    return Split(train, validation)


def _count(cases: Sequence[Case]) -> dict[str, Any]:
    return {
        "cases": len(cases),
        "patients": len({case.patient_id for case in cases}),
        "classes": dict(sorted(Counter(str(case.label) for case in cases).items())),
    }
