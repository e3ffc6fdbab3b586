"""Calibrate a trained run: ask it about calibration cases, fit, write it into the bundle, and show before and after."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agfnet.config import Config, load_config
from agfnet.data.fingerprints import image_fingerprints
from agfnet.data.table import cases_sha256, own_cases, read_cases
from agfnet.data.tablefile import table_sha256
from agfnet.evaluation.answers import Answers, answers_of, labels_of, synthetic_note, whole
from agfnet.evaluation.calibration_page import calibration_markdown
from agfnet.evaluation.evaluate import own_data
from agfnet.evaluation.fit_decision import Asked, by_views, fit_decision, statistics_of
from agfnet.evaluation.fitting import among, cross_fitted, fit_of_their_own, referral_facts
from agfnet.evaluation.missed import missed_malignant
from agfnet.evaluation.pictures import reliability_picture
from agfnet.evaluation.scorecard import scorecard
from agfnet.files import read_json, write_json, write_text
from agfnet.metrics.patients import DRAWS
from agfnet.prediction.asking import predict_cases
from agfnet.prediction.bundle import BUNDLE, PARTS, read_bundle, write_bundle
from agfnet.prediction.decision import Decision, named, write_decision
from agfnet.prediction.predictor import Predictor
from agfnet.runfolder import CONFIG, FACTS
from agfnet.types import RESEARCH_USE, Case, ConfigError, Place, Reason, TableError

log = logging.getLogger("agfnet")
FOLDER = "calibration"
OPTIMISTIC = (
    "Fitted on cases of the validation part, on which choices were made: calibration and coverage are optimistic."
)


def calibrate(
    run: Path,
    *,
    table: Place | None = None,
    data_root: Place | None = None,
    part: str = "calibration",
    coverage: float = 0.9,
    risk: float = 0.1,
    false_refers: float = 0.01,
    seed: int = 0,
    threads: int = 0,
    draws: int = DRAWS,
) -> dict[str, Any]:
    """Fit temperature, diagnosis sets and the rule that refers, and write them into the run's bundle.

    Args:
        run: a finished run folder.
        table: the calibration cases, in the place of those of the run's own table; without parts, all its cases.
        data_root: the folder that every image of `table` must lie in; the run's own table has the run's.
        part: only cases of this part.
        coverage: chosen coverage of the diagnosis sets.
        risk: wanted share of errors among the answered cases.
        false_refers: share of ordinary cases that each of the checks for strange images and disagreement may refer.
        seed: of every draw.
        threads: of ONNX Runtime.
        draws: bootstrap draws of the figures before and after.

    Returns:
        What was fitted and how the same cases fare before and after; also in `calibration/` of the run.

    Raises:
        BundleError: the folder holds no finished run.
        ConfigError: it is no folder, its table has other training cases than it was trained on, or calibration cases
            were trained on.
        TableError: no labelled calibration case, or none of a class, or those of one patient alone, or test cases.
    """
    if run.is_file():
        raise ConfigError(f"{run}: is a file. Name the run folder that it is from: its training images are looked at.")
    bundle = read_bundle(run)
    config = load_config(run / CONFIG)
    learnt_mix = dict(zip(bundle.classes, bundle.prior, strict=True))  # what the network's answers are right for
    predictor = Predictor(bundle, threads=threads, calibrated=False, prevalence=learnt_mix)
    own_table, _ = own_data(
        run,
        "Call from the folder that the run was trained in, also with a TABLE: the run's own tells which cases it was "
        "trained on.",
    )
    own = own_cases(config.data)
    trained = _trained(run, config, own)
    if table is None and data_root is not None:
        raise ConfigError(
            "--data-root is of a TABLE: that of the run's own is data.data_root of its configuration. Name a table, or "
            "leave --data-root out."
        )
    given = own if table is None else read_cases(table, views=list(predictor.specs), data_root=data_root)
    kept = {"was trained on": trained}
    if table is not None:  # within a table, its own check keeps the parts apart
        kept["is of the run's test cases"] = [case for case in own if case.split == "test"]
    table = table or own_table
    cases = _chosen(given, kept, part, table)
    absent = sorted(set(predictor.classes) - {str(case.label) for case in cases})
    if absent:
        raise TableError(
            f"{table}: no calibration case is {', '.join(absent)}: the network would become sure of what it was never "
            "tried on. Calibrate on cases of every class."
        )
    labels_of(cases, predictor.classes)
    log.info("asking about %d calibration cases", len(cases))
    asked = list(whole(predict_cases(predictor, cases), skip_bad=config.data.skip_bad))
    fewer = _asked_with_fewer(predictor, [case for case, _ in asked])
    log.info("asking about %d training cases, for what their images look like", len(trained))
    learnt = described(predictor, trained, skip_bad=config.data.skip_bad)

    prints = _images(cases)
    chosen_on = _images([case for case in own if case.split in config.data.validation])
    bare = sum(case.label is None for case in _of_part(given, part))
    notes = [
        *synthetic_note(cases),
        *(
            [f"{bare} of {bare + len(cases)} calibration cases have no label: nothing is fitted on them."]
            if bare
            else []
        ),
        *([] if prints.isdisjoint(chosen_on) else [OPTIMISTIC]),
    ]
    facts = {
        "table": str(table),
        "table_sha256": table_sha256(table),
        "part": part,
        "cases": len(asked),
        "patients": len({case.patient_id for case, _ in asked}),
        "trained_on": len(learnt),
        "fitted_on": sorted(prints),
        "false_refers": false_refers,
        "notes": notes,
    }
    decision = fit_decision(
        asked,
        fewer,
        {view: np.concatenate(statistics_of(view, learnt)) for view in predictor.specs},
        predictor.classes,
        predictor.bundle.prior,
        facts,
        prevalence=predictor.bundle.prevalence,
        coverage=coverage,
        risk=risk,
        false_refers=false_refers,
        seed=seed,
    )
    for note in decision.facts["notes"]:
        log.warning("%s", note)
    (run / FOLDER).mkdir(exist_ok=True)
    made = _fared(decision, asked, fewer, predictor, run / FOLDER, seed=seed, draws=draws)
    _write(run, decision)
    write_json(run / FOLDER / "calibration.json", made)
    write_text(run / FOLDER / "calibration.md", calibration_markdown(made, predictor.classes))
    return made


def _asked_with_fewer(predictor: Predictor, cases: Sequence[Case]) -> dict[str, Asked]:
    """`named` views -> what is said of the cases that have these and more, asked with these alone."""
    made: dict[str, Asked] = {}
    for views in chain.from_iterable(combinations(predictor.specs, n) for n in range(1, len(predictor.specs))):
        having = [case for case in cases if all(map(case.views.get, views))]
        more = [case for case in having if sum(map(bool, case.views.values())) > len(views)]
        if more:
            log.info("asking about %d of them with %s alone", len(more), " and ".join(views))
            made[named(views)] = list(whole(predict_cases(predictor, [case.with_views(*views) for case in more])))
    return made


def described(predictor: Predictor, cases: Sequence[Case], *, skip_bad: bool) -> Asked:
    """What the first image of each view looks like to the network: one whole, unflipped look a case."""
    bundle = replace(predictor.bundle, facts={**predictor.bundle.facts, "flips": False, "zoom": 1.0})
    plain = Predictor(bundle, threads=predictor.threads, calibrated=False)
    firsts = [replace(case, views={view: own[:1] for view, own in case.views.items()}) for case in cases]
    return list(whole(predict_cases(plain, firsts), skip_bad=skip_bad))


def _fared(
    decision: Decision,
    asked: Asked,
    fewer: Mapping[str, Asked],
    predictor: Predictor,
    folder: Path,
    *,
    seed: int,
    draws: int,
) -> dict[str, Any]:
    """What was fitted, and how the cases that it was fitted on fare before and after; see `calibrate`."""
    answers = answers_of(asked, predictor.classes)
    calibrated, reasons, _ = _decided(decision, asked, predictor)
    made: dict[str, Any] = {
        "notice": RESEARCH_USE,
        "prevalence": predictor.bundle.config.prediction.prevalence,
        "coverage": decision.coverage,
        "risk": decision.risk,
        "views": {
            views: asdict(decision.limits[views])
            | {"cases": len(own)}
            | referral_facts(*_decided(decision, own, predictor)[1:])
            for views, own in by_views(asked, fewer).items()
        },
        "missed": missed_malignant(
            answers.labels,
            calibrated,
            [not why for why in reasons],
            answers.patients,
            [predictor.classes.index(name) for name in predictor.bundle.facts["malignant"]],
        ),
        "facts": dict(decision.facts),
    }
    honest = _by_others(decision, asked, fewer, predictor, seed)
    for name, probabilities in (("before", answers.probabilities), ("after", honest)):
        fared = replace(answers, probabilities=among(answers.labels, probabilities, predictor.bundle.prior))
        made[name] = _calibration_of(fared, predictor, draws, folder / f"reliability-{name}.png")
    return made


def _decided(
    decision: Decision, asked: Asked, predictor: Predictor
) -> tuple[NDArray[np.float64], list[tuple[Reason, ...]], list[bool]]:
    """Of each case the calibrated probabilities, why it is referred, and whether its likeliest diagnosis is right."""
    labels = answers_of(asked, predictor.classes).labels
    decided = [decision.decide(p.probabilities, p.view_probabilities, p.statistics) for _, p in asked]
    calibrated = np.stack([one.probabilities for one in decided])
    return calibrated, [one.referred for one in decided], (calibrated.argmax(1) == labels).tolist()


def _trained(run: Path, config: Config, cases: Sequence[Case]) -> list[Case]:
    """The training cases, if the table still says what it did when the run was trained."""
    facts = read_json(run / FACTS)
    trained, validation = ([c for c in cases if c.split in of] for of in (config.data.train, config.data.validation))
    if cases_sha256(trained, validation) != facts["cases_sha256"]:
        raise ConfigError(
            f"{config.data.table}: its training and validation cases are not those of {run}: the parts were made anew "
            "since, or it is a run of --folds. Restore the table, or train again; give further calibration cases as a "
            "table of their own."
        )
    return trained


def _chosen(given: Sequence[Case], kept: Mapping[str, Sequence[Case]], part: str, table: Place) -> list[Case]:
    """The labelled cases of a part: of several patients, and none of which case, patient or image is kept for others.

    Args:
        given: of the table.
        kept: what is said of cases that may not be calibrated on -> those cases.
        part: of the table, if it has parts.
        table: as messages name it.
    """
    if part == "test":
        raise TableError(f"{table}: test cases are looked at once, at the end, and never fitted on.")
    cases = [c for c in _of_part(given, part) if c.label is not None]
    if not cases:
        there = ", ".join(sorted({c.split for c in given if c.split is not None})) or "no split"
        raise TableError(f"{table}: no labelled case has split {part}; there is {there}.")
    if len({c.patient_id for c in cases}) == 1:
        raise TableError(f"{table}: its {part} cases are one patient's. Calibrate on cases of several patients.")
    prints = image_fingerprints(cases)
    for said, others in kept.items():
        patients, ids, images = {c.patient_id for c in others}, {c.case_id for c in others}, _images(others)
        for kind, shared in (
            ("patient", [c for c in cases if c.patient_id in patients]),
            ("case", [c for c in cases if c.case_id in ids]),
            ("image", [c for c in cases if not images.isdisjoint(prints[c.case_id])]),
        ):
            if shared:
                raise ConfigError(
                    f"row {shared[0].row}, case {shared[0].case_id}: its {kind} {said} ({len(shared)} such cases). "
                    "Calibrate on cases that nothing else is done with."
                )
    return cases


def _of_part(given: Sequence[Case], part: str) -> list[Case]:
    """The cases with an image of a part; of a table without parts, all."""
    parted = any(case.split is not None for case in given)
    return [case for case in given if case.split == (part if parted else None) and case.images]


def _images(cases: Sequence[Case]) -> set[str]:
    """Fingerprints of all their images."""
    return set().union(*image_fingerprints(cases).values())


def _calibration_of(answers: Answers, predictor: Predictor, draws: int, picture: Path) -> dict[str, Any]:
    """How well probabilities are calibrated: figures, and a diagram."""
    card = scorecard(
        answers.labels,
        answers.probabilities,
        answers.patients,
        predictor.classes,
        malignant=predictor.bundle.facts["malignant"] or None,
        draws=draws,
    )
    reliability_picture(card, picture)
    figures = {figure: card["metrics"][figure] for figure in ("nll", "brier", "ece", "classwise_ece")}
    return figures | {"ece_if_calibrated": card["calibration"]["if_calibrated"]["ece"]["mean"]}


def _by_others(
    decision: Decision, asked: Asked, fewer: Mapping[str, Asked], predictor: Predictor, seed: int
) -> NDArray[np.float64]:
    """Calibrated probabilities (n, K) of each case by temperatures of the same kind, fitted on other patients."""
    made: dict[str, NDArray[np.float64]] = {}
    for views, of_views in by_views(asked, fewer).items():
        own = answers_of(of_views, predictor.classes)
        if not fit_of_their_own(own.labels, own.patients, len(predictor.classes)):
            own = answers_of(asked, predictor.classes)
        fitted = cross_fitted(
            own.labels, own.probabilities, own.patients, predictor.bundle.prior,
            per_class=len(decision.limits[views].temperature) > 1, seed=seed,
        )  # fmt: skip
        by_case = dict(zip(own.cases, fitted, strict=True))
        made |= {c.case_id: by_case[c.case_id] for c, p in asked if named(p.views_present) == views}
    return np.stack([made[case.case_id] for case, _ in asked])


def _write(run: Path, decision: Decision) -> None:
    bundle = read_bundle(run)
    parts = {name: bundle.parts[name] for name in PARTS}
    write_bundle(run / BUNDLE, bundle.facts, parts | write_decision(decision))
