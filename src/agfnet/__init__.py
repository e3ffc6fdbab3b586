"""agfnet: diagnosis of skin lesions from a clinical photo and a skin ultrasound image together. Research use only.

Rooms, in the order in which a case passes them:

- `types`, `kinds`, `config`, `files`, `places`, `cores`: records, kinds of image, configuration, whole files, paths and
  URLs, processors
- `data`: the case table, images, preprocessing, augmentation, batches, the built-in phantom
- `metrics`: figures and their intervals, pure functions of arrays
- `models`: encoders, local (ALL) and global (AGL) fusion, the network
- `training`: losses, feature reconstruction learning (FRL), the run
- `export`: a run to a bundle with its ONNX graph
- `prediction`: the bundle and the one inference path, without torch
- `serving`: the service, its page, audit log and metrics
- `evaluation`: scorecards, pictures, whole experiments, comparisons, the demo
- `cli`, `console`: the commands and what they say

Public names are loaded when first used, so that `import agfnet` works where torch is not installed.
"""

from __future__ import annotations

import os
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for those who check types; else they are loaded when first used
    from agfnet.config import Config as Config
    from agfnet.config import load_config as load_config
    from agfnet.data.phantom.generate import phantom as phantom
    from agfnet.data.table import read_cases as read_cases
    from agfnet.models.network import AGFNet as AGFNet
    from agfnet.prediction.predictor import Outcome as Outcome
    from agfnet.prediction.predictor import Predictor as Predictor
    from agfnet.types import AgfnetError as AgfnetError
    from agfnet.types import Case as Case
    from agfnet.types import Prediction as Prediction

# ONNX Runtime would tell its maker of the machine and of the models that it runs; it asks when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_PUBLIC = {
    "AGFNet": "agfnet.models.network",
    "AgfnetError": "agfnet.types",
    "Case": "agfnet.types",
    "Config": "agfnet.config",
    "Outcome": "agfnet.prediction.predictor",
    "Prediction": "agfnet.types",
    "Predictor": "agfnet.prediction.predictor",
    "load_config": "agfnet.config",
    "phantom": "agfnet.data.phantom.generate",
    "read_cases": "agfnet.data.table",
}
__all__ = sorted(_PUBLIC)  # noqa: PLE0605 - the names are the keys above


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    if name == "__version__":
        try:
            return version("agfnet")
        except PackageNotFoundError:  # run from its source
            return "unknown"
    if name not in _PUBLIC:
        raise AttributeError(f"module 'agfnet' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
