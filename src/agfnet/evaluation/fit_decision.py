"""Everything that a calibration fits, from what the network says of calibration and of training cases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agfnet.evaluation.answers import Answers, CaseAnswer, answers_of
from agfnet.evaluation.fitting import (
    LIMITS,
    OWN_PATIENTS,
    choose_temperature,
    fit_limits,
    fit_of_their_own,
    fit_reference,
    fit_usual,
    one_case_each,
    patients_for,
    usual_limit,
)
from agfnet.evaluation.notes import OTHER_MIX, mixes_apart
from agfnet.prediction.calibration import calibrated
from agfnet.prediction.decision import Decision, Limits, named
from agfnet.prediction.output import percent
from agfnet.prediction.refer import ReferRule, disagreement
from agfnet.types import TableError

TOO_FEW_OF_THESE = (
    f"fewer than {OWN_PATIENTS} patients, or a class without a case: their temperature is that of all cases."
)
Asked = Sequence[CaseAnswer]
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
    """Temperatures; then, on calibrated probabilities, diagnosis sets, the rule that refers, the reference of drift.

    Args:
        asked: calibration cases, each with its label, and what is said of them with all their views.
        fewer: `named` views -> the cases that have these and more, and what is said of them with these alone.
        learnt: modality -> (n, D) statistics of training images.
        classes: the diagnoses.
        prior: (K,) prevalence that the network learnt, for which the temperatures make its probabilities right.
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
    mix = prior if prevalence is None else prevalence
    ordinary = {view: _one_each(_having(view, asked), seed) for view in learnt}
    references = {
        view: fit_reference(own, statistics_of(view, ordinary[view]), false_refers=false_refers)
        for view, own in learnt.items()
    }
    common = choose_temperature(answers.labels, answers.probabilities, answers.patients, prior, seed=seed)
    limits: dict[str, Limits] = {}
    told: dict[str, list[str]] = {}
    for views, of_views in by_views(asked, fewer).items():
        own = answers_of(of_views, classes)
        suffices = fit_of_their_own(own.labels, own.patients, len(classes))
        temperature = (
            choose_temperature(own.labels, own.probabilities, own.patients, prior, seed=seed) if suffices else common
        )
        answered = calibrated(own.probabilities, temperature, prior, mix)
        limits[views] = fit_limits(
            own.labels, answered, own.patients, temperature, coverage=coverage, risk=risk, seed=seed
        )
        for note in (
            *_not_by_class(limits[views], classes, coverage),
            *_none_answered(limits[views], len({*own.patients}), risk),
            *(_at_limit(temperature) if suffices else [TOO_FEW_OF_THESE]),
        ):
            told.setdefault(note, []).append(views)
    several = _one_each([pair for pair in asked if len(pair[1].views_present) > 1], seed)
    apart = [disagreement(list(p.view_probabilities.values())) for _, p in several] or [0.0]
    rule = ReferRule(usual_limit(apart, false_refers), references)
    distances = {
        view: np.array([own.farthest(images) for images in statistics_of(view, asked)])
        for view, own in references.items()
    }
    notes = [
        *facts.get("notes", ()),
        *(note if len(having) == len(limits) else f"{_listed(having)}: {note}" for note, having in told.items()),
        *_other_mix(answers, classes, prior),
        *_too_few({**ordinary, "several views": several} if len(learnt) > 1 else ordinary, false_refers),
    ]
    as_answered = [
        calibrated(p.probabilities, limits[named(p.views_present)].temperature, prior, mix) for _, p in asked
    ]
    return Decision(
        tuple(prior.tolist()),
        tuple(mix.tolist()),
        coverage,
        risk,
        limits,
        rule,
        fit_usual(np.stack(as_answered), distances),
        {**facts, "notes": notes},
    )


def _listed(names: Sequence[str]) -> str:
    """Those `named` views, for people."""
    return "With " + " or ".join(" and ".join(name.split(";")) if ";" in name else f"{name} alone" for name in names)


def by_views(asked: Asked, fewer: Mapping[str, Asked]) -> dict[str, Asked]:
    """`named` views -> every case that was asked with just these, whether it has more or not."""
    views = {named(p.views_present): None for _, p in asked} | dict.fromkeys(fewer)
    return {
        name: [*(pair for pair in asked if named(pair[1].views_present) == name), *fewer.get(name, ())]
        for name in views
    }


def _one_each(asked: Asked, seed: int) -> Asked:
    """One case of each patient."""
    return [asked[i] for i in one_case_each([case.patient_id for case, _ in asked], seed)] if asked else []


def _having(view: str, asked: Asked) -> Asked:
    """The cases that have a view.

    Raises:
        TableError: there are none.
    """
    having = [pair for pair in asked if view in pair[1].statistics]
    if not having:
        raise TableError(f"no case has a {view}; a calibration needs cases with every view.")
    return having


def statistics_of(view: str, asked: Asked) -> list[NDArray[np.float32]]:
    """The statistics (I, D) of a view's images, of each case that has it.

    Raises:
        TableError: no case has it.
    """
    return [p.statistics[view] for _, p in _having(view, asked)]


def _not_by_class(limits: Limits, classes: Sequence[str], coverage: float) -> Iterator[str]:
    if limits.conformal.per_class is None:
        enough = patients_for(coverage)
        few = ", ".join(f"{k}: {n}" for k, n in zip(classes, limits.conformal.counts, strict=True) if n < enough)
        yield (
            f"fewer than {enough} calibration patients in a class ({few}): sets cover {percent(coverage)} on average, "
            "not in each class. Collect more calibration cases of these classes."
        )


def _at_limit(temperature: Sequence[float]) -> Iterator[str]:
    if min(temperature) <= 1.01 * LIMITS[0] or max(temperature) >= 0.99 * LIMITS[1]:
        yield (
            f"A temperature is at its limit ({LIMITS[0]:g} to {LIMITS[1]:g}): the network is all right, all wrong or "
            "without any idea on these cases. Look at the data before probabilities are used."
        )


def _other_mix(answers: Answers, classes: Sequence[str], prior: NDArray[np.float64]) -> Iterator[str]:
    shares = np.bincount(answers.labels, minlength=len(classes)) / len(answers)
    if mixes_apart(shares, prior) > OTHER_MIX:
        k = int(np.abs(shares - prior).argmax())
        yield (
            "Diagnoses are not as frequent among these cases as among the training cases "
            f"({classes[k]}: {shares[k]:.0%} here, {prior[k]:.0%} there). The temperatures allow for it, but answers "
            "are for another mix than these cases': state your patients' with --prevalence. Sets and referral keep "
            "their promise for patients like these cases."
        )


def _too_few(ordinary: Mapping[str, Asked], false_refers: float) -> Iterator[str]:
    few = {what: len(own) for what, own in ordinary.items() if (len(own) + 1) * false_refers < 1.0}
    if few:
        yield (
            f"Too few patients to tell what lies beyond all but {false_refers:.1%} of ordinary cases (with "
            f"{', '.join(f'{what}: {n}' for what, n in few.items())}): more than that may be called strange, or in "
            "disagreement. Calibrate on more patients."
        )


def _none_answered(limits: Limits, patients: int, risk: float) -> Iterator[str]:
    if limits.certainty > 1.0:
        yield (
            f"{patients} patients do not show an error of at most {risk:.0%} with 95 % confidence: every such case is "
            "referred. Calibrate on more patients, or choose a higher --risk."
        )
