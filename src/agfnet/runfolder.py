"""What lies where in the folder of a training run; its bundle is `agfnet.prediction.bundle.BUNDLE`."""

from __future__ import annotations

CONFIG = "config.yaml"
FACTS = "run.json"
WEIGHTS = "weights.safetensors"
HISTORY = "history.json"
CHECKPOINTS = "checkpoints"
CACHE = "cache"
LOG = "train.log"
BAD_CASES = "bad_cases.csv"
LOCK = ".lock"
"""Held by the process that works in the folder."""
