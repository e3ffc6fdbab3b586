"""Nothing of a machine or a model is told to anyone: ONNX Runtime's telemetry stays off."""

from __future__ import annotations

import os
import subprocess
import sys

CODE = (
    "import sys, time; from pathlib import Path; import agfnet\n"
    "agfnet.Predictor(Path(sys.argv[1]), threads=1); time.sleep(2)"
)


def test_the_runtime_keeps_no_events(trained, tmp_path):
    kept = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / ".cache")}
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"} | kept
    subprocess.run([sys.executable, "-c", CODE, str(trained)], env=environment, check=True)
    assert not [p for p in tmp_path.rglob("*") if "onnxruntime" in p.name or "Microsoft" in p.name]
