r"""Throughput against AutoGluon MultiModal: same encoder and weights, same images on disk, same size and batch.

    python3 -m venv autogluon && autogluon/bin/pip install autogluon.multimodal
    agfnet phantom bench --cases 700 --balanced && agfnet split bench/cases.csv -o bench/parts.csv
    python benchmarks/against_autogluon.py --python autogluon/bin/python -c configs/phantom.yaml \
        data.table=bench/parts.csv data.views.ultrasound.size=[224,224]

AutoGluon takes part as its defaults would have it (one encoder for all images, its own augmentation, two loading
workers), in float32 and in bfloat16; the faster of the two is compared with. agfnet trains the whole network with FRL
in every step. Both are measured in turn, round by round; medians. Prediction is from files to probabilities: agfnet's
without test-time flips, as AutoGluon has none, and with them beside it.

Prints JSON: cases a second of each, and two ratios with what they should reach.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import timm
import torch
from training import WARM, cases_a_second, prepared

from agfnet.config import Config, load_config
from agfnet.data.table import own_cases
from agfnet.evaluation.experiment import train_and_export
from agfnet.models.encoders import package_weights
from agfnet.prediction.bundle import read_bundle
from agfnet.prediction.predictor import Predictor
from agfnet.training.precision import bfloat16_pays
from agfnet.training.run import parts
from agfnet.types import Case, Split

TRAINING_TARGET, PREDICTION_TARGET = 1.6, 4.0
SETTINGS = {"float32": {"env.precision": "32-true"}, "bfloat16": {"env.precision": "bf16-mixed"}}


def encoder_folder(name: str, folder: Path) -> Path:
    """The encoder's pretrained weights as the local checkpoint folder that AutoGluon reads."""
    weights = package_weights(name)
    if weights is None:
        raise SystemExit(f"no package with the weights of {name}; see the README")
    model = timm.create_model(name, num_classes=0)
    body = {key: value for key, value in weights.items() if not key.startswith("classifier.")}
    model.load_state_dict(body, strict=False)  # without the counters of batches seen
    folder.mkdir(parents=True)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    told = {"architecture": name, "num_features": model.num_features, "pretrained_cfg": model.default_cfg}
    (folder / "config.json").write_text(json.dumps(told))
    return folder


def columns(cases: Sequence[Case], views: Sequence[str]) -> dict[str, list[str]]:
    """The cases as AutoGluon's table: full paths and the diagnosis."""
    # AutoGluon takes a file that it cannot open for a black image, without a word.
    table = {view: [str(Path(str(case.views[view][0])).resolve(strict=True)) for case in cases] for view in views}
    return {**table, "label": [str(case.label) for case in cases]}


def autogluon(python: Path, work: dict[str, Any]) -> dict[str, float]:
    """One round of AutoGluon in its own environment."""
    script = Path(__file__).with_name("autogluon_side.py")
    done = subprocess.run(  # noqa: S603  the reader's own interpreter
        [python, script], input=json.dumps(work), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"AutoGluon failed:\n{done.stderr[-3000:]}")
    told: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return told


def predicted_a_second(predictor: Predictor, cases: Sequence[Case]) -> float:
    """Cases a second from files to probabilities, as AutoGluon's are measured: twice as many minus once."""
    seconds = []
    for asked in (cases, [*cases, *cases]):
        began = time.perf_counter()
        count = sum(outcome.prediction is not None for outcome in predictor.predict(asked))
        seconds.append(time.perf_counter() - began)
        if count != len(asked):
            raise SystemExit("a case could not be read")
    return len(cases) / (seconds[1] - seconds[0])


def measured(config: Config, python: Path, folder: Path, rounds: int, steps: int, pairs: int) -> dict[str, Any]:
    """All rounds, their medians and the ratios."""
    size, views = config.training.batch_size, list(config.data.views)
    sides = {side for view in config.data.views.values() for side in view.size}
    if len(sides) != 1 or not isinstance(config.model.encoder, str):
        raise SystemExit("AutoGluon takes one square size and one encoder for all views")
    train, validation = parts(config, own_cases(config.data))
    whole = [case for case in (*train, *validation) if all(case.views.values())]
    needed = (WARM + steps) * size
    if len(train) < needed or len(whole) < pairs:
        raise SystemExit(f"{needed} training cases and {pairs} cases in all are needed; there are {len(train)}")
    work = {
        "train": columns(train[:needed], views),
        "validation": columns(validation[:size], views),
        "asked": columns(whole[:pairs], views),
        "views": views,
        "checkpoint": str(encoder_folder(config.model.encoder, folder / "encoder")),
        "image_size": sides.pop(),
        "batch_size": size,
        "warm": WARM,
    }
    module, data = prepared(config, folder / "cache")
    precision = "bf16-mixed" if bfloat16_pays() else "32-true"
    short = config.model_copy(update={"training": config.training.model_copy(update={"epochs": 1})})
    train_and_export(short, folder / "run", Split(train[:size], validation[:size]), resume=False)
    bundle = read_bundle(folder / "run")
    plain = replace(bundle, facts={**bundle.facts, "flips": False})
    predictors = {"agfnet": Predictor(plain), "agfnet_with_flips": Predictor(bundle)}
    training: dict[str, list[float]] = {}
    prediction: dict[str, list[float]] = {}
    for _ in range(rounds):
        loader = data.train_dataloader()
        training.setdefault("agfnet", []).append(cases_a_second(module, loader, steps, size, precision))
        for name, predictor in predictors.items():
            prediction.setdefault(name, []).append(predicted_a_second(predictor, whole[:pairs]))
        for name, settings in SETTINGS.items():
            theirs = autogluon(python, {**work, "settings": settings})
            training.setdefault(f"autogluon_{name}", []).append(theirs["training"])
            prediction.setdefault(f"autogluon_{name}", []).append(theirs["prediction"])
    trained, asked = ({k: round(median(v), 3) for k, v in found.items()} for found in (training, prediction))
    return {
        "training_cases_a_second": trained,
        "training_ratio": round(trained["agfnet"] / max(trained[f"autogluon_{n}"] for n in SETTINGS), 3),
        "training_target": TRAINING_TARGET,
        "prediction_cases_a_second": asked,
        "prediction_ratio": round(asked["agfnet"] / max(asked[f"autogluon_{n}"] for n in SETTINGS), 3),
        "prediction_target": PREDICTION_TARGET,
        "rounds": {"training": training, "prediction": prediction},
        "steps": steps,
        "pairs": pairs,
        "batch_size": size,
        "image_size": work["image_size"],
        "encoder": config.model.encoder,
        "precision": precision,
        "threads": torch.get_num_threads(),
        "torch": version("torch"),
    }


def main() -> None:
    """Read the arguments, measure, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, required=True, help="the interpreter of AutoGluon's environment")
    parser.add_argument("-c", "--config", type=Path, required=True, help="as of `agfnet train`; one square size")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20, help="measured training steps a round")
    parser.add_argument("--pairs", type=int, default=200, help="cases that are predicted")
    parser.add_argument("-o", "--out", type=Path, help="write the JSON here too")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    config = load_config(asked.config, asked.overrides)
    with tempfile.TemporaryDirectory() as folder:
        found = measured(config, asked.python, Path(folder), asked.rounds, asked.steps, asked.pairs)
    told = json.dumps(found, indent=1)
    if asked.out is not None:
        asked.out.write_text(told + "\n")
    print(told)


if __name__ == "__main__":
    main()
