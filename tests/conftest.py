from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from agfnet.cli import app
from agfnet.config import parse_config
from agfnet.data.split import split_to_file
from agfnet.evaluation.experiment import run
from drawn import draw_cases, small_config


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


@pytest.fixture(scope="session")
def trained(drawn: Path) -> Path:
    """The run folder of a small training on the drawn cases, exported and evaluated."""
    config = parse_config(small_config(drawn / "parts.csv"), "drawn")
    run(config, drawn / "trained")
    return drawn / "trained"
