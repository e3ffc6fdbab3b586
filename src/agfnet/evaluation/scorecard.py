"""Everything that is reported of one model on one set of cases, as a dictionary that goes into a JSON file.

The card holds what the pictures need too (see `figures`): a report can be made again from the file alone.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from agfnet.evaluation.notes import FEW_CASES, card_notes
from agfnet.metrics.calibration import BINS, reliability_bins, simulate_calibrated
from agfnet.metrics.classification import confusion_matrix
from agfnet.metrics.patients import DRAWS, patient_index
from agfnet.metrics.ranking import roc_curve
from agfnet.metrics.scores import BIASED, HEADLINE, MALIGNANT, PER_CLASS, all_scores, shares_of
from agfnet.metrics.selective import risk_coverage_curve
from agfnet.metrics.statistics import LEVEL, Interval, bootstrap, known
from agfnet.metrics.weighting import BoolArray, FloatArray, IntArray, check_cases

CURVE_POINTS = 200  # of a stored curve: more than a picture 1000 pixels wide can show
SUBGROUP_SCORES = ("accuracy", "balanced_accuracy", "macro_auc", "malignant_auc")
HISTOGRAM_BINS = 20


def scorecard(
    labels: ArrayLike,
    probabilities: ArrayLike,
    patients: Sequence[Hashable] | None,
    classes: Sequence[str],
    *,
    malignant: Sequence[str] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    subgroups: Mapping[str, Sequence[str | None]] | None = None,
) -> dict[str, Any]:
    """Every figure of a model on one set of cases, with 95 % intervals from a bootstrap over patients.

    Those of a share of few patients are no narrower than exact ones.

    Args:
        labels: (n,) integers in 0 .. K-1.
        probabilities: (n, K) floats, rows with sum 1.
        patients: (n,) ids, one per case; None if there are none: then each case stands for a patient.
        classes: K names, in the order of the columns.
        malignant: names of the malignant classes; without them there are no malignant-vs-benign figures.
        draws: number of bootstrap draws.
        seed: of the bootstrap and of the simulation of a calibrated model.
        subgroups: column -> (n,) values; a case whose value is None is in no subgroup of that column.

    Returns:
        A dictionary of str, int, float, None, lists and dictionaries; None stands for "not defined".
        `n_cases`, `n_patients`, `classes`, `malignant`, `draws`, `seed`, `level`;
        `metrics`: name -> {value, low, high}, those in `BIASED` without an interval;
        `per_class`: class -> {n_cases, n_patients, sensitivity, ...: {value, low, high}, roc: {fpr, tpr}};
        `confusion`: [true][predicted] counts;
        `calibration`: bins, histogram of confidences, and what a perfectly calibrated model would score;
        `risk_coverage`: {coverage, risk, generalised_risk};
        `subgroups`: column -> value -> {n_cases, n_patients, n_classes, metrics}, of values with 10 cases or more;
        `small_subgroups`: column -> {n_values, n_cases} of the others, whose values might tell who a patient is;
        `notes`: what a reader must know to read the figures rightly.

    Raises:
        ValueError: the arrays do not fit each other, or a class is named twice or not known.
    """
    y, p = check_cases(labels, probabilities)
    names = list(classes)
    if len(names) != p.shape[1] or len(set(names)) != len(names):
        raise ValueError(f"classes must be {p.shape[1]} different names, not {names}")
    chosen = None if malignant is None else _class_indices(malignant, names)
    owners = np.arange(y.size) if patients is None else patient_index(patients)
    if owners.shape != y.shape:
        raise ValueError(f"patients must have one id for each of the {y.size} cases, not {owners.size}")

    def estimate(inside: BoolArray) -> dict[str, Interval]:
        y_in, p_in = y[inside], p[inside]

        def figures(weights: FloatArray) -> dict[str, FloatArray]:
            bins = {"bin_accuracy": reliability_bins(y_in, p_in, weights)["accuracy"]}
            return all_scores(y_in, p_in, weights, malignant=chosen) | bins

        # A bin holds this share of the cases' mass; by whole cases, for the number of patients in it.
        bin_of = np.empty(y_in.size, int)
        bin_of[p_in.max(axis=1).argsort(kind="stable")] = np.arange(y_in.size) * BINS // y_in.size
        shares = shares_of(y_in, p_in) | {"bin_accuracy": bin_of[:, None] == np.arange(BINS)}
        return bootstrap(figures, owners[inside].tolist(), draws=draws, seed=seed, without=BIASED, shares=shares)

    intervals = estimate(np.ones(y.size, dtype=np.bool_))
    headline = HEADLINE + (MALIGNANT if chosen is not None else ())
    card: dict[str, Any] = {
        "n_cases": int(y.size),
        "n_patients": int(owners.max()) + 1,
        "classes": names,
        "malignant": None if malignant is None else list(malignant),
        "draws": draws,
        "seed": seed,
        "level": LEVEL,
        "metrics": {name: intervals[name].as_json() for name in headline},
        "per_class": {name: _class_part(y, p, owners, k, intervals) for k, name in enumerate(names)},
        "confusion": confusion_matrix(y, p).astype(int).tolist(),
        "calibration": _calibration_part(y, p, intervals, seed),
        "risk_coverage": thinned(risk_coverage_curve(y, p)),
        "subgroups": {},
        "small_subgroups": {},
    }
    for column, values in (subgroups or {}).items():
        own = _subgroup_part(column, values, y, owners, estimate)
        card["subgroups"][column], card["small_subgroups"][column] = own
    card["notes"] = card_notes(card, intervals, patients_given=patients is not None)
    return card


def _class_indices(malignant: Sequence[str], names: list[str]) -> list[int]:
    unknown = [name for name in malignant if name not in names]
    if unknown:
        raise ValueError(f"malignant names classes that are not there: {unknown}; the classes are {names}")
    return [names.index(name) for name in malignant]


def thinned(curve: Mapping[str, FloatArray]) -> dict[str, list[float | None]]:
    """At most CURVE_POINTS points of a curve, the ends among them."""
    length = len(next(iter(curve.values())))
    kept = np.unique(np.linspace(0, length - 1, min(length, CURVE_POINTS)).round().astype(int))
    return {name: [known(value) for value in values[kept]] for name, values in curve.items()}


def _roc_part(positive: BoolArray, scores: FloatArray) -> dict[str, list[float | None]]:
    fpr, tpr, _ = roc_curve(positive, scores)
    if not np.isfinite(fpr + tpr).all():
        return {"fpr": [], "tpr": []}
    # Points inside a straight stretch add nothing to the picture.
    bend = np.ones(fpr.size, dtype=bool)
    bend[1:-1] = np.abs(np.diff(fpr)[1:] * np.diff(tpr)[:-1] - np.diff(fpr)[:-1] * np.diff(tpr)[1:]) > 1e-15
    return thinned({"fpr": fpr[bend], "tpr": tpr[bend]})


def _class_part(
    y: IntArray, p: FloatArray, owners: IntArray, k: int, intervals: Mapping[str, Interval]
) -> dict[str, Any]:
    return {
        "n_cases": int((y == k).sum()),
        "n_patients": int(np.unique(owners[y == k]).size),
        **{name: intervals[name].as_json(k) for name in PER_CLASS},
        "roc": _roc_part(y == k, p[:, k]),
    }


def _calibration_part(y: IntArray, p: FloatArray, intervals: Mapping[str, Interval], seed: int) -> dict[str, Any]:
    simulated = simulate_calibrated(p, seed=seed)
    band = np.quantile(simulated["bin_accuracy"], [0.025, 0.975], axis=0)
    confidences = reliability_bins(y, p)["confidence"]
    counts, edges = np.histogram(p.max(axis=1), bins=HISTOGRAM_BINS, range=(0.0, 1.0))
    if_calibrated = {}
    for name in ("ece", "classwise_ece"):
        low, high = np.quantile(simulated[name], [0.025, 0.975])
        if_calibrated[name] = {"mean": float(simulated[name].mean()), "low": float(low), "high": float(high)}
    return {
        "n_bins": BINS,
        "if_calibrated": if_calibrated,
        "bins": [
            {
                "confidence": float(confidences[b]),
                "accuracy": intervals["bin_accuracy"].as_json(b),
                "if_calibrated": {"low": float(band[0, b]), "high": float(band[1, b])},
            }
            for b in range(BINS)
        ],
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }


def _subgroup_part(
    column: str,
    values: Sequence[str | None],
    y: IntArray,
    owners: IntArray,
    estimate: Callable[[BoolArray], Mapping[str, Interval]],
) -> tuple[dict[str, Any], dict[str, int]]:
    if len(values) != owners.size:
        raise ValueError(f"subgroup {column!r} must have one value for each of the {owners.size} cases")
    out: dict[str, Any] = {}
    small = {"n_values": 0, "n_cases": 0}
    for value in sorted({value for value in values if value is not None}):
        inside = np.array([other == value for other in values])
        count = int(inside.sum())
        if count < FEW_CASES:
            small = {"n_values": small["n_values"] + 1, "n_cases": small["n_cases"] + count}
            continue
        intervals = estimate(inside)
        out[value] = {
            "n_cases": count,
            "n_patients": int(np.unique(owners[inside]).size),
            "n_classes": int(np.unique(y[inside]).size),
            "metrics": {name: intervals[name].as_json() for name in SUBGROUP_SCORES if name in intervals},
        }
    return out, small
