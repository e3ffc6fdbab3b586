"""One training run: from a configuration to a run folder. A stopped run goes on from its last complete epoch."""

from __future__ import annotations

import hashlib
import logging
import platform
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import polars as pl
import pytorch_lightning
import torch
from safetensors.torch import load_file, save_file

import agfnet
from agfnet.config import Config, different_keys, load_config, save_config
from agfnet.data.dataset import warm
from agfnet.data.fingerprints import image_fingerprints, patient_fingerprint
from agfnet.data.table import cases_sha256, own_cases
from agfnet.data.tablefile import table_sha256, write_table
from agfnet.files import read_json, remove_leftovers, write_atomically, write_json
from agfnet.models.network import AGFNet
from agfnet.training.build import CaseData, Task, build_network, task_of, view_specs
from agfnet.training.callbacks import EpochHistory
from agfnet.training.module import LesionModule
from agfnet.training.precision import computes_in
from agfnet.training.profile import StepProfiler, tell_profile
from agfnet.training.ranks import ALONE, Machine, first_process, rank, started_together, together
from agfnet.training.trainer import check_compiler, make_trainer
from agfnet.types import RESEARCH_USE, BundleError, Case, ConfigError, TableError

log = logging.getLogger("agfnet")

CONFIG, FACTS, WEIGHTS, HISTORY, CHECKPOINTS = (
    "config.yaml",
    "run.json",
    "weights.safetensors",
    "history.json",
    "checkpoints",
)
BAD_CASES = "bad_cases.csv"
NETWORK = 2
"""The network's design, counted: the weights of another one do not fit, and figures of two do not compare."""
OF_THE_MACHINE = ("data.workers", "data.cache")
"""Keys of the configuration that change no result: a run may go on with others."""
PACKAGES = (
    "agfnet",
    "torch",
    "torchvision",
    "timm",
    "pytorch-lightning",
    "numpy",
    "Pillow",
    "onnx",
    "onnxruntime",
)


def parts(config: Config, cases: Sequence[Case]) -> tuple[list[Case], list[Case]]:
    """The training and the validation cases by the table's `split` column.

    Raises:
        TableError: the table has no split, or no case in a part.
    """
    chosen = []
    for wanted, need in ((config.data.train, "train"), (config.data.validation, "validation")):
        chosen.append([case for case in cases if case.split in wanted])
        if not chosen[-1]:
            raise TableError(
                f"{config.data.table}: no case has split {' or '.join(wanted)} (data.{need}). Make the parts with "
                f"`agfnet split {config.data.table} -o TABLE`, or train with --folds."
            )
    return chosen[0], chosen[1]


def train(
    config: Config,
    folder: Path,
    *,
    resume: bool = False,
    machine: Machine = ALONE,
    cases: tuple[Sequence[Case], Sequence[Case]] | None = None,
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
    machine.check(config.training.batch_size, sum(case.label is not None for case in cases[1]))
    if config.training.compile:
        check_compiler()
    facts = _begin(config, folder, cases, resume=resume) if first_process() else {}
    weights = folder / WEIGHTS
    if weights.exists():
        log.info("%s: training is already finished", folder)
        return weights
    pytorch_lightning.seed_everything(config.training.seed, workers=True, verbose=False)
    network = build_network(config, task, pretrained=True)
    specs = view_specs(config, network)
    _try_out(network, {m: spec.size for m, spec in specs.items()})
    data = CaseData(config, task, specs, cases[0], cases[1], config.data.cache or folder / "cache")
    bad = _decode(data, folder, machine, skip_bad=config.data.skip_bad)
    if bad:
        cases = _readable(cases, bad)
        machine.check(config.training.batch_size, sum(case.label is not None for case in cases[1]))
        data = CaseData(config, task, specs, cases[0], cases[1], config.data.cache or folder / "cache")
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
        "cases": {"train": _count(cases[0]), "validation": _count(cases[1])},
        "processes": machine.processes,
    }
    if first_process():
        write_json(folder / FACTS, facts)  # the first of a run's files, by which the folder is known to be one
        save_config(config, folder / CONFIG)

    counts = [sum(case.label == name for case in cases[0]) for name in task.classes]
    module = LesionModule(network, config.training, config.reconstruction, counts)
    module = module.to(memory_format=torch.channels_last)
    history = EpochHistory(folder / HISTORY, on_epoch)
    last = folder / CHECKPOINTS / "last.ckpt"
    with together(machine):
        profiler = StepProfiler() if machine.profile else None
        trainer = make_trainer(config, folder, machine, history, folder / CHECKPOINTS, profiler)
        try:
            trainer.fit(module, datamodule=data, ckpt_path=last if last.exists() else None, weights_only=True)
        except SystemExit as stop:  # how Lightning ends on Ctrl-C
            raise KeyboardInterrupt from stop
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
    write_atomically(weights, lambda temporary: save_file(state, temporary))
    return weights


def load_run(folder: Path) -> tuple[Config, Task, AGFNet, dict[str, Any]]:
    """Configuration, classes, trained network (evaluation mode) and facts of a finished run.

    Raises:
        BundleError: the folder holds no finished run, or one of another version's network.
    """
    if not (folder / WEIGHTS).is_file():
        raise BundleError(f"{folder}: holds no finished training run (no {WEIGHTS}). Train, or go on with --resume.")
    config = load_config(folder / CONFIG)
    facts = read_json(folder / FACTS)
    _check_network(folder, facts)
    task = Task(tuple(facts["classes"]), {k: tuple(v) for k, v in facts["extra_classes"].items()})
    network = build_network(config, task, pretrained=False)
    network.load_state_dict(load_file(folder / WEIGHTS))
    return config, task, network.eval(), facts


def _begin(
    config: Config, folder: Path, cases: tuple[Sequence[Case], Sequence[Case]], *, resume: bool
) -> dict[str, Any]:
    """Check or lay out the folder; a run that has finished no epoch yet may be started anew."""
    table_hash = table_sha256(config.data.table)
    case_hash = cases_sha256(*cases)
    if (folder / CHECKPOINTS / "last.ckpt").exists() or (folder / WEIGHTS).exists():
        if not resume:
            raise ConfigError(f"{folder}: already holds a run. Go on with --resume, or choose another folder.")
        facts: dict[str, Any] = read_json(folder / FACTS)
        _check_network(folder, facts)
        before = load_config(folder / CONFIG)
        if others := [key for key in different_keys(before, config) if key not in OF_THE_MACHINE]:
            raise ConfigError(
                f"{folder}: the run was started with another configuration ({CONFIG}): {', '.join(others)}. Resume "
                "with that one."
            )
        if facts["table_sha256"] != table_hash:
            raise ConfigError(f"{config.data.table}: has changed since the run was started; restore it or start anew.")
        if facts["cases_sha256"] != case_hash:
            raise ConfigError(f"{folder}: the run was started on other cases (another number of folds?); start anew.")
        unfinished = not (folder / WEIGHTS).exists()
        if unfinished and facts["trained_on"] != _prints_of(cases[0], image_fingerprints(cases[0])):
            raise ConfigError(
                f"{folder}: training images have changed since the run was started; restore them or start anew."
            )
        if unfinished:
            _note_resumption(facts, config)
        remove_leftovers(folder, *(part for part in folder.iterdir() if part.is_dir() and part.name != "cache"))
        return facts
    if resume:
        log.info("%s: holds no finished epoch; starting from the beginning", folder)
    prints = image_fingerprints([*cases[0], *cases[1]])
    check_apart(config, {"training": cases[0], "validation": cases[1]}, prints)
    chosen = {} if config.training.early_stopping is None else {"chosen_on": _prints_of(cases[1], prints)}
    check_free(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return {
        "notice": RESEARCH_USE,
        "network": NETWORK,
        "table": str(config.data.table),
        "table_sha256": table_hash,
        "cases_sha256": case_hash,
        "seed": config.training.seed,
        **_trained_by(config),
        "command": sys.argv,
        "trained_on": _prints_of(cases[0], prints),
        "trained_patients": sorted({patient_fingerprint(case.patient_id) for case in cases[0]}),
        **chosen,
    }


def check_free(folder: Path) -> None:
    """Refuse a folder that holds other things than runs, or what one that was stopped at its start leaves there.

    Raises:
        ConfigError: it does: a run would write over files of the same names.
    """
    if not folder.exists() or (folder / FACTS).exists() or any(folder.glob(f"fold-*/{FACTS}")):
        return
    known = {"train.log", "cache", BAD_CASES}
    others = sorted(
        own.name
        for own in folder.iterdir()
        if own.name not in known and not own.match(".*.tmp") and not own.name.startswith("fold-")
    )
    if others:
        more = f" and {len(others) - 1} more" if others[1:] else ""
        raise ConfigError(f"{folder}: holds other things than a run ({others[0]}{more}). Choose a new folder.")


def _trained_by(config: Config) -> dict[str, Any]:
    return {
        "code": _code(),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "precision": computes_in(config.training.precision),
        "versions": {name: _version(name) for name in PACKAGES} | {"python": platform.python_version()},
    }


def _note_resumption(facts: dict[str, Any], config: Config) -> None:
    """Enter into `resumed_by` what trains from now on, where it is not what trained until now."""
    now = _trained_by(config)
    before = facts.get("resumed_by", [facts])[-1]
    changed = [key for key in ("code", "device", "precision") if now[key] != before.get(key, now[key])]
    changed += [name for name in now["versions"] if now["versions"][name] != before["versions"].get(name)]
    if changed:
        log.warning("resumed with other %s than before: not as if it had not stopped", ", ".join(changed))
        facts["resumed_by"] = [*facts.get("resumed_by", []), now]


def _check_network(folder: Path, facts: Mapping[str, Any]) -> None:
    if facts.get("network") != NETWORK:
        raise BundleError(
            f"{folder}: was trained by a version of agfnet with another network. Train it anew in another folder, or "
            "use that version."
        )


def _prints_of(cases: Sequence[Case], prints: Mapping[str, set[str]]) -> list[str]:
    return sorted({own for case in cases for own in prints[case.case_id]})


def check_apart(config: Config, parts: Mapping[str, Sequence[Case]], prints: Mapping[str, set[str]]) -> None:
    """No image, whatever file it lies in, is of cases of two parts.

    Args:
        config: of the run.
        parts: what they are called -> their cases.
        prints: of all of them, see `image_fingerprints`.

    Raises:
        TableError: one is.
    """
    owner: dict[str, str] = {}
    shared: list[tuple[Case, str, str]] = []
    for name, cases in parts.items():
        for case in cases:
            others = sorted({owner.setdefault(own, name) for own in prints[case.case_id]} - {name})
            shared += [(case, name, other) for other in others[:1]]
    if shared:
        case, name, other = shared[0]
        raise TableError(
            f"{config.data.table}: row {case.row}, case {case.case_id}: an image of this {name} case is also one of a "
            f"{other} case ({len(shared)} such cases). `agfnet check {config.data.table} --deep` lists them; give both "
            "the same patient_id, split anew, and leave a view's field empty where its image only stands for a missing "
            "one."
        )


def _try_out(network: AGFNet, sizes: Mapping[str, tuple[int, int]]) -> None:
    """One forward pass of nothing, so that sizes that an encoder does not take are said before the work begins."""
    try:
        with torch.no_grad():
            network.eval()({m: torch.zeros(1, 3, *size) for m, size in sizes.items()})
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"the network does not take images of {dict(sizes)} (height, width): {error}") from error
    network.train()


def train_log(folder: Path) -> logging.Handler:
    """What appends to `train.log` in a run folder, which is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(folder / "train.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    return handler


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
        listed = {
            "case_id": [c.case_id for c, _ in bad],
            "row": [c.row for c, _ in bad],
            "error": [e for _, e in bad],
        }
        write_table(pl.DataFrame(listed), folder / BAD_CASES)
        log.warning("%d cases with unreadable images are left out; see %s", len(bad), folder / BAD_CASES)
    return {case.case_id for case, _ in bad}


def _readable(cases: tuple[Sequence[Case], Sequence[Case]], bad: set[str]) -> tuple[Sequence[Case], Sequence[Case]]:
    """The training and validation cases without the bad ones, where enough is left to learn the same classes."""
    train, validation = ([case for case in part if case.case_id not in bad] for part in cases)
    lost = {str(case.label) for case in cases[0]} - {str(case.label) for case in train}
    if lost:
        raise TableError(
            f"no training case that is {', '.join(sorted(lost))} can be read; see the images' errors in {BAD_CASES}."
        )
    if all(case.label is None for case in validation):
        raise TableError(f"no validation case with a label can be read; see the images' errors in {BAD_CASES}.")
    return train, validation


def _count(cases: Sequence[Case]) -> dict[str, Any]:
    return {
        "cases": len(cases),
        "patients": len({case.patient_id for case in cases}),
        "classes": dict(sorted(Counter(str(case.label) for case in cases).items())),
    }


def _code() -> str:
    """SHA-256 of this package's sources: it tells apart what has the same version."""
    sources = Path(agfnet.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(sources.rglob("*.py")):
        digest.update(f"{file.relative_to(sources)}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
