from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import polars as pl
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from agfnet.cli import app
from agfnet.config import parse_config
from agfnet.data.split import split_to_file
from agfnet.data.table import read_cases
from agfnet.evaluation.calibrate import calibrate
from agfnet.evaluation.experiment import run
from agfnet.prediction.bundle import write_bundle
from agfnet.prediction.decision import write_decision
from agfnet.prediction.predictor import Predictor
from drawn import draw_cases, small_config

collect_ignore_glob = ["conftest.py", "*/conftest.py"]
"""Of doctests: there are several modules of that name."""


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of drawn cases with `cases.csv`; `parts.csv` has the four parts."""
    folder = tmp_path_factory.mktemp("drawn")
    split_to_file(draw_cases(folder), folder / "parts.csv")
    return folder


@pytest.fixture
def agfnet_command():
    """Runs a command in this process; its result has `exit_code`, `stdout` and `stderr`."""

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)

    return run


@pytest.fixture
def memory():
    """fsspec's file system in memory, empty."""
    store = fsspec.filesystem("memory")
    yield store
    store.store.clear()
    store.pseudo_dirs[:] = [""]


@pytest.fixture(scope="session")
def trained(drawn: Path) -> Path:
    """The run folder of a small training on the drawn cases, exported and evaluated."""
    config = parse_config(small_config(drawn / "parts.csv"), "drawn")
    run(config, drawn / "trained")
    return drawn / "trained"


@pytest.fixture(scope="session")
def calibrated(trained: Path, drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of `trained`, calibrated on its validation part."""
    folder = tmp_path_factory.mktemp("fitted") / "run"
    shutil.copytree(trained, folder)
    calibrate(folder, table=drawn / "parts.csv", part="validation", draws=100, threads=1)
    return folder


@pytest.fixture(scope="session")
def answering(calibrated: Path, drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of `calibrated` that answers the surer half of the cases: so few to calibrate on refer all of them."""
    folder = tmp_path_factory.mktemp("answering") / "run"
    shutil.copytree(calibrated, folder)
    network = Predictor(folder, threads=1)
    said = [outcome.prediction for outcome in network.predict(read_cases(drawn / "parts.csv"))]
    middle = float(np.median([answer.probabilities.max() for answer in said]))
    limits = {views: replace(own, certainty=middle) for views, own in network.decision.limits.items()}
    parts = network.bundle.parts | write_decision(replace(network.decision, limits=limits))
    write_bundle(folder / "model.agf", network.bundle.facts, parts)
    return folder


@pytest.fixture(scope="session")
def masks(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Masks of the drawn photos: the spot is what is far from the background's colour."""
    folder = tmp_path_factory.mktemp("masks")
    rows = []
    for case in read_cases(drawn / "parts.csv"):
        if case.views["clinical"]:
            pixels = np.asarray(Image.open(case.views["clinical"][0]).convert("RGB"), float)
            spot = np.abs(pixels - (222, 180, 160)).mean(-1) > 9
            Image.fromarray(np.uint8(255 * spot)).save(folder / f"{case.case_id}.png")
        rows.append({"case_id": case.case_id, "clinical_mask": f"{case.case_id}.png" if case.views["clinical"] else ""})
    pl.DataFrame(rows).write_csv(folder / "masks.csv")
    return folder / "masks.csv"
