"""The front door: from nothing to trained networks and honest figures on the built-in phantom.

The phantom and each finished training are left alone, so a demo that was stopped goes on when it is called again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agfnet.config import Config, load_config, parse_config
from agfnet.data.checks import check_table
from agfnet.data.phantom.appearance import MALIGNANT
from agfnet.data.phantom.generate import phantom
from agfnet.data.split import split_to_file
from agfnet.data.table import read_cases
from agfnet.evaluation.calibrate import calibrate
from agfnet.evaluation.evaluate import chosen_part, evaluate_outcomes
from agfnet.evaluation.experiment import run
from agfnet.evaluation.report import report_facts
from agfnet.evaluation.report_page import PAGE, write_report
from agfnet.evaluation.showcase import showcase_picture
from agfnet.files import write_json, write_text
from agfnet.metrics.classification import balanced_accuracy
from agfnet.metrics.statistics import Difference, Interval, MetricSet, bootstrap, paired_difference
from agfnet.prediction.asking import predict_cases
from agfnet.prediction.bundle import BUNDLE, read_bundle
from agfnet.prediction.decision import read_decision
from agfnet.prediction.predictor import Outcome, Predictor
from agfnet.runfolder import CACHE, CONFIG
from agfnet.types import RESEARCH_USE, SYNTHETIC, Case, ConfigError, TableError

log = logging.getLogger("agfnet")
Progress = Callable[[int, int], None]

VIEWS: Mapping[str, Mapping[str, object]] = {
    "clinical": {"kind": "photo", "size": [128, 128]},
    # At 0.1 mm a pixel the frame shows 16 mm by 11 mm.
    "ultrasound": {"kind": "ultrasound", "size": [112, 160], "mm_per_pixel": 0.1},
}
NETWORKS: Mapping[str, tuple[str, ...]] = {
    "both views": ("clinical", "ultrasound"),
    "clinical photo alone": ("clinical",),
    "ultrasound alone": ("ultrasound",),
}
REPORT_FOLDER = "report"
SUBGROUPS = ("skin_type", "device")
FRACTIONS = {"train": 0.45, "validation": 0.04, "calibration": 0.12, "test": 0.39}
"""More cases to test on than a study would spare, as synthetic ones are cheap: the interval should be narrow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """What came of a demo.

    Attributes:
        folder: where everything is.
        balanced_accuracy: network -> balanced accuracy on the test part, with its interval.
        gain: both views minus the better single view, on the same cases.
        better: the better single view's network.
        cases, patients: of the test part.
        minutes: that this call took.
        example: a case of the test part.
    """

    folder: Path
    balanced_accuracy: Mapping[str, Interval]
    gain: Difference
    better: str
    cases: int
    patients: int
    minutes: float
    example: Case


def demo_config(table: Path, views: Sequence[str], cache: Path, epochs: int) -> Config:
    """The configuration of one of the demo's networks."""
    tree = {
        "data": {
            "table": str(table),
            "views": {view: VIEWS[view] for view in views},
            "malignant": MALIGNANT,
            "cache": str(cache),
        },
        "training": {"epochs": epochs, "class_weights": "sqrt", "validate_every": max(1, epochs // 2)},
        "prediction": {"prevalence": "sqrt"},  # else of melanomas, which are rare and like naevi, too many are missed
    }
    return parse_config(tree, "the demo")


def demo(
    folder: Path,
    *,
    cases: int = 1200,
    epochs: int = 7,
    seed: int = 0,
    bar: Callable[[str], AbstractContextManager[Progress]] = lambda _title: nullcontext(lambda _done, _total: None),
    configure: Callable[[Config], Config] = lambda config: config,
) -> DemoResult:
    """Phantom, check, split, three networks (both views, each view alone), test, calibration, report, pictures.

    Args:
        folder: for everything; a demo that was stopped goes on in it.
        cases: of the phantom set.
        epochs: of each training.
        seed: of the phantom, the split and the trainings.
        bar: makes a progress bar of a title: a context that gives a function of the done and of all.
        configure: changes each network's configuration before it is trained.

    Raises:
        ConfigError: the folder holds a demo with other settings.
        TableError: the phantom's table has a fault.
    """
    began = time.monotonic()
    log.info("1 of 7  drawing %d paired cases (%s)", cases, folder / "phantom")
    with bar("drawing cases") as progress:
        table = phantom(folder / "phantom", cases=cases, seed=seed, progress=progress)
    log.info("2 of 7  checking the table, and splitting it by patient")
    parts = folder / "phantom" / "parts.csv"
    if not parts.exists():
        report = check_table(table, level="quick")
        if not report.ok:
            more = "; make more --cases" if cases < 600 else ""
            raise TableError(f"{table}: {report.faults[0]}{more}")
        split_to_file(table, parts, fractions=FRACTIONS, seed=seed)
    outcomes: dict[str, list[Outcome]] = {}
    for step, (name, views) in enumerate(NETWORKS.items(), start=3):
        log.info("%d of 7  training: %s", step, name)
        config = configure(demo_config(parts, views, folder / CACHE, epochs))
        outcomes[name] = _tested(config, _run_folder(folder, name))
    log.info("6 of 7  calibrating the network of both views, and its report")
    both = _run_folder(folder, "both views")
    if read_decision(read_bundle(both)) is None:
        calibrate(both)
    reported = report_facts(both, parts, folder / REPORT_FOLDER, part="test", include_test=True, subgroups=SUBGROUPS)
    write_report(*reported, folder / REPORT_FOLDER)
    log.info("7 of 7  comparing the networks on the test part")
    return _compared(folder, outcomes, (time.monotonic() - began) / 60.0)


def _run_folder(folder: Path, name: str) -> Path:
    return folder / name.replace(" ", "-")


def _tested(config: Config, folder: Path) -> list[Outcome]:
    """Train unless that is done; then evaluate the exported file on the test part."""
    if (folder / CONFIG).exists() and load_config(folder / CONFIG) != config:
        raise ConfigError(f"{folder}: holds a demo with other settings; choose another folder with --out.")
    run(config, folder, resume=folder.exists())
    cases = read_cases(config.data.table, views=list(config.data.views))
    test = chosen_part(cases, "test", include_test=True, table=config.data.table)
    predictor = Predictor(folder, calibrated=False)  # as the networks of single views are
    outcomes = predict_cases(predictor, test)
    facts = {"table": str(config.data.table), "part": "test", "include_test": True}
    subgroups = SUBGROUPS if len(config.data.views) > 1 else ()
    evaluate_outcomes([(predictor, outcomes)], folder / "test", subgroups=subgroups, facts=facts)
    return outcomes


def _compared(folder: Path, outcomes: Mapping[str, Sequence[Outcome]], minutes: float) -> DemoResult:
    classes = read_bundle(_run_folder(folder, "both views")).classes
    both, *single = outcomes
    first = outcomes[both]
    patients = [o.case.patient_id for o in first]
    scores = {name: _balanced(own, classes) for name, own in outcomes.items()}
    intervals = {name: bootstrap(score, patients)["balanced_accuracy"] for name, score in scores.items()}
    better = max(single, key=lambda name: float(intervals[name].value))
    result = DemoResult(
        folder=folder,
        balanced_accuracy=intervals,
        gain=paired_difference(scores[both], scores[better], patients)["balanced_accuracy"],
        better=better,
        cases=len(first),
        patients=len(set(patients)),
        minutes=minutes,
        example=first[0].case,
    )
    showcase_picture(outcomes, classes, folder / "showcase.png")
    write_json(folder / "demo.json", _as_json(result))
    write_text(folder / "demo.md", demo_markdown(result))
    return result


def _balanced(outcomes: Sequence[Outcome], classes: Sequence[str]) -> MetricSet:
    labels = np.array([classes.index(str(o.case.label)) for o in outcomes if o.prediction is not None])
    p = np.stack([o.prediction.probabilities for o in outcomes if o.prediction is not None])
    return lambda weights: {"balanced_accuracy": balanced_accuracy(labels, p, weights)}


def _as_json(result: DemoResult) -> dict[str, object]:
    return {
        "notice": f"{SYNTHETIC} {RESEARCH_USE}",
        "cases": result.cases,
        "patients": result.patients,
        "balanced_accuracy": {name: interval.as_json() for name, interval in result.balanced_accuracy.items()},
        "gain": {"over": result.better, **result.gain.as_json()},
    }


def demo_markdown(result: DemoResult) -> str:
    """The demo's result as a short table in Markdown."""

    def percent(interval: Interval) -> str:
        return " | ".join(
            [
                f"{100 * float(interval.value):.1f} %",
                f"{100 * float(interval.low):.1f} to {100 * float(interval.high):.1f}",
            ]
        )

    gain = result.gain
    return "\n".join(
        [
            f"Test part: {result.cases} cases of {result.patients} patients that no network has seen.",
            "",
            "| Network | Balanced accuracy | 95 % interval |",
            "|---|---|---|",
            *(f"| {name} | {percent(interval)} |" for name, interval in result.balanced_accuracy.items()),
            "",
            (
                f"Both views against {result.better}, on the same cases: {100 * float(gain.value):+.1f} points "
                f"({100 * float(gain.low):+.1f} to {100 * float(gain.high):+.1f})."
            ),
            "",
            f"{SYNTHETIC} {RESEARCH_USE}",
            "",
        ]
    )


def demo_paths(result: DemoResult) -> list[tuple[Path, str]]:
    """What to open after a demo, each with what it is."""
    both = _run_folder(result.folder, "both views")
    return [
        (result.folder / REPORT_FOLDER / PAGE, "the report on the network of both views"),
        (result.folder / "showcase.png", "cases with what each network says"),
        (both / "curves.png", "the training"),
        (result.folder / "phantom" / "sheets", "what the phantoms look like"),
        (both / BUNDLE, "the network as one file"),
    ]
