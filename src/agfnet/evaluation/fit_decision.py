"""Everything that a calibration fits, from what the network says of calibration and of training cases."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agfnet.evaluation.answers import Answers, answers_of
from agfnet.evaluation.fitting import (
    LIMITS,
    choose_temperature,
    fit_limits,
    fit_reference,
    fit_usual,
    one_case_each,
)
from agfnet.prediction.calibration import reweighted, tempered
from agfnet.prediction.decision import Decision, Limits, named
from agfnet.prediction.refer import ReferRule, disagreement
from agfnet.types import AgfnetWarning, Case, Prediction, TableError

Asked = Sequence[tuple[Case, Prediction]]
"""Cases and what the network, not calibrated, says of them."""


def fit_decision(
    asked: Asked,
    fewer: Mapping[str, Asked],
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
        asked: calibration cases, each with its label, and what is said of them with all their views.
        fewer: `named` views -> the cases that have these and more, and what is said of them with these alone.
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
    calibrated = _calibrated(answers, temperature, prior, mix)
    each = [asked[i] for i in one_case_each(answers.patients, seed)]
    references = {
        view: fit_reference(own, statistics_of(view, each), false_refers=false_refers) for view, own in learnt.items()
    }
    limits: dict[str, Limits] = {}
    told: dict[str, list[str]] = {}
    for views, of_views in by_views(asked, fewer).items():
        own = answers_of(of_views, classes)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", AgfnetWarning)
            limits[views] = fit_limits(
                own.labels, _calibrated(own, temperature, prior, mix), own.patients,
                coverage=coverage, risk=risk, seed=seed,
            )  # fmt: skip
        for note in (*(str(warning.message) for warning in said), *_none_answered(limits[views], len(own), risk)):
            told.setdefault(_with_names(note, classes), []).append(views)
    apart = [disagreement(list(p.view_probabilities.values())) for _, p in asked if len(p.views_present) > 1] or [0.0]
    rule = ReferRule(float(np.quantile(apart, 1.0 - false_refers, method="higher")), references)
    distances = {
        view: np.array([own.farthest(images) for images in statistics_of(view, asked)])
        for view, own in references.items()
    }
    notes = [
        *facts.get("notes", ()),
        *(note if len(having) == len(limits) else f"{_listed(having)}: {note}" for note, having in told.items()),
        *_at_limit(temperature),
        *_too_few(len(each), false_refers),
    ]
    return Decision(
        temperature,
        tuple(prior.tolist()),
        tuple(mix.tolist()),
        coverage,
        risk,
        limits,
        rule,
        fit_usual(calibrated, distances),
        {**facts, "notes": notes},
    )


def _listed(names: Sequence[str]) -> str:
    """Those `named` views, for people."""
    return "With " + " or ".join(" and ".join(name.split(";")) if ";" in name else f"{name} alone" for name in names)


def _calibrated(
    answers: Answers, temperature: Sequence[float], prior: NDArray[np.float64], mix: NDArray[np.float64]
) -> NDArray[np.float64]:
    return reweighted(tempered(answers.probabilities, temperature), prior, mix)


def by_views(asked: Asked, fewer: Mapping[str, Asked]) -> dict[str, Asked]:
    """`named` views -> every case that was asked with just these, whether it has more or not."""
    views = {named(p.views_present): None for _, p in asked} | dict.fromkeys(fewer)
    return {
        name: [*(pair for pair in asked if named(pair[1].views_present) == name), *fewer.get(name, ())]
        for name in views
    }


def statistics_of(view: str, asked: Asked) -> list[NDArray[np.float32]]:
    """The statistics (I, D) of a view's images, of each case that has it.

    Raises:
        TableError: no case has it.
    """
    known = [p.statistics[view] for _, p in asked if view in p.statistics]
    if not known:
        raise TableError(f"no case has a {view}; a calibration needs cases with every view.")
    return known


def _with_names(text: str, classes: Sequence[str]) -> str:
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


def _too_few(patients: int, false_refers: float) -> Iterator[str]:
    if (patients + 1) * false_refers < 1.0:
        yield (
            f"{patients} patients are too few to tell what lies beyond all but {false_refers:.1%} of the images: more "
            "ordinary images than that may be called strange. Calibrate on more patients."
        )


def _none_answered(limits: Limits, cases: int, risk: float) -> Iterator[str]:
    if limits.certainty > 1.0:
        yield (
            f"{cases} cases do not show an error of at most {risk:.0%} with 95 % confidence: every such case is "
            "referred. Calibrate on more cases, or choose a higher --risk."
        )
