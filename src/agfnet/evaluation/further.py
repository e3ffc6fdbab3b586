"""How right a network is on the further labels that it was trained on; their probabilities are never calibrated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agfnet.metrics.classification import accuracy, balanced_accuracy
from agfnet.metrics.statistics import MetricSet, bootstrap
from agfnet.metrics.weighting import FloatArray, IntArray
from agfnet.prediction.predictor import Outcome
from agfnet.types import Case


def further_labels(
    outcomes: Sequence[Outcome], values_of: Mapping[str, Sequence[str]], draws: int
) -> dict[str, dict[str, Any]]:
    """Figures of each further label.

    Args:
        outcomes: with a prediction.
        values_of: further label column -> its values, as the network knows them.
        draws: of the bootstrap over patients.

    Returns:
        Column -> `n_cases` that have one of its values, `accuracy` and `balanced_accuracy`: {value, low, high}. A
        column that no case has a known value of is left out.
    """
    out = {}
    for column, values in values_of.items():
        known = [
            (o.case, o.prediction.extra_probabilities[column])
            for o in outcomes
            if o.prediction is not None and _value(o.case, column) in values
        ]
        if known:
            y = np.array([values.index(str(_value(case, column))) for case, _ in known])
            figures = _figures(y, np.stack([probabilities for _, probabilities in known]))
            every = {"accuracy": np.ones(len(known), np.bool_)}
            found = bootstrap(figures, [case.patient_id for case, _ in known], draws=draws, shares=every)
            out[column] = {"n_cases": len(known), **{name: own.as_json() for name, own in found.items()}}
    return out


def _value(case: Case, column: str) -> str | None:
    """As a label where the column was read as one, else as a free column."""
    return case.extra_labels.get(column, case.attributes.get(column))


def _figures(y: IntArray, p: FloatArray) -> MetricSet:
    return lambda weights: {
        "accuracy": accuracy(y, p, weights),
        "balanced_accuracy": balanced_accuracy(y, p, weights),
    }
