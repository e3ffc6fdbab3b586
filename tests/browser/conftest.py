from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from served import Service, serving


@pytest.fixture(scope="session")
def service(calibrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A real service of a small network, on this machine, without tokens."""
    with serving(calibrated, tmp_path_factory.mktemp("page"), "--threads", 1) as running:
        yield running
