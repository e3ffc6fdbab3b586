"""What a network answered on labelled cases: the arrays that every figure is computed from."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agfnet.prediction.predictor import Outcome
from agfnet.types import SYNTHETIC, SYNTHETIC_STANDARD, Case, ImageError, Prediction, TableError

log = logging.getLogger("agfnet")


@dataclass(frozen=True, slots=True)
class Answers:
    """Labelled cases with their probabilities, in the table's order.

    Attributes:
        cases: ids.
        patients: ids, what a bootstrap draws.
        labels: (n,) place of the diagnosis among the classes.
        probabilities: (n, K).
    """

    cases: list[str]
    patients: list[str]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]

    def __len__(self) -> int:
        """How many cases."""
        return len(self.cases)

    def of(self, kept: Sequence[bool]) -> Answers:
        """Those cases for which `kept`, (n,), is true."""
        chosen = np.flatnonzero(kept)
        return Answers(
            [self.cases[i] for i in chosen],
            [self.patients[i] for i in chosen],
            self.labels[chosen],
            self.probabilities[chosen],
        )

    def as_json(self) -> dict[str, Any]:
        """Lists, for a file."""
        return {
            "cases": self.cases,
            "patients": self.patients,
            "labels": self.labels.tolist(),
            "probabilities": self.probabilities.tolist(),
        }


def answers_from_json(tree: Mapping[str, Any]) -> Answers:
    """The inverse of `Answers.as_json`; other keys do not matter."""
    return Answers(tree["cases"], tree["patients"], np.array(tree["labels"]), np.array(tree["probabilities"]))


CaseAnswer = tuple[Case, Prediction]
"""A case, and what a network says of it."""
LEAVE_OUT = "Or leave such cases out (--skip-bad; in a configuration data.skip_bad=true)."
"""What to do about a case that cannot be read, beside what its error says."""


def whole(outcomes: Iterable[Outcome], *, skip_bad: bool = False) -> Iterator[CaseAnswer]:
    """Yield each case with its prediction; stop, or warn and go on, at one that could not be read.

    Args:
        outcomes: of the cases.
        skip_bad: leave out, with a warning, those that could not be read.

    Raises:
        ImageError: a case could not be read and `skip_bad` is off.
    """
    for outcome in outcomes:
        if outcome.prediction is not None:
            yield outcome.case, outcome.prediction
        elif skip_bad:
            log.warning("left out: %s", outcome.error)
        else:
            raise ImageError(f"{outcome.error} {LEAVE_OUT}")


def synthetic_note(cases: Iterable[Case]) -> list[str]:
    """What a reader of figures on these cases must know first, where any of them is a phantom's."""
    return [SYNTHETIC] if any(case.reference_standard == SYNTHETIC_STANDARD for case in cases) else []


def labels_of(cases: Iterable[Case], classes: Sequence[str]) -> list[int]:
    """The place of each labelled case's diagnosis among the classes.

    Raises:
        TableError: there is no case, or a label is none of the classes.
    """
    cases, places = list(cases), {name: i for i, name in enumerate(classes)}
    if not cases:
        raise TableError("no case with a label; an evaluation needs them. To predict only: `agfnet predict`.")
    unknown = [case for case in cases if case.label not in places]
    if unknown:
        first = unknown[0]
        raise TableError(
            f"row {first.row}, case {first.case_id}: label {first.label!r} is none of the network's classes, "
            f"{', '.join(classes)} ({len(unknown)} such cases). Correct it, or leave the cell empty."
        )
    return [places[str(case.label)] for case in cases]


def answers_of(predicted: Iterable[tuple[Case, Prediction | None]], classes: Sequence[str]) -> Answers:
    """Those cases that have both a prediction and a label.

    Raises:
        TableError: there is none, or a label that is none of the classes.
    """
    kept = [(case, p) for case, p in predicted if p is not None and case.label is not None]
    labels = labels_of([case for case, _ in kept], classes)
    return Answers(
        [case.case_id for case, _ in kept],
        [case.patient_id for case, _ in kept],
        np.array(labels),
        np.stack([prediction.probabilities for _, prediction in kept]),
    )
