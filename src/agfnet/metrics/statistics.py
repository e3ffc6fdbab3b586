"""How sure a figure is: bootstrap over patients, and paired differences of two models on the same patients.

Patients, not cases, are drawn (see `patients`). Every figure must come from a function of weights (see
`weighting`), so that one call computes a whole block of draws.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from agfnet.metrics.patients import DRAWS, patient_draws
from agfnet.metrics.weighting import FloatArray, ratio

LEVEL = 0.95

MetricSet = Callable[[FloatArray], Mapping[str, FloatArray]]
"""Weights (n,) or (D, n) -> name -> scalar or (K,), with a leading axis D for D sets of weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A figure and its percentile interval.

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
        ends = {end: float(np.asarray(getattr(self, end))[index]) for end in ("value", "low", "high")}
        return {end: number if np.isfinite(number) else None for end, number in ends.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference(Interval):
    """First model minus second, on the same cases.

    Attributes:
        p: same shape: two-sided bootstrap p for "no difference", or for another given one, at least 2 / (draws + 1).
    """

    p: FloatArray


def bootstrap(
    metrics: MetricSet | Sequence[MetricSet],
    patients: Sequence[Hashable],
    *,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
) -> dict[str, Interval]:
    """Percentile intervals by a bootstrap over patients.

    Percentiles at (1 - level) / 2 and (1 + level) / 2 of the draws in which the figure is defined. They need
    some dozens of patients to be trusted; and a figure that is 0 or 1 in the sample (5 of 5 found) gets an
    interval of no width, which is not certainty. Source: Efron & Tibshirani 1993, chapter 13; clusters: Field
    & Welsh 2007.

    Args:
        metrics: a function of weights, or one for each trained seed of the same model: then the value is the
            mean over seeds, and seeds are drawn too (see `paired_difference`).
        patients: (n,) ids, one per case.
        draws: number of draws.
        seed: of the draws.
        level: of the interval, between 0 and 1.

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
    value, drawn = _collect([_as_models(metrics)], patients, draws, seed)
    return {name: Interval(**_summary(value[0][name], drawn[0][name], patients, level)) for name in value[0]}


def paired_difference(
    first: MetricSet | Sequence[MetricSet],
    second: MetricSet | Sequence[MetricSet],
    patients: Sequence[Hashable],
    *,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
    null: float = 0.0,
) -> dict[str, Difference]:
    """First model minus second, both on the same patients in every draw.

    Several trained seeds per model are averaged, and drawn with replacement in each draw, independently of
    the patients and of the other model's. Of S seeds S - 1 are drawn: drawing S would make the variance
    between so few seeds too small by the factor (S - 1) / S (McCarthy & Snowden 1985). One seed alone says
    nothing of the spread between seeds: the interval then holds for these trained weights only.

    p = 2 min(#{d <= null} + 1, #{d >= null} + 1) / (draws + 1), at most 1, which agrees with the percentile
    interval.

    Args:
        first: a function of weights, or one for each trained seed.
        second: the same for the other model; the numbers of seeds may differ.
        patients: (n,) ids, one per case; the cases are the same and in the same order in every function.
        draws: number of draws.
        seed: of the draws.
        level: of the interval, between 0 and 1.
        null: the difference that p is of; another than 0 for "no worse by more than".

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
    value, drawn = _collect([_as_models(first), _as_models(second)], patients, draws, seed)
    names = [name for name in value[0] if name in value[1]]
    if not names:
        raise ValueError("the two models have no figure in common")
    out = {}
    for name in names:
        difference = drawn[0][name] - drawn[1][name]
        # What is 0 but for rounding must count on both sides, or identical models would differ significantly.
        difference[np.abs(difference) < 1e-12] = 0.0
        out[name] = Difference(
            **_summary(value[0][name] - value[1][name], difference, patients, level),
            p=_two_sided_p(difference - null),
        )
    return out


def _as_models(metrics: MetricSet | Sequence[MetricSet]) -> list[MetricSet]:
    models = [metrics] if callable(metrics) else list(metrics)
    if not models:
        raise ValueError("there are no metrics to draw")
    return models


def _collect(
    models: list[list[MetricSet]], patients: Sequence[Hashable], draws: int, seed: int
) -> tuple[list[dict[str, FloatArray]], list[dict[str, FloatArray]]]:
    """For each model, the figures on all cases and in every draw, averaged over its seeds."""
    ones = np.ones(len(patients))
    rngs = [np.random.default_rng([seed, number]) for number in range(1, len(models) + 1)]
    values = [_mean_over_seeds(seeds, ones, np.ones((1, len(seeds)))) for seeds in models]
    blocks: list[list[dict[str, FloatArray]]] = [[] for _ in models]
    for weights in patient_draws(patients, draws=draws, seed=seed):
        for seeds, rng, collected in zip(models, rngs, blocks, strict=True):
            count = max(1, len(seeds) - 1)
            chosen = rng.multinomial(count, np.full(len(seeds), 1 / len(seeds)), size=len(weights))
            collected.append(_mean_over_seeds(seeds, weights, chosen.astype(np.float64)))
    drawn = [{name: np.concatenate([block[name] for block in parts]) for name in parts[0]} for parts in blocks]
    return values, drawn


def _mean_over_seeds(seeds: list[MetricSet], weights: FloatArray, chosen: FloatArray) -> dict[str, FloatArray]:
    """Figures averaged over seeds, seed s counting chosen[:, s] times in each draw."""
    figures = [seed(weights) for seed in seeds]
    out = {}
    for name in figures[0]:
        total: FloatArray = np.zeros(np.shape(figures[0][name]))
        for s, figure in enumerate(figures):
            times = chosen[0, s] if weights.ndim == 1 else chosen[:, s]
            times = np.reshape(times, np.shape(times) + (1,) * (total.ndim - np.ndim(times)))
            total = total + np.where(times > 0, times * figure[name], 0.0)  # a NaN counts only where it was drawn
        out[name] = total / chosen[0].sum()
    return out


def _summary(value: FloatArray, drawn: FloatArray, patients: Sequence[Hashable], level: float) -> dict[str, FloatArray]:
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, not {level}")
    tails = [(1 - level) / 2, (1 + level) / 2]
    columns = drawn.reshape(len(drawn), -1)
    ends = np.full((2, columns.shape[1]), np.nan)
    several = len(set(patients)) > 1  # one patient drawn again and again would look perfectly sure
    for j, column in enumerate(columns.T):
        finite = column[np.isfinite(column)]
        if several and finite.size and np.isfinite(value.reshape(-1)[j]):
            ends[:, j] = np.quantile(finite, tails)
    return {
        "value": value,
        "low": ends[0].reshape(value.shape),
        "high": ends[1].reshape(value.shape),
        "defined": np.isfinite(drawn).mean(axis=0),
    }


def _two_sided_p(difference: FloatArray) -> FloatArray:
    defined = np.isfinite(difference)
    below = (defined & (difference <= 0)).sum(axis=0) + 1
    above = (defined & (difference >= 0)).sum(axis=0) + 1
    count = defined.sum(axis=0)
    p = np.minimum(1.0, ratio(2 * np.minimum(below, above), count + 1))
    return np.where(count > 0, p, np.nan)
