"""The folder of a training run: begun, known again, and gone on with."""

from __future__ import annotations

import hashlib
import logging
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import agfnet
from agfnet.config import Config, different_keys, load_config
from agfnet.data.fingerprints import image_fingerprints, patient_fingerprint
from agfnet.data.table import cases_sha256
from agfnet.data.tablefile import table_sha256
from agfnet.files import read_json, remove_leftovers, write_json
from agfnet.runfolder import BAD_CASES, CACHE, CHECKPOINTS, CONFIG, FACTS, LOCK, LOG, WEIGHTS
from agfnet.training.precision import computes_in
from agfnet.types import RESEARCH_USE, BundleError, Case, ConfigError, Split, TableError

log = logging.getLogger("agfnet")

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


def begin(config: Config, folder: Path, cases: Split, *, resume: bool) -> dict[str, Any]:
    """Check or lay out the folder; a run that has finished no epoch yet may be started anew."""
    table_hash = table_sha256(config.data.table)
    case_hash = cases_sha256(*cases)
    if (folder / CHECKPOINTS / "last.ckpt").exists() or (folder / WEIGHTS).exists():
        if not resume:
            raise ConfigError(f"{folder}: already holds a run. Go on with --resume, or choose another folder.")
        facts: dict[str, Any] = read_json(folder / FACTS)
        check_network(folder, facts)
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
        if unfinished and facts["trained_on"] != _prints_of(cases.train, image_fingerprints(cases.train)):
            raise ConfigError(
                f"{folder}: training images have changed since the run was started; restore them or start anew."
            )
        if unfinished:
            _note_resumption(facts, config)
        if "chosen_on" not in facts:  # of a version that did not note it
            facts["chosen_on"] = _chosen_on(config, cases, image_fingerprints(cases.validation))
            write_json(folder / FACTS, facts)
        remove_leftovers(folder, *(part for part in folder.iterdir() if part.is_dir() and part.name != CACHE))
        return facts
    if resume:
        log.info("%s: holds no finished epoch; starting from the beginning", folder)
    prints = image_fingerprints([*cases.train, *cases.validation])
    check_apart(config, {"training": cases.train, "validation": cases.validation}, prints)
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
        "trained_on": _prints_of(cases.train, prints),
        "trained_patients": sorted({patient_fingerprint(case.patient_id) for case in cases.train}),
        "chosen_on": _chosen_on(config, cases, prints),
    }


def _chosen_on(config: Config, cases: Split, prints: Mapping[str, set[str]]) -> list[str]:
    """Fingerprints of the images that the epoch is chosen on, if it is."""
    if config.training.early_stopping is None:
        return []
    return _prints_of(cases.validation, prints)


def check_free(folder: Path) -> None:
    """Refuse a folder that holds other things than runs, or what one that was stopped at its start leaves there.

    Raises:
        ConfigError: it does: a run would write over files of the same names.
    """
    if folder.is_file():
        raise ConfigError(f"{folder}: is a file. Name a folder for the run.")
    if not folder.exists() or (folder / FACTS).exists() or any(folder.glob(f"fold-*/{FACTS}")):
        return
    known = {LOG, CACHE, BAD_CASES, LOCK}
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


def check_network(folder: Path, facts: Mapping[str, Any]) -> None:
    """Refuse a run of another version's network.

    Raises:
        BundleError: it is one.
    """
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


def train_log(folder: Path) -> logging.Handler:
    """What appends to `train.log` in a run folder, which is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(folder / LOG, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    return handler


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
