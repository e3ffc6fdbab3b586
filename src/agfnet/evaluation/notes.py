"""What a reader must know to read a scorecard rightly, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agfnet.metrics.scores import HEADLINE, MALIGNANT, PER_CLASS
from agfnet.metrics.statistics import FEW_PATIENTS, Interval
from agfnet.metrics.weighting import FloatArray, IntArray

FEW_CASES = 10
NAMED = 3
OTHER_MIX = 0.1  # share of cases that would have to have another diagnosis to make one mix of another
RARELY_DEFINED = 0.95  # share of draws under which an interval speaks only for a part of them

PREVALENCE = "PPV, NPV, accuracy and calibration hold for the mix of classes here; in another mix they differ."
ECE_BIAS = (
    "ECE is above 0 for a perfectly calibrated model too: read it beside that model's. It has no bootstrap "
    "interval, because every draw repeats cases, which this figure takes for miscalibration."
)


def card_notes(card: Mapping[str, Any], intervals: Mapping[str, Interval], *, patients_given: bool) -> list[str]:
    """Notes on a scorecard, the most important first.

    Args:
        card: the scorecard without its notes.
        intervals: what its figures come from.
        patients_given: whether there are patient ids at all.

    Returns:
        Sentences.
    """
    return [
        *_patient_notes(card, patients_given=patients_given),
        *_class_notes(card),
        *_interval_notes(card, intervals),
        *_subgroup_notes(card),
        PREVALENCE,
        ECE_BIAS,
    ]


def mixes_apart(first: FloatArray, second: FloatArray) -> float:
    """The share of cases that would have to have another diagnosis to make one mix (K,) of the other."""
    return float(np.abs(first - second).sum() / 2)


def other_mix_note(labels: IntArray, answered: FloatArray, classes: Sequence[str]) -> list[str]:
    """A sentence where answers are for diagnoses of another frequency than that of the cases.

    Args:
        labels: (n,) of the cases.
        answered: (K,) the mix that the answers are for.
        classes: K names.
    """
    shares = np.bincount(labels, minlength=len(classes)) / len(labels)
    if mixes_apart(shares, answered) <= OTHER_MIX:
        return []
    k = int(np.abs(shares - answered).argmax())
    return [
        (
            f"Answers are for diagnoses of another frequency than these cases' ({classes[k]}: {answered[k]:.0%} there, "
            f"{shares[k]:.0%} here). ECE, NLL, Brier score, the reliability diagram, the decision curve and referral "
            "are of that difference too, not of the network alone: --prevalence with these cases' shares tells."
        )
    ]


def _patient_notes(card: Mapping[str, Any], *, patients_given: bool) -> list[str]:
    notes = []
    if not patients_given:
        notes.append(
            "There are no patient ids: the case stands for the patient. If patients have several cases, the "
            "intervals are too narrow."
        )
    elif card["n_patients"] == card["n_cases"]:
        notes.append(
            "Every case has a patient id of its own. Where such an id only repeats the case, the case "
            "stands for the patient, and the intervals are too narrow if patients have several cases."
        )
    if card["n_patients"] < card["n_cases"]:
        notes.append(
            "Patients have several cases. What a calibrated model would score is simulated as if cases were "
            "independent: the true spread is somewhat wider."
        )
    return [*notes, *few_patients_note(card["n_patients"])]


def few_patients_note(patients: int) -> list[str]:
    """A sentence on intervals over so many patients, where they are few."""
    if patients >= FEW_PATIENTS:
        return []
    return [f"Only {patients} patients: intervals from under {FEW_PATIENTS} tend to be too narrow."]


def _class_notes(card: Mapping[str, Any]) -> list[str]:
    counts = {name: part["n_cases"] for name, part in card["per_class"].items()}
    absent = [name for name, count in counts.items() if count == 0]
    few = [f"{name} ({count})" for name, count in counts.items() if 0 < count < FEW_CASES]
    commonest = max(counts, key=lambda name: counts[name])
    notes = [f"Always answering {commonest} would score an accuracy of {counts[commonest] / card['n_cases']:.3f}."]
    if absent:
        notes.append(
            f"No case of {', '.join(absent)}: sensitivity, F1 and AUC are not defined there, and the means "
            "over classes are over the others."
        )
    if few:
        notes.append(f"Under {FEW_CASES} cases, so hardly more than an anecdote: {', '.join(few)}.")
    return notes


def _interval_notes(card: Mapping[str, Any], intervals: Mapping[str, Interval]) -> list[str]:
    undefined: list[tuple[str, str]] = []
    partly, certain = list(undefined), list(undefined)
    for name in (*HEADLINE, *MALIGNANT, *PER_CLASS):
        if name not in intervals:
            continue
        found = intervals[name]
        labels = [(name, "")] if name not in PER_CLASS else [(name, k) for k in card["classes"]]
        columns = (np.atleast_1d(part) for part in (found.value, found.low, found.high, found.defined))
        for label, value, low, high, defined in zip(labels, *columns, strict=True):
            if np.isnan(value):
                undefined.append(label)
            elif defined < RARELY_DEFINED:
                partly.append(label)
            if low == high:
                certain.append(label)
    notes = []
    if undefined:
        notes.append(f"Not defined on these cases: {_grouped(undefined)}.")
    if partly:
        notes.append(f"Defined in only a part of the draws, where the interval is from: {_grouped(partly)}.")
    if certain:
        notes.append(
            "Every draw gave the same, which is not certainty, as a bootstrap cannot see beyond what "
            f"occurred: {_grouped(certain)}."
        )
    return notes


def _grouped(figures: Sequence[tuple[str, str]]) -> str:
    """Figures with their classes, of which so many are named as a reader takes in."""
    classes: dict[str, list[str]] = {}
    for name, k in figures:
        classes.setdefault(name, []).append(k)
    return ", ".join(
        name if own == [""] else f"{name} of {', '.join(own) if len(own) <= NAMED else f'{len(own)} classes'}"
        for name, own in classes.items()
    )


def _subgroup_notes(card: Mapping[str, Any]) -> list[str]:
    notes = []
    occur = sum(part["n_cases"] > 0 for part in card["per_class"].values())
    for column, values in card["subgroups"].items():
        few = [value for value, part in values.items() if part["n_patients"] < FEW_PATIENTS]
        if few:
            notes.append(
                f"Values of {column} with under {FEW_PATIENTS} patients, whose intervals tend to be too narrow: "
                f"{', '.join(few)}."
            )
        lacking = [value for value, part in values.items() if part["n_classes"] < occur]
        if lacking:
            notes.append(
                f"Values of {column} without a case of some class, whose balanced accuracy and macro AUC are over the "
                f"others and do not compare: {', '.join(lacking)}."
            )
        small = card["small_subgroups"][column]
        unstated = card["n_cases"] - sum(part["n_cases"] for part in values.values()) - small["n_cases"]
        if unstated:
            notes.append(f"{unstated} cases state no {column} and are in none of its subgroups.")
        if small["n_values"]:
            notes.append(
                f"Values of {column} with under {FEW_CASES} cases have no figures, nor a name here: "
                f"{small['n_values']}, of {small['n_cases']} cases."
            )
    if card["subgroups"]:
        notes.append("Differences between subgroups are not tested, nor adjusted for what else differs between them.")
    return notes
