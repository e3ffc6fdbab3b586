"""Everything that a calibration fits, from what the network says of calibration and of training cases."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agfnet.evaluation.answers import answers_of
from agfnet.evaluation.fitting import (
    LIMITS,
    choose_temperature,
    fit_conformal,
    fit_refer,
    fit_reference,
    fit_usual,
    one_case_each,
)
from agfnet.prediction.calibration import reweighted, tempered
from agfnet.prediction.decision import Decision
from agfnet.prediction.refer import ReferRule, disagreement
from agfnet.types import AgfnetWarning, Case, Prediction, TableError

Asked = Sequence[tuple[Case, Prediction]]
"""Cases and what the network, not calibrated, says of them."""


def fit_decision(
    asked: Asked,
    learnt: Mapping[str, NDArray[np.float32]],
    classes: Sequence[str],
    prior: NDArray[np.float64],
    facts: Mapping[str, Any],
    *,
    prevalence: NDArray[np.float64] | None = None,
    coverage: float = 0.9,
    risk: float = 0.1,
    false_refers: float = 0.01,
    seed: int = 0,
) -> Decision:
    """Temperature; then diagnosis sets, the rule that refers and the reference of drift, on calibrated probabilities.

    Args:
        asked: calibration cases, each with its label.
        learnt: modality -> (n, D) statistics of training images.
        classes: the diagnoses.
        prior: (K,) prevalence that the network learnt; the temperature is fitted there.
        facts: about the cases; what a reader must know of the fit is added to its notes.
        prevalence: (K,) that predictions are to be for; None: the `prior`.
        coverage: chosen coverage of the diagnosis sets.
        risk: wanted share of errors among the answered cases.
        false_refers: share of ordinary cases that each of the checks for strange images and disagreement may refer.
        seed: of every draw.

    Raises:
        TableError: no case has one of the views.
    """
    answers = answers_of(asked, classes)
    temperature = choose_temperature(answers.labels, answers.probabilities, answers.patients, seed=seed)
    mix = prior if prevalence is None else prevalence
    calibrated = reweighted(tempered(answers.probabilities, temperature), prior, mix)
    each = [asked[i] for i in one_case_each(answers.patients, seed)]
    references = {
        view: fit_reference(own, statistics_of(view, each), false_refers=false_refers) for view, own in learnt.items()
    }
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", AgfnetWarning)
        conformal = fit_conformal(answers.labels, calibrated, answers.patients, coverage=coverage, seed=seed)
    apart = [disagreement(list(p.view_probabilities.values())) for _, p in asked]
    rule = fit_refer(
        answers.labels, calibrated, answers.patients, apart, references,
        risk=risk, false_refers=false_refers, seed=seed,
    )  # fmt: skip
    distances = {
        view: np.array([own.farthest(images) for images in statistics_of(view, asked)])
        for view, own in references.items()
    }
    notes = [
        *facts.get("notes", ()),
        *(_named(str(warning.message), classes) for warning in said),
        *_at_limit(temperature),
        *_too_few(rule, len(answers), len(each), false_refers),
    ]
    return Decision(
        temperature,
        tuple(prior.tolist()),
        tuple(mix.tolist()),
        conformal,
        rule,
        fit_usual(calibrated, distances),
        {**facts, "notes": notes},
    )


def statistics_of(view: str, asked: Asked) -> list[NDArray[np.float32]]:
    """The statistics (I, D) of a view's images, of each case that has it.

    Raises:
        TableError: no case has it.
    """
    known = [p.statistics[view] for _, p in asked if view in p.statistics]
    if not known:
        raise TableError(f"no case has a {view}; a calibration needs cases with every view.")
    return known


def _named(text: str, classes: Sequence[str]) -> str:
    """A warning with the classes' names in place of their numbers."""
    for k, name in reversed(list(enumerate(classes))):
        text = text.replace(f"class {k}:", f"{name}:")
    return text


def _at_limit(temperature: Sequence[float]) -> Iterator[str]:
    if min(temperature) <= 1.01 * LIMITS[0] or max(temperature) >= 0.99 * LIMITS[1]:
        yield (
            f"A temperature is at its limit ({LIMITS[0]:g} to {LIMITS[1]:g}): the network is all right, all wrong or "
            "without any idea on these cases. Look at the data before probabilities are used."
        )


def _too_few(rule: ReferRule, cases: int, patients: int, false_refers: float) -> Iterator[str]:
    """What a rule could not be fitted to for want of cases."""
    if (patients + 1) * false_refers < 1.0:
        yield (
            f"{patients} patients are too few to tell what lies beyond all but {false_refers:.1%} of the images: more "
            "ordinary images than that may be called strange. Calibrate on more patients."
        )
    if rule.certainty > 1.0:
        yield (
            f"These {cases} cases do not show an error of at most {rule.risk:.0%} with 95 % confidence: every "
            "case is referred. Calibrate on more cases, or choose a higher --risk."
        )
