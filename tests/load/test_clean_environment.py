"""What a hospital installs: the wheel with [serve,dicom] alone, run by a user who may write the audit log alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx2
import pytest

from agfnet.data.table import read_cases
from served import serving

pytestmark = pytest.mark.full
ROOT = Path(__file__).parents[2]
NOBODY = 65534


@pytest.fixture(scope="module")
def place():
    """A folder that everyone can read, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="agfnet-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="module")
def python(place):
    """The interpreter of a new environment."""
    subprocess.run([interpreter(), "-m", "venv", place / "venv"], check=True)
    install = [
        place / "venv" / "bin" / "pip",
        "install",
        "--quiet",
        "-c",
        ROOT / "constraints.txt",
        f"{ROOT}[serve,dicom]",
    ]
    subprocess.run(install, check=True, cwd=place)
    return place / "venv" / "bin" / "python"


def bytes_of(folder):
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def test_it_is_small_and_has_no_torch(python):
    megabytes = bytes_of(python.parents[1]) / 1e6
    print(f"installed: {megabytes:.0f} MB")
    assert megabytes < 500
    for package in ("torch", "torchvision", "timm", "scipy", "sklearn", "matplotlib"):
        found = subprocess.run([python, "-c", f"import {package}"], capture_output=True, check=False)
        assert found.returncode == 1
        assert b"ModuleNotFoundError" in found.stderr


def test_a_plain_user_serves(python, place, calibrated, drawn):
    case = next(c for c in read_cases(drawn / "parts.csv") if all(c.views.values()))
    files = {view: paths[0].read_bytes() for view, paths in case.views.items()}
    bundle, state, user = place / "model.agf", place / "state", plain_user(python)
    if user is None and os.getuid() == 0:
        pytest.skip("no interpreter here can be run by another user than root")
    subprocess.run(["chmod", "-R", "a-w", python.parents[1]], check=True)
    shutil.copy(calibrated / "model.agf", bundle)
    bundle.chmod(0o444)
    state.mkdir()
    if user is not None:
        os.chown(state, user, -1)
    times = []
    for _ in range(3):
        with serving(bundle, state, "--threads", 2, command=python.with_name("agfnet"), user=user) as running:
            times.append(running.ready_after)
            for path in ("/v1/predict", "/v1/explain"):
                assert httpx2.post(running.url + path, files=files, timeout=30).status_code == 200
            assert httpx2.get(running.url + "/page/app.js").status_code == 200
            resident = running.resident()
    print(
        json.dumps(
            {"user": user, "ready_after_s": [round(t, 2) for t in times], "resident_mib": round(resident / 2**20)}
        )
    )
    assert min(times) < 3.0
    assert resident < 700e6


def interpreter():
    """A Python that the plain user can run: this one may lie in root's home."""
    return next((one for one in (sys.executable, "/usr/bin/python3") if plain_user(one) is not None), sys.executable)


def plain_user(python):
    """Another user than root, if that one can run this interpreter."""
    if os.getuid() != 0:
        return None
    try:
        subprocess.run([python, "-c", "import ensurepip"], user=NOBODY, check=True, cwd="/", capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return NOBODY
