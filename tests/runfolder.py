"""What a run folder holds, for tests that stop and kill runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

from agfnet.prediction.bundle import read_bundle


def history(folder: Path) -> list[dict[str, float]]:
    path = folder / "history.json"
    return json.loads(path.read_text()) if path.exists() else []


def whole(folder: Path) -> None:
    """Every file under its final name can be read to its end."""
    for path in folder.rglob("*"):
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".ckpt":
            torch.load(path, weights_only=True)
        elif path.suffix == ".npy":
            np.load(path)
        elif path.suffix == ".safetensors":
            load_file(path)
        elif path.suffix == ".agf":
            read_bundle(path)
