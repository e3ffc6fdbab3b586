"""Fit, on calibration cases alone, what makes a network's scores usable; applying is in `agfnet.prediction`.

Temperature first, then diagnosis sets and the rule that refers, both on the calibrated probabilities.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.stats import beta
from sklearn.covariance import LedoitWolf
from sklearn.preprocessing import StandardScaler

from agfnet.metrics.calibration import FLOOR, nll
from agfnet.metrics.patients import patient_index
from agfnet.metrics.weighting import IntArray, check_cases, tie_groups
from agfnet.prediction.calibration import reweighted, tempered
from agfnet.prediction.conformal import Conformal
from agfnet.prediction.decision import Limits
from agfnet.prediction.drift import BINS, Usual
from agfnet.prediction.refer import Reference
from agfnet.types import Reason

LIMITS = (0.05, 20.0)
"""Of a temperature: a few cases that are all right, or all wrong, would otherwise ask for 0 or infinity."""
FOLDS = 5
SHARES = 20
PER_CLASS_CASES = 20
"""Fewest calibration cases of a class for a temperature of its own."""
OWN_PATIENTS = 20
"""Fewest calibration patients of a set of views for a temperature of its own."""


def fit_temperature(labels: ArrayLike, probabilities: ArrayLike, prior: NDArray[np.float64] | None = None) -> float:
    """The temperature with the least negative log-likelihood; Guo et al. 2017 (1706.04599).

    Args:
        labels: (n,) integers in 0 .. K-1, of cases that were not trained on.
        probabilities: (n, K) floats, rows with sum 1.
        prior: (K,) prevalence that the probabilities are right for, where these cases may have another one: they are
            judged re-weighted to that, so that a shift of the mix is not taken for a lack of calibration. None: as they
            are.

    Returns:
        A temperature within `LIMITS`.

    Raises:
        ValueError: the input is not as described.
    """
    y, p = check_cases(labels, probabilities)
    found = minimize_scalar(
        lambda log_t: float(nll(y, among(y, tempered(p, math.exp(log_t)), prior))),
        bounds=(math.log(LIMITS[0]), math.log(LIMITS[1])),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return math.exp(float(found.x))


def among(y: IntArray, p: NDArray[np.float64], prior: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Re-weight probabilities from `prior` to the class frequencies among the labels; None: leave them as they are."""
    return p if prior is None else reweighted(p, prior, np.bincount(y, minlength=p.shape[1]) / len(y))


def fit_class_temperatures(
    labels: ArrayLike, probabilities: ArrayLike, prior: NDArray[np.float64] | None = None
) -> tuple[float, ...]:
    """One temperature for each class, with the least negative log-likelihood; starts from the common one."""
    y, p = check_cases(labels, probabilities)
    start = np.full(p.shape[1], math.log(fit_temperature(y, p, prior)))
    found = minimize(
        lambda log_t: float(nll(y, among(y, tempered(p, np.exp(log_t).tolist()), prior))),
        start,
        method="L-BFGS-B",
        bounds=[(math.log(LIMITS[0]), math.log(LIMITS[1]))] * p.shape[1],
    )
    return tuple(np.exp(found.x).tolist())


def fit_of_their_own(labels: IntArray, patients: Sequence[str], classes: int) -> bool:
    """Whether cases of a set of views suffice for a temperature of their own; otherwise that of all cases is taken."""
    return len({*patients}) >= OWN_PATIENTS and len(np.unique(labels)) == classes


def choose_temperature(
    labels: ArrayLike, probabilities: ArrayLike, patients: Sequence[str], prior: NDArray[np.float64], *, seed: int = 0
) -> tuple[float, ...]:
    """One temperature, or one for each class where that helps.

    Per class only if every class has `PER_CLASS_CASES` cases and, in cross-validation by patient, the log-likelihood
    is better by more than one standard error.
    """
    y, p = check_cases(labels, probabilities)
    common = (fit_temperature(y, p, prior),)
    if np.bincount(y, minlength=p.shape[1]).min() < PER_CLASS_CASES:
        return common
    one, each = (
        among(y, cross_fitted(y, p, patients, prior, per_class=own, seed=seed), prior)[np.arange(len(y)), y]
        for own in (False, True)
    )
    gain = np.log(np.maximum(each, FLOOR)) - np.log(np.maximum(one, FLOOR))
    gains = np.bincount(patient_index(patients), weights=gain)  # a patient's cases are not independent
    helps = gains.sum() > gains.std(ddof=1) * math.sqrt(len(gains))
    return fit_class_temperatures(y, p, prior) if helps else common


def cross_fitted(
    labels: ArrayLike,
    probabilities: ArrayLike,
    patients: Sequence[str],
    prior: NDArray[np.float64],
    *,
    per_class: bool,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Calibrated probabilities (n, K) of each case by temperatures that were fitted on other patients."""
    y, p = check_cases(labels, probabilities)
    owners = patient_index(patients)
    fold_of = np.random.default_rng(seed).permutation(owners.max() + 1) % FOLDS
    out = np.empty_like(p)
    for fold in np.unique(fold_of):
        held = fold_of[owners] == fold
        others = y[~held], p[~held], prior
        out[held] = tempered(p[held], fit_class_temperatures(*others) if per_class else fit_temperature(*others))
    return out


def one_case_each(patients: Sequence[Hashable], seed: int = 0) -> IntArray:
    """The places of one case of each patient, drawn with a seed: conformal cases must be exchangeable."""
    owners = patient_index(patients)
    order = np.random.default_rng(seed).permutation(len(owners))
    _, first = np.unique(owners[order], return_index=True)
    return np.sort(order[first])


def fit_conformal(
    labels: ArrayLike, probabilities: ArrayLike, patients: Sequence[str], *, coverage: float = 0.9, seed: int = 0
) -> Conformal:
    """Thresholds of diagnosis sets, by split conformal prediction on one case of each patient.

    Args:
        labels: (n,) of calibration cases.
        probabilities: (n, K), calibrated.
        patients: (n,) ids.
        coverage: chosen coverage, between 0 and 1.
        seed: of the draw of one case a patient.

    Returns:
        Marginal thresholds, and class-conditional ones if every class has enough patients, see `patients_for`.

    Raises:
        ValueError: the input is not as described.
    """
    if not 0.0 < coverage < 1.0:
        raise ValueError(f"coverage must be between 0 and 1, not {coverage}")
    y, p = check_cases(labels, probabilities)
    scores = 1.0 - p[np.arange(len(y)), y]
    # Of a class, one case of each patient who has it: a patient's other lesions are of other classes' thresholds.
    own = one_case_each(list(zip(patients, y.tolist(), strict=True)), seed)
    of_class = [scores[own][y[own] == k] for k in range(p.shape[1])]
    counts = [len(values) for values in of_class]
    enough = patients_for(coverage)
    per_class = tuple(_threshold(values, coverage) for values in of_class) if min(counts) >= enough else None
    return Conformal(_threshold(scores[one_case_each(patients, seed)], coverage), per_class, tuple(counts))


def patients_for(coverage: float) -> int:
    """How many patients a threshold of this coverage needs, so that not everything is let in: 9 at 90 %."""
    return math.ceil(coverage / (1.0 - coverage) - 1e-9)


def _threshold(scores: NDArray[np.float64], coverage: float) -> float:
    """The ceil((n + 1) * coverage)-th smallest score; 1, which lets everything in, where there are too few."""
    rank = math.ceil((len(scores) + 1) * coverage - 1e-9)
    return 1.0 if rank > len(scores) else float(np.sort(scores)[rank - 1])


def fit_certainty(labels: ArrayLike, probabilities: ArrayLike, *, risk: float, level: float = 0.95) -> float:
    """The least certainty at which the answered cases' share of errors is, with confidence, at most `risk`.

    Shares of the surest cases are tested from small to large, until one whose error has an upper Clopper-Pearson bound
    above the wanted risk: fixed-sequence testing (Learn then Test, 2110.01052), which splits no confidence over the
    shares. It begins at the first share that could pass: with two errors where a fifth of the cases is enough for
    that, so that one error among the surest does not refer everything, else with none; this depends on no label. Cases
    of equal certainty are tested together, as they are answered together.

    Args:
        labels: (n,) of calibration cases.
        probabilities: (n, K), calibrated.
        risk: wanted share of errors.
        level: confidence.

    Returns:
        A threshold for the highest probability; above 1 (nothing is answered) where no share of the cases will do.
    """
    y, p = check_cases(labels, probabilities)
    certainty, wrong = p.max(1), p.argmax(1) != y
    order, last = tie_groups(certainty, descending=True)
    shares = np.ceil(np.linspace(1.0 / SHARES, 1.0, SHARES) * len(y)).astype(int)
    counts = np.unique(last[np.searchsorted(last, shares - 1)] + 1)
    two, none = (counts[beta.ppf(level, errors + 1, counts - errors) <= risk] for errors in (2, 0))
    counts = two if two.size and two[0] <= 0.2 * len(y) else none
    errors = np.cumsum(wrong[order])[counts - 1]
    passed = np.where(errors == counts, 1.0, beta.ppf(level, errors + 1, counts - errors)) <= risk
    good = counts[np.logical_and.accumulate(passed)]
    return float(certainty[order][good[-1] - 1]) if good.size else math.nextafter(1.0, 2.0)


def fit_reference(
    statistics: NDArray[np.float32], held_out: Sequence[NDArray[np.float32]], *, false_refers: float
) -> Reference:
    """What a view's training images look like, and how far held-out ones of the same kind lie.

    Args:
        statistics: (n, D) of training images; see `channel_statistics`.
        held_out: of each calibration case (I, D), its images of the view; the farthest counts. One case a patient.
        false_refers: share of ordinary images that may be called strange.
    """
    own = statistics.astype(np.float64)  # in float32 small eigenvalues would be taken for 0
    scaler = StandardScaler().fit(own)
    precision = LedoitWolf(assume_centered=True).fit(scaler.transform(own)).precision_  # shrunk towards a ball's
    whiten = np.linalg.cholesky(precision).T / scaler.scale_
    reference = Reference(scaler.mean_.astype(np.float32), whiten.astype(np.float32), math.inf)
    limit = usual_limit([reference.farthest(images) for images in held_out], false_refers)
    return Reference(reference.mean, reference.whiten, limit)


def usual_limit(values: Sequence[float], false_refers: float) -> float:
    """What a further value of the same kind exceeds with at most this chance; the largest, where they are too few."""
    rank = math.ceil((len(values) + 1) * (1.0 - false_refers) - 1e-9)
    return float(np.sort(values)[min(len(values), rank) - 1])


def fit_limits(
    labels: ArrayLike,
    probabilities: ArrayLike,
    patients: Sequence[str],
    temperature: tuple[float, ...],
    *,
    coverage: float,
    risk: float,
    seed: int = 0,
) -> Limits:
    """Thresholds of the diagnosis sets and the least certainty of an answer, for cases of the same views.

    Both are fitted on one case a patient: their confidence is that of cases that do not depend on each other.

    Args:
        labels: (n,) of calibration cases.
        probabilities: (n, K), calibrated.
        patients: (n,) ids.
        temperature: that they are calibrated with.
        coverage: chosen coverage of the sets.
        risk: wanted share of errors among the answered cases.
        seed: of the draw of one case a patient.
    """
    y, p = check_cases(labels, probabilities)
    one = one_case_each(patients, seed)
    return Limits(
        temperature,
        fit_conformal(y, p, patients, coverage=coverage, seed=seed),
        fit_certainty(y[one], p[one], risk=risk),
    )


def fit_usual(probabilities: NDArray[np.float64], distances: Mapping[str, NDArray[np.float64]]) -> Usual:
    """What calibration cases look like to the network, as the reference of drift.

    Args:
        probabilities: (n, K), calibrated.
        distances: modality -> (m,) of the cases that have it; see `Reference.distance`.
    """
    inner = np.arange(1, BINS) / BINS
    predicted = np.bincount(probabilities.argmax(1), minlength=probabilities.shape[1]) + 0.5
    return Usual(
        distances={view: tuple(np.quantile(own, inner).tolist()) for view, own in distances.items()},
        certainty=tuple(np.quantile(probabilities.max(1), inner).tolist()),
        predicted=tuple((predicted / predicted.sum()).tolist()),
    )


def referral_facts(reasons: Sequence[tuple[Reason, ...]], right: Sequence[bool]) -> dict[str, Any]:
    """How often cases are referred, why, and how often the answered ones are wrong."""
    answered = [ok for ok, why in zip(right, reasons, strict=True) if not why]
    kinds = Counter(str(reason) for why in reasons for reason in why)
    return {
        "answered": len(answered) / len(reasons),
        "error_answered": 1.0 - sum(answered) / len(answered) if answered else None,
        "error_all": 1.0 - sum(right) / len(right),
        "by_reason": {kind: n / len(reasons) for kind, n in sorted(kinds.items())},
    }
