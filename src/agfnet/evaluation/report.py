"""Every fact of a report on one network and one set of cases; the page is made from these alone (`report_page`)."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from agfnet.evaluation.answers import Answers, answers_of, whole
from agfnet.evaluation.evaluate import REPORT, counts, evaluate_outcomes, judged_cases
from agfnet.evaluation.missed import missed_malignant
from agfnet.evaluation.notes import FEW_CASES
from agfnet.evaluation.scorecard import thinned
from agfnet.files import read_json
from agfnet.metrics.calibration import ece, nll, simulate_calibrated
from agfnet.metrics.classification import accuracy, balanced_accuracy
from agfnet.metrics.patients import DRAWS
from agfnet.metrics.ranking import macro_auc, net_benefit, precision_recall_curve
from agfnet.metrics.statistics import MetricSet, bootstrap, paired_difference
from agfnet.metrics.weighting import BoolArray, FloatArray, weighted_mean
from agfnet.prediction.asking import parse_prevalence, predict_cases
from agfnet.prediction.bundle import CARD
from agfnet.prediction.decision import Decision, named
from agfnet.prediction.explanation import Explanation, explain
from agfnet.prediction.predictor import Outcome, Predictor
from agfnet.types import RESEARCH_USE, Case, ConfigError, Place, Prediction

log = logging.getLogger("agfnet")
SUBGROUP_VALUES = 12
"""With more sites than this, a report names none unasked."""
ERRORS, RIGHT = 12, 6
"""Cases that are shown."""
VIEW_FIGURES = {"accuracy": accuracy, "balanced_accuracy": balanced_accuracy, "macro_auc": macro_auc, "nll": nll}


def report_facts(
    source: Path,
    table: Place,
    folder: Path,
    *,
    part: str | None = None,
    include_test: bool = False,
    subgroups: Sequence[str] = (),
    robustness: Path | None = None,
    skip_bad: bool = False,
    draws: int = DRAWS,
    threads: int = 0,
    data_root: Place | None = None,
    prevalence: str | None = None,
) -> tuple[dict[str, Any], dict[str, Explanation]]:
    """Ask a network about a table's cases and gather everything that a report shows.

    Args:
        source: a run folder or bundle.
        table: the cases.
        folder: the scorecard, its pictures and `predictions.csv` are written here.
        part: only cases of this part, see `chosen_part`.
        include_test: allow test cases.
        subgroups: free columns by whose values figures are given, beside site and reference standard.
        robustness: folder that `agfnet robustness` has written; None: the report says that it was not measured.
        skip_bad: leave out cases that could not be read, and list them, instead of stopping.
        draws: of the bootstraps.
        threads: of ONNX Runtime.
        data_root: the folder that every image must lie in.
        prevalence: re-weights the probabilities, see `parse_prevalence` and `Predictor`.

    Returns:
        The facts (JSON), and an explanation of each case that is shown, by its id.

    Raises:
        ConfigError: no robustness was measured in the folder named, or another network's; or `folder` is that of a run,
            or has a model card that was changed.
        TableError: see `judged_cases`.
    """
    _check_card(folder)
    predictor = Predictor(source, threads=threads, prevalence=parse_prevalence(prevalence))
    holds = None if robustness is None else _robustness(robustness, predictor)
    cases, notes, facts = judged_cases(
        source, predictor, table, folder, part,
        include_test=include_test, subgroups=subgroups, data_root=data_root,
    )  # fmt: skip
    outcomes = predict_cases(predictor, cases)
    columns = list(dict.fromkeys([*own_subgroups(cases), *subgroups]))
    card = evaluate_outcomes(
        [(predictor, outcomes)], folder, skip_bad=skip_bad, subgroups=columns, draws=draws, facts=facts, notes=notes
    )
    answers = answers_of([(o.case, o.prediction) for o in outcomes], predictor.classes)
    kept = [o for o in outcomes if o.prediction is not None and o.case.label is not None]
    said = [o.prediction for o in kept if o.prediction is not None]
    malignant, decision = predictor.bundle.facts["malignant"], predictor.decision
    shown = shown_cases(kept, answers, predictor.classes)
    by_id = {case.case_id: case for case in cases}
    explained = {own["case_id"]: explain(predictor, by_id[own["case_id"]]) for own in chain(*shown.values())}
    for own in chain(*shown.values()):
        own["shares"] = dict(explained[own["case_id"]].shares)
    told = {
        "notice": RESEARCH_USE,
        "made": datetime.now(UTC).date().isoformat(),
        "card": card,
        "cohort": cohort([o.case for o in kept], predictor),
        "run": _plain(predictor.bundle.facts),
        "fusion": predictor.bundle.config.model.fusion if len(predictor.specs) > 1 else "none: one view",
        "bundle_sha256": predictor.bundle.sha256,
        "precision_recall": {name: _precision_recall(answers, k) for k, name in enumerate(predictor.classes)},
        "decision": decision_curve(answers, [predictor.classes.index(m) for m in malignant]) if malignant else None,
        "sets": set_figures(said, answers, predictor.classes, decision, draws) if decision else None,
        "referral": referral_figures(said, answers, decision.risk, draws) if decision else None,
        "missed": missed_malignant(
            answers.labels,
            answers.probabilities,
            [not own.referred for own in said],
            answers.patients,
            [predictor.classes.index(name) for name in malignant],
        ),
        "calibration": _plain(decision.facts) if decision else None,
        "missing_views": missing_views(predictor, kept, answers, draws),
        "robustness": holds,
        "shown": shown,
    }
    return told, explained


def _check_card(folder: Path) -> None:
    """Refuse to write over a model card that a person has completed, or that is not known to be of a report."""
    card, report = folder / CARD, folder / REPORT
    if not card.is_file():
        return
    written = read_json(report).get("model_card_sha256") if report.is_file() else None
    if hashlib.sha256(card.read_bytes()).hexdigest() != written:
        raise ConfigError(f"{card}: is not as a report wrote it. Move it away, or choose another folder.")


def own_subgroups(cases: Sequence[Case]) -> list[str]:
    """Site and reference standard, where they have between 2 and `SUBGROUP_VALUES` values.

    Free columns only when asked for: the tool cannot tell a skin type from a name, and a model card is passed on.
    """
    columns = {"site": {c.site for c in cases}, "reference_standard": {c.reference_standard for c in cases}}
    return [name for name, values in columns.items() if 2 <= len(values - {None}) <= SUBGROUP_VALUES]


def cohort(cases: Sequence[Case], predictor: Predictor) -> dict[str, Any]:
    """Of the cases that figures are of: patients, classes, and cases with each view; and what was trained on."""
    return {
        "cases": len(cases),
        "patients": len({case.patient_id for case in cases}),
        "classes": {name: sum(case.label == name for case in cases) for name in predictor.classes},
        "views": {view: sum(bool(case.views.get(view)) for case in cases) for view in predictor.specs},
        "parts": dict(predictor.bundle.facts["run"]["cases"]),
        "reference_standard": _many(counts([case.reference_standard for case in cases])),
        "site": _many(counts([case.site for case in cases])),
    }


def _many(counted: Mapping[str, int]) -> dict[str, int]:
    """Values of `FEW_CASES` cases or more; a rarer one might tell who a patient is."""
    kept = {value: n for value, n in counted.items() if n >= FEW_CASES}
    others = len(counted) - len(kept)
    return kept | ({f"others ({others})": sum(counted.values()) - sum(kept.values())} if others else {})


def _precision_recall(answers: Answers, k: int) -> dict[str, Any]:
    positive = answers.labels == k
    if not positive.any():
        return {"precision": [], "recall": [], "cases": 0, "prevalence": 0.0}
    precision, recall = precision_recall_curve(positive, answers.probabilities[:, k])
    curve = thinned({"precision": precision, "recall": recall})
    return {**curve, "cases": int(positive.sum()), "prevalence": float(positive.mean())}


def decision_curve(answers: Answers, malignant: Sequence[int]) -> dict[str, Any]:
    """Net benefit of the network and of acting on everyone, by threshold; and of how many cases it is."""
    positive = np.isin(answers.labels, malignant)
    suspicion = answers.probabilities[:, list(malignant)].sum(1)
    thresholds = np.linspace(0.01, 0.99, 99)
    everyone = net_benefit(positive, np.ones(len(positive)), thresholds)
    return {
        "threshold": thresholds.tolist(),
        "model": net_benefit(positive, suspicion, thresholds).tolist(),
        "all": everyone.tolist(),
        "cases": len(positive),
        "malignant": int(positive.sum()),
    }


def _entries(
    figures: MetricSet, patients: Sequence[str], draws: int, shares: Mapping[str, BoolArray]
) -> dict[str, dict[str, float | None]]:
    found = bootstrap(figures, patients, draws=draws, shares=shares)
    return {name: interval.as_json() for name, interval in found.items()}


def set_figures(
    said: Sequence[Prediction], answers: Answers, classes: Sequence[str], decision: Decision, draws: int
) -> dict[str, Any]:
    """Coverage and size of the diagnosis sets, over all cases and class by class.

    Of the `cases` whose views have limits: the set of other views holds every class, and promises nothing.
    """
    asked = {named(own.views_present) for own in said}
    limited = np.array([named(own.views_present) in decision.limits for own in said], np.bool_)
    sets = [set(own.diagnosis_set or ()) for own in said]
    inside = np.array([label in own for label, own in zip(answers.labels, sets, strict=True)], float)
    size = np.array([len(own) for own in sets], float)
    of = {name: limited & (answers.labels == k) for k, name in enumerate(classes)}

    def figures(weights: FloatArray) -> dict[str, FloatArray]:
        among = weights * limited
        of_all = {"coverage": weighted_mean(inside, among), "size": weighted_mean(size, among)}
        return of_all | {
            f"{figure} {name}": weighted_mean(values[own], weights[..., own])
            for figure, values in (("coverage", inside), ("size", size))
            for name, own in of.items()
        }

    shares = {"coverage": limited, **{f"coverage {name}": own for name, own in of.items()}}
    entries = _entries(figures, answers.patients, draws, shares)
    return {
        "chosen": decision.coverage,
        "by_class": all(own.conformal.per_class for views, own in decision.limits.items() if views in asked),
        "cases": int(limited.sum()),
        "coverage": entries["coverage"],
        "size": entries["size"],
        "per_class": {name: entries[f"coverage {name}"] for name in classes},
        "size_per_class": {name: entries[f"size {name}"] for name in classes},
        "cases_per_class": {name: int(own.sum()) for name, own in of.items()},
    }


def referral_figures(said: Sequence[Prediction], answers: Answers, risk: float, draws: int) -> dict[str, Any]:
    """How many cases are answered, how often they are wrong, and why the others are handed back.

    Args:
        said: of each case.
        answers: to them, and the labels.
        risk: share of errors among the answered cases that was chosen.
        draws: of the bootstrap.
    """
    reasons = [own.referred or () for own in said]
    answered = np.array([not why for why in reasons])
    wrong = (answers.probabilities.argmax(1) != answers.labels).astype(float)

    def figures(weights: FloatArray) -> dict[str, FloatArray]:
        return {
            "answered": weighted_mean(answered.astype(float), weights),
            "error_answered": weighted_mean(wrong, weights * answered),
            "error_all": weighted_mean(wrong, weights),
        }

    every = np.ones(len(answers), np.bool_)
    shares = {"answered": every, "error_answered": answered, "error_all": every}
    kinds = Counter(str(reason) for why in reasons for reason in why)
    return _entries(figures, answers.patients, draws, shares) | {
        "risk": risk,
        "answered_cases": int(answered.sum()),
        "by_reason": dict(sorted(kinds.items())),
    }


def missing_views(predictor: Predictor, kept: Sequence[Outcome], answers: Answers, draws: int) -> dict[str, Any]:
    """Figures of the same network where only one view of each case is given; nothing for a network of one view.

    Args:
        predictor: the network.
        kept: the cases with a label that could be read.
        answers: to them, with all their views.
        draws: of the bootstrap.

    Returns:
        View -> `cases` that have it; the figures of that view alone; of a calibrated network `promised`: the `coverage`
        of its sets and the error of `answered` cases; and `against`: of those `cases` that have another
        view, too, the balanced accuracy with `all_views`, and what is `lost` of it (None where there are none).
    """
    if len(predictor.specs) < 2:
        return {}
    out = {}
    for view in predictor.specs:
        having = [bool(o.case.views.get(view)) for o in kept]
        if not any(having):
            continue
        log.info("asking with %s alone", view)
        asked = [o.case.with_views(view) for o, has in zip(kept, having, strict=True) if has]
        told = list(whole(predict_cases(predictor, asked)))
        alone, full = answers_of(told, predictor.classes), answers.of(having)
        more = [sum(map(bool, o.case.views.values())) > 1 for o, has in zip(kept, having, strict=True) if has]
        entries = _entries(_view_figures(alone), alone.patients, draws, {"accuracy": np.ones(len(alone), np.bool_)})
        out[view] = {
            "cases": len(alone),
            **entries,
            "ece": float(ece(alone.labels, alone.probabilities)),
            "ece_if_calibrated": float(simulate_calibrated(alone.probabilities)["ece"].mean()),
            "promised": _promised([own for _, own in told], alone, predictor.classes, predictor.decision, draws),
            "against": _lost(full.of(more), alone.of(more), draws) if any(more) else None,
        }
    return out


def _promised(
    said: Sequence[Prediction], answers: Answers, classes: Sequence[str], decision: Decision | None, draws: int
) -> dict[str, Any] | None:
    if decision is None:
        return None
    referral = referral_figures(said, answers, decision.risk, draws)
    return {
        "coverage": set_figures(said, answers, classes, decision, draws)["coverage"],
        "answered": referral["answered"],
        "error_answered": referral["error_answered"],
    }


def _lost(full: Answers, alone: Answers, draws: int) -> dict[str, Any]:
    lost = paired_difference(_view_figures(full), _view_figures(alone), full.patients, draws=draws)
    return {
        "cases": len(full),
        "all_views": bootstrap(_view_figures(full), full.patients, draws=draws)["balanced_accuracy"].as_json(),
        "lost": lost["balanced_accuracy"].as_json(),
    }


def _view_figures(answers: Answers) -> MetricSet:
    y, p = answers.labels, answers.probabilities
    return lambda weights: {name: score(y, p, weights) for name, score in VIEW_FIGURES.items()}


def _plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Without the fingerprints of cases, which tell a reader nothing."""
    return {name: fact for name, fact in facts.items() if name not in ("trained_on", "chosen_on", "fitted_on")}


_OF_ROBUSTNESS = {"clean", "groups", "cases", "notes", "prevalence", "table", "table_sha256", "part"}


def _robustness(folder: Path, predictor: Predictor) -> dict[str, Any]:
    file = folder / "robustness.json"
    if not file.is_file():
        raise ConfigError(f"{file}: is not there. Name a folder that `agfnet robustness` has written.")
    made: dict[str, Any] = read_json(file, "bundle_sha256")
    whole = made.keys() >= _OF_ROBUSTNESS and "cases" in made["clean"]
    if made["bundle_sha256"] != predictor.bundle.sha256 or not whole:
        raise ConfigError(
            f"{file}: is of another network, or from before a calibration or an update. Run `agfnet robustness` again."
        )
    return {key: made[key] for key in _OF_ROBUSTNESS}


def shown_cases(kept: Sequence[Outcome], answers: Answers, classes: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """The most confident errors, and right answers of every certainty: ids with what was said."""
    top = answers.probabilities.argmax(1)
    sure = answers.probabilities.max(1)
    wrong = np.flatnonzero(top != answers.labels)
    right = np.flatnonzero(top == answers.labels)
    errors = wrong[np.argsort(-sure[wrong], kind="stable")][:ERRORS]
    ranked = right[np.argsort(-sure[right], kind="stable")]
    sample = ranked[np.unique(np.linspace(0, len(ranked) - 1, min(RIGHT, len(ranked))).round().astype(int))]
    return {
        kind: [
            {
                "case_id": kept[i].case.case_id,
                "label": kept[i].case.label,
                "said": classes[top[i]],
                "probability": float(sure[i]),
            }
            for i in chosen
        ]
        for kind, chosen in (("errors", errors), ("right", sample))
    }
