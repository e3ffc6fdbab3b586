"""How sure a figure is: bootstrap over patients, and paired differences of two models on the same patients.

Patients, not cases, are drawn (see `patients`). Every figure must come from a function of weights (see
`weighting`), so that one call computes a whole block of draws.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtr, stdtrit
from scipy.stats import beta

from agfnet.metrics.patients import DRAWS, patient_draws, patient_index
from agfnet.metrics.weighting import BoolArray, FloatArray, ratio

LEVEL = 0.95
FEW_PATIENTS = 30
"""Intervals from draws of fewer tend to be too narrow."""
FEW_EITHER_WAY = 5
"""So do those of a share that fewer patients make up, or lack."""

MetricSet = Callable[[FloatArray], Mapping[str, FloatArray]]
"""Weights (n,) or (D, n) -> name -> scalar or (K,), with a leading axis D for D sets of weights."""


def known(value: float | FloatArray) -> float | None:
    """A number as strict JSON holds it: None where it is not finite."""
    return float(value) if np.isfinite(value) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A figure and its interval.

    Attributes:
        value: scalar or (K,): on the cases as they are.
        low: same shape: lower end; NaN where the figure is not defined or there are fewer than two patients.
        high: same shape: upper end.
        defined: same shape: share of the draws in which the figure was defined; the interval rests on these.
    """

    value: FloatArray
    low: FloatArray
    high: FloatArray
    defined: FloatArray

    def as_json(self, index: int | tuple[()] = ()) -> dict[str, float | None]:
        """Value, low and high of one figure as strict JSON holds them: None where they are not defined.

        Args:
            index: which of K figures.
        """
        return {end: known(np.asarray(getattr(self, end))[index]) for end in ("value", "low", "high")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference(Interval):
    """First model minus second, on the same cases.

    Attributes:
        p: same shape: two-sided p for "no difference", or for another given one.
    """

    p: FloatArray


def bootstrap(
    metrics: MetricSet | Sequence[MetricSet],
    patients: Sequence[Hashable],
    *,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
    without: Collection[str] = (),
    shares: Mapping[str, BoolArray] | None = None,
) -> dict[str, Interval]:
    """Intervals by a bootstrap over patients.

    Percentiles at (1 - level) / 2 and (1 + level) / 2 of the draws in which the figure is defined. They need
    some dozens of patients to be trusted; and a figure that is 0 or 1 in the sample (5 of 5 found) gets an
    interval of no width, which is not certainty. So one of `shares` is no narrower than the exact interval (Clopper &
    Pearson 1934) of as many patients as it is of where these are under `FEW_PATIENTS`, or under `FEW_EITHER_WAY` make
    it up or lack. Source: Efron & Tibshirani 1993, chapter 13; clusters: Field & Welsh 2007.

    Args:
        metrics: a function of weights, or one for each trained seed of the same model: then the value is the
            mean over seeds, and the interval is of other trainings too (see `paired_difference`).
        patients: (n,) ids, one per case.
        draws: number of draws.
        seed: of the draws.
        level: of the interval, between 0 and 1.
        without: names of figures that get no interval, as draws of patients cannot judge them.
        shares: name of a figure that is a share of cases -> (n,) or (n, K): the cases that it is a share of.

    Returns:
        Name -> interval.

    Raises:
        ValueError: no cases, no draws, no metrics, or a level outside (0, 1).

    >>> import numpy as np
    >>> right = np.array([1.0, 1.0, 0.0, 1.0])
    >>> mean = lambda w: {"accuracy": (w @ right) / w.sum(axis=-1)}
    >>> interval = bootstrap(mean, ["a", "b", "c", "d"])["accuracy"]
    >>> float(interval.value), float(interval.low), float(interval.high)
    (0.75, 0.25, 1.0)
    """
    samples = _samples(metrics, patients, draws, seed)
    found = {
        name: Interval(**_summary([one], patients, level, 0.0, judged=name not in without)[0])
        for name, one in samples.items()
    }
    return found | {name: _exact(found[name], of, patients, level) for name, of in (shares or {}).items()}


def _exact(found: Interval, of: BoolArray, patients: Sequence[Hashable], level: float) -> Interval:
    """No narrower than the exact interval of a share of few patients; NaN stays."""
    owners = patient_index(patients)
    counts = np.array([np.unique(owners[column]).size for column in np.atleast_2d(of.T)]).reshape(found.value.shape)
    hits, misses = counts * found.value, counts * (1.0 - found.value)
    low = np.where(hits > 0.0, beta.ppf((1.0 - level) / 2, hits, misses + 1.0), 0.0)
    high = np.where(misses > 0.0, beta.ppf((1.0 + level) / 2, hits + 1.0, misses), 1.0)
    few = (counts < FEW_PATIENTS) | (np.minimum(hits, misses) < FEW_EITHER_WAY)
    return replace(
        found,
        low=np.where(few, np.minimum(found.low, low), found.low),
        high=np.where(few, np.maximum(found.high, high), found.high),
    )


def paired_difference(
    first: MetricSet | Sequence[MetricSet],
    second: MetricSet | Sequence[MetricSet],
    patients: Sequence[Hashable],
    *,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
    null: float = 0.0,
    without: Collection[str] = (),
) -> dict[str, Difference]:
    """First model minus second, both on the same patients in every draw.

    One trained seed a model: percentiles of the draws of patients, and p = 2 min(#{d <= null} + 1, #{d >= null}
    + 1) / (draws + 1), at most 1, which agrees with them. They hold for these trained weights only.

    Several trained seeds are averaged, and the interval is of other trainings on other patients. Drawing patients
    and seeds both would count three times what a seed does to single patients (Owen 2007, The pigeonhole bootstrap),
    and the percentiles of so few seeds are too narrow. So the variance is put together from its parts, V = B + the
    sum over models of s^2 / S - I: B that of the mean over seeds in draws of patients, s^2 that between the S seeds,
    and I = (mean over seeds of each one's B - B of their mean) / (S - 1) what both contain. The interval is
    +- t sqrt(V), V being at least B, with degrees of freedom by Satterthwaite (1946) from the same parts, and p is
    that of t. Two seeds make it wide: t has few degrees of freedom then. A model of one seed beside one of several is
    taken to differ between trainings as much as that one does.

    Args:
        first: a function of weights, or one for each trained seed.
        second: the same for the other model; the numbers of seeds may differ.
        patients: (n,) ids, one per case; the cases are the same and in the same order in every function.
        draws: number of draws.
        seed: of the draws.
        level: of the interval, between 0 and 1.
        null: the difference that p is of; another than 0 for "no worse by more than".
        without: names of figures that get no interval and no p, as draws of patients cannot judge them.

    Returns:
        Name -> difference, for the names that both models have.

    Raises:
        ValueError: no cases, no draws, no metrics, no common name, or a level outside (0, 1).

    >>> import numpy as np
    >>> model = lambda right: lambda w: {"accuracy": (w @ np.array(right)) / w.sum(axis=-1)}
    >>> same = paired_difference(model([1.0, 0.0]), model([1.0, 0.0]), ["a", "b"])["accuracy"]
    >>> float(same.value), float(same.p)
    (0.0, 1.0)
    """
    one, other = _samples(first, patients, draws, seed), _samples(second, patients, draws, seed, sign=-1.0)
    names = [name for name in one if name in other]
    if not names:
        raise ValueError("the two models have no figure in common")
    out = {}
    for name in names:
        figures, p = _summary([one[name], other[name]], patients, level, null, judged=name not in without)
        out[name] = Difference(**figures, p=p)
    return out


@dataclass(frozen=True, slots=True)
class _Sample:
    """One figure of one model.

    Attributes:
        values: (S, ...): of each seed, on the cases as they are.
        drawn: (S, D, ...): of each seed in every draw of patients.
        sign: with which it counts.
    """

    values: FloatArray
    drawn: FloatArray
    sign: float = 1.0


def _samples(
    metrics: MetricSet | Sequence[MetricSet],
    patients: Sequence[Hashable],
    draws: int,
    seed: int,
    *,
    sign: float = 1.0,
) -> dict[str, _Sample]:
    """Every figure of a model; the same patients are drawn for every model."""
    models = [metrics] if callable(metrics) else list(metrics)
    if not models:
        raise ValueError("there are no metrics to draw")
    values = [model(np.ones(len(patients))) for model in models]
    blocks = [[model(weights) for model in models] for weights in patient_draws(patients, draws=draws, seed=seed)]
    return {
        name: _Sample(
            np.stack([figures[name] for figures in values]),
            np.concatenate([np.stack([figures[name] for figures in block]) for block in blocks], axis=1),
            sign,
        )
        for name in values[0]
    }


def _summary(
    samples: Sequence[_Sample], patients: Sequence[Hashable], level: float, null: float, *, judged: bool
) -> tuple[dict[str, FloatArray], FloatArray]:
    """The sum of the samples' means over seeds, with its interval, and the two-sided p of `null`."""
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, not {level}")
    value, drawn = (
        np.asarray(sum(one.sign * getattr(one, kind).mean(axis=0) for one in samples)) for kind in ("values", "drawn")
    )
    # What is 0 but for rounding must count on both sides, or identical models would differ significantly.
    value, drawn = (np.where(np.abs(numbers) < 1e-12, 0.0, numbers) for numbers in (value, drawn))
    if any(len(one.values) > 1 for one in samples):
        error, freedom = _standard_error(samples, drawn, len(set(patients)))
        still = error < 1e-12  # neither patients nor seeds change it: t has no degrees of freedom then
        reach = np.where(still, 0.0, stdtrit(freedom, (1 + level) / 2) * error)
        low, high = value - reach, value + reach
        with np.errstate(divide="ignore", invalid="ignore"):
            p = np.where(still, 2.0 / (len(drawn) + 1), 2 * stdtr(freedom, -np.abs(value - null) / error))
        p = np.where(value == null, 1.0, p)
    else:
        low, high = _percentiles(drawn, [(1 - level) / 2, (1 + level) / 2])
        p = _two_sided_p(drawn - null)
    # One patient drawn again and again would look perfectly sure.
    sensible = np.isfinite(value) & (judged and len(set(patients)) > 1)
    low, high, p = (np.where(sensible, number, np.nan) for number in (low, high, p))
    return {"value": value, "low": low, "high": high, "defined": np.isfinite(drawn).mean(axis=0)}, p


def _standard_error(samples: Sequence[_Sample], drawn: FloatArray, patients: int) -> tuple[FloatArray, FloatArray]:
    """Standard error of a sum of means over seeds, and its degrees of freedom (see `paired_difference`)."""
    of_patients = _variance(drawn)
    parts = [(of_patients, patients - 1)]
    total = of_patients
    alone = sum(len(one.values) == 1 for one in samples)
    several = [one for one in samples if len(one.values) > 1]
    for one in several:
        seeds = len(one.values)
        # What this model's seeds stand for: its own mean, and a share of each model that has one seed alone.
        counted = 1 / seeds + alone / len(several)
        of_seeds = one.values.var(axis=0, ddof=1) * counted
        of_both = _variance(one.drawn, axis=1).mean(axis=0) - _variance(one.drawn.mean(axis=0))
        of_both = of_both * seeds / (seeds - 1) * counted
        parts.append((of_seeds, seeds - 1))
        total = total + of_seeds - of_both
    whole = sum(part for part, _ in parts)
    freedom = ratio(whole**2, sum(part**2 / max(1, count) for part, count in parts))
    return np.sqrt(np.maximum(total, of_patients)), freedom


def _variance(drawn: FloatArray, axis: int = 0) -> FloatArray:
    """Over the draws in which the figure is defined; NaN where it never is."""
    return np.ma.filled(np.ma.masked_invalid(drawn).var(axis=axis), np.nan)


def _percentiles(drawn: FloatArray, tails: Sequence[float]) -> FloatArray:
    """(2, ...): over the draws in which the figure is defined; NaN where it never is."""
    columns = drawn.reshape(len(drawn), -1)
    ends = np.full((2, columns.shape[1]), np.nan)
    for j, column in enumerate(columns.T):
        finite = column[np.isfinite(column)]
        if finite.size:
            ends[:, j] = np.quantile(finite, tails)
    return ends.reshape(2, *drawn.shape[1:])


def _two_sided_p(difference: FloatArray) -> FloatArray:
    defined = np.isfinite(difference)
    below = (defined & (difference <= 0)).sum(axis=0) + 1
    above = (defined & (difference >= 0)).sum(axis=0) + 1
    count = defined.sum(axis=0)
    p = np.minimum(1.0, ratio(2 * np.minimum(below, above), count + 1))
    return np.where(count > 0, p, np.nan)
