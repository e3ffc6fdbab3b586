"""What the results of a comparison say: every row's figures, paired differences, and the claims that hold or do not."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from agfnet.evaluation.answers import Answers, answers_from_json, synthetic_note
from agfnet.evaluation.compare import RESULT, Run, answerable, folds_of, labelled_cases, run_folder
from agfnet.evaluation.fitting import fit_temperature
from agfnet.evaluation.plan import FIGURES, LOWER_IS_BETTER, TEST, Claim, ComparisonPlan
from agfnet.files import read_json
from agfnet.metrics.calibration import brier, nll
from agfnet.metrics.classification import accuracy, balanced_accuracy
from agfnet.metrics.patients import DRAWS
from agfnet.metrics.ranking import macro_auc
from agfnet.metrics.significance import holm
from agfnet.metrics.statistics import Interval, MetricSet, bootstrap, known, paired_difference
from agfnet.metrics.weighting import FloatArray, weighted_mean
from agfnet.places import place
from agfnet.prediction.calibration import tempered
from agfnet.types import RESEARCH_USE, ConfigError

log = logging.getLogger("agfnet")
Figure = Callable[[FloatArray], FloatArray]
"""A figure as a function of the cases' weights."""
COSTS = ("parameters", "forward_ms", "training_minutes")


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one run.

    Attributes:
        sets: set of answers -> answers.
        fitted: on calibration (or validation) cases, which the temperature is fitted on.
        focus: view -> map -> energy inside the evidence, one per case, or None.
        focus_patients: whose cases these are.
        costs: name in `COSTS` -> number.
        code: fingerprints of the sources that it was trained by.
        seed: of the training.
    """

    sets: Mapping[str, Answers]
    fitted: Answers
    focus: Mapping[str, Mapping[str, Sequence[float | None]]]
    focus_patients: Sequence[str]
    costs: Mapping[str, float]
    code: frozenset[str]
    seed: int = 0


def read_result(file: Path) -> Result:
    """The result that a run wrote."""
    told = read_json(file)
    sets = {on: answers_from_json(own) for on, own in told["sets"].items()}
    focus = told["focus"] or {"patients": [], "energy": {}}
    costs = {cost: told[cost] for cost in COSTS}
    fitted, code = answers_from_json(told["fitted"]), frozenset(told["code"])
    return Result(sets, fitted, focus["energy"], focus["patients"], costs, code)


def results_of(plan: ComparisonPlan, folder: Path, row: str) -> list[Result]:
    """The results of a row by seed, those that are finished in every fold; a mean of rows is made of its parts'."""
    own = plan.rows[row]
    made = []
    for seed in plan.seeds_of(row):
        files = [
            [run_folder(folder, Run(part, seed, fold)) / RESULT for fold in folds_of(plan)]
            for part in own.mean_of or (row,)
        ]
        if all(file.exists() for folds in files for file in folds):
            pooled = _pooled([_mean([read_result(file) for file in fold]) for fold in zip(*files, strict=True)])
            made.append(replace(pooled, seed=seed))
    return made


def _pooled(folds: Sequence[Result]) -> Result:
    """The answers of all folds one after the other; costs are the mean of a fold. One alone stays as it is."""
    if len(folds) == 1:
        return folds[0]
    first = folds[0]
    return Result(
        {on: _joined([r.sets[on] for r in folds]) for on in first.sets if all(on in r.sets for r in folds)},
        _joined([r.fitted for r in folds]),
        {
            view: {heat: [v for r in folds for v in r.focus[view][heat]] for heat in maps}
            for view, maps in first.focus.items()
            if all(view in r.focus for r in folds)
        },
        [patient for r in folds for patient in r.focus_patients],
        {cost: float(np.mean([r.costs[cost] for r in folds])) for cost in COSTS},
        frozenset().union(*(r.code for r in folds)),
    )


def _joined(answers: Sequence[Answers]) -> Answers:
    return Answers(
        [case for own in answers for case in own.cases],
        [patient for own in answers for patient in own.patients],
        np.concatenate([own.labels for own in answers]),
        np.concatenate([own.probabilities for own in answers]),
    )


def _mean(results: Sequence[Result]) -> Result:
    """The mean of the probabilities of several networks; one alone stays as it is."""
    if len(results) == 1:
        return results[0]
    test, fitted = (_mean_answers(own) for own in ([r.sets[TEST] for r in results], [r.fitted for r in results]))
    costs = {cost: sum(r.costs[cost] for r in results) for cost in COSTS}
    return Result({TEST: test}, fitted, {}, [], costs, frozenset().union(*(r.code for r in results)))


def _mean_answers(answers: Sequence[Answers]) -> Answers:
    """The mean of the probabilities of those cases that all networks answered."""
    first, *others = answers
    common = set(first.cases).intersection(*(own.cases for own in others))
    kept = first.of([case in common for case in first.cases])
    told = [dict(zip(own.cases, own.probabilities, strict=True)) for own in answers]
    return replace(kept, probabilities=np.array([np.mean([own[case] for own in told], axis=0) for case in kept.cases]))


def comparison_table(plan: ComparisonPlan, folder: Path, *, draws: int = DRAWS) -> dict[str, Any]:
    """Every row's figures, its paired difference from the reference, and the claims, over the runs that are done.

    Returns:
        `reference`, `cases`, `patients`, `draws`; `code`: fingerprints of the sources that trained;
        `rows`: name -> seeds; every seed's figures; per figure its mean over
        seeds with interval and the difference "row minus reference" with interval and p; the Holm-adjusted p of
        balanced accuracy; parameters, forward and training time; `claims`: see `Claim`, with `values` of both sides and
        those of every seed, the `gain` with its interval, `holds`, the p of a gain of just the claim's bound and, over
        all claims with a bound, the Holm-adjusted one; what is not defined is None. Rows without a finished run are
        left out.

    Raises:
        ConfigError: the reference has no finished run, or runs were tested on different cases.
    """
    results = {row: results_of(plan, folder, row) for row in plan.rows}
    results = {row: own for row, own in results.items() if own}
    if plan.reference not in results:
        raise ConfigError(
            f"{folder}: the reference {plan.reference!r} has no finished run yet; let the comparison go on."
        )
    first = results[plan.reference][0].sets[TEST]
    for row, own in results.items():
        if any(not _same_cases(r.sets[TEST], first) for r in own):
            raise ConfigError(f"{folder}: row {row!r} was tested on other cases than {plan.reference!r}.")
    sets = {row: [_every_figure(r, TEST) for r in own] for row, own in results.items()}
    every = np.ones(len(first))
    rows: dict[str, dict[str, Any]] = {}
    for number, (row, own) in enumerate(results.items(), start=1):
        log.info("the table: row %d of %d, %s", number, len(results), row)
        figures = bootstrap(sets[row], first.patients, draws=draws)
        rows[row] = {
            "seeds": len(own),
            "by_seed": [{name: known(own[name]) for name in FIGURES} for own in (seed(every) for seed in sets[row])],
            "figures": {name: _in_range(name, figures[name]).as_json() for name in FIGURES},
            **{cost: float(np.mean([r.costs[cost] for r in own])) for cost in COSTS},
        }
        if row != plan.reference:
            apart = paired_difference(sets[row], sets[plan.reference], first.patients, draws=draws)
            rows[row]["difference"] = {n: apart[n].as_json() | {"p": known(apart[n].p)} for n in FIGURES}
    others = [own for row, own in rows.items() if row != plan.reference]
    _adjust([(own, own["difference"]["balanced_accuracy"]["p"]) for own in others])
    claims = []
    for number, claim in enumerate(plan.claims, start=1):
        log.info("the table: claim %d of %d, %s", number, len(plan.claims), claim.says)
        claims.append(_judged(claim, results, draws))
    _adjust([(claim, claim["p"]) for claim in claims if "p" in claim])
    return {
        "reference": plan.reference,
        "cases": len(first),
        "patients": len(set(first.patients)),
        "draws": draws,
        "code": sorted(frozenset().union(*(r.code for own in results.values() for r in own))),
        "rows": rows,
        "claims": claims,
    }


def _answers(results: Sequence[Result], figure: str, on: str) -> bool:
    """Whether there are results, and all have what a claim asks for: it may have been added since they were made."""
    if figure.startswith("focus/"):
        _, view, heat = figure.split("/")
        return bool(results) and all(heat in result.focus.get(view, {}) for result in results)
    return bool(results) and all(on in result.sets for result in results)


def _judged(claim: Claim, results: Mapping[str, Sequence[Result]], draws: int) -> dict[str, Any]:
    """What the finished runs say of a claim; `holds` is None where it is not known.

    That is where a side has no finished run that was asked (there is no `gain` then), or the gain is not defined.
    """
    told: dict[str, Any] = claim.model_dump()
    runs = [results.get(row, ()) for row in (claim.row, claim.than)]
    if claim.paired:
        common = set.intersection(*({r.seed for r in own} for own in runs))
        runs = [sorted((r for r in own if r.seed in common), key=lambda r: r.seed) for own in runs]
    if not all(_answers(own, figure, on) for own, (_, figure, on) in zip(runs, claim.sides(), strict=True)):
        return told | {"holds": None}
    if claim.figure.startswith("focus/"):
        patients, others = (own[0].focus_patients for own in runs)
        same = patients == others
    else:
        answered = [own[0].sets[on] for own, (_, _, on) in zip(runs, claim.sides(), strict=True)]
        patients, same = answered[0].patients, _same_cases(*answered)
    if not same:
        raise ConfigError(f"claim {claim.says!r}: its two sides were tested on different cases.")
    first, second = (
        [_one_figure(r, figure, on, log=claim.relative) for r in own]
        for own, (_, figure, on) in zip(runs, claim.sides(), strict=True)
    )
    better, worse = (second, first) if claim.figure in LOWER_IS_BETTER else (first, second)
    # Of logarithms: a/b - 1 where more is better, 1 - a/b where less is, b being the other row's figure.
    sign = -1.0 if claim.figure in LOWER_IS_BETTER else 1.0
    null = claim.bound or 0.0
    null = sign * math.log1p(sign * null) if claim.relative else null
    if claim.paired or claim.row == claim.than:  # trainings are drawn together
        better, worse = list(map(_seed_by_seed, better, worse)), [_nothing] * len(better)
    apart = paired_difference(better, worse, patients, draws=draws, null=null)["figure"]
    every = np.ones(len(patients))
    by_seed = [[float(seed(every)["figure"]) for seed in side] for side in (first, second)]
    values = [float(np.mean(side)) for side in by_seed]
    if claim.relative:
        values, by_seed = [math.exp(v) for v in values], [[math.exp(v) for v in side] for side in by_seed]
        apart = replace(apart, **{e: sign * np.expm1(sign * getattr(apart, e)) for e in ("value", "low", "high")})
    reached = claim.point is None or bool(apart.value >= claim.point)
    sure = claim.bound is None or bool(apart.low > claim.bound)
    defined = math.isfinite(apart.value) and (claim.bound is None or math.isfinite(apart.low))
    return told | {
        "values": [known(v) for v in values],
        "by_seed": [[known(v) for v in side] for side in by_seed],
        "gain": apart.as_json(),
        "p": None if claim.bound is None else known(apart.p),
        "seeds": [len(own) for own in runs],
        "holds": reached and sure if defined else None,
    }


def _in_range(name: str, interval: Interval) -> Interval:
    """An interval that ends where its figure does; by t, and of few seeds, it may reach further."""
    top = math.inf if name in LOWER_IS_BETTER else 1.0
    return replace(interval, **{end: np.clip(getattr(interval, end), 0.0, top) for end in ("low", "high")})


def _adjust(family: Sequence[tuple[dict[str, Any], float | None]]) -> None:
    """Enter Holm's `holm_p` for those of a family of tests that have a p."""
    defined = [(entry, p) for entry, p in family if p is not None]
    if defined:
        for (entry, _), adjusted in zip(defined, holm([p for _, p in defined]), strict=True):
            entry["holm_p"] = float(adjusted)


def _same_cases(first: Answers, second: Answers) -> bool:
    return first.cases == second.cases and np.array_equal(first.labels, second.labels)


def _figures(result: Result, on: str) -> dict[str, Figure]:
    """Those in `FIGURES`, by name."""
    own = result.sets[on]
    temperature = fit_temperature(result.fitted.labels, result.fitted.probabilities)
    y, p, cooled = own.labels, own.probabilities, tempered(own.probabilities, temperature)
    return {
        "balanced_accuracy": partial(balanced_accuracy, y, p),
        "accuracy": partial(accuracy, y, p),
        "macro_auc": partial(macro_auc, y, p),
        "nll": partial(nll, y, p),
        "brier": partial(brier, y, p),
        "nll_tempered": partial(nll, y, cooled),
        "brier_tempered": partial(brier, y, cooled),
    }


def _every_figure(result: Result, on: str) -> MetricSet:
    figures = _figures(result, on)
    return lambda weights: {name: figure(weights) for name, figure in figures.items()}


def _one_figure(result: Result, figure: str, on: str, *, log: bool) -> MetricSet:
    """One figure of a claim, under the name `figure`; its logarithm for a relative gain."""
    whole: Figure
    if figure.startswith("focus/"):
        _, view, heat = figure.split("/")
        whole = partial(_energy, np.array([math.nan if v is None else v for v in result.focus[view][heat]]))
    else:
        whole = _figures(result, on)[figure]
    return lambda weights: {"figure": np.log(whole(weights)) if log else whole(weights)}


def _energy(values: FloatArray, weights: FloatArray) -> FloatArray:
    """The mean over the cases that have a value."""
    there = np.isfinite(values)
    return weighted_mean(values[there], weights[..., there])


def _nothing(weights: FloatArray) -> dict[str, FloatArray]:
    return {"figure": np.zeros(weights.shape[:-1])}


def _seed_by_seed(better: MetricSet, worse: MetricSet) -> MetricSet:
    return lambda weights: {"figure": better(weights)["figure"] - worse(weights)["figure"]}


def comparison_notes(plan: ComparisonPlan, made: Mapping[str, Any], *, complete: bool) -> list[str]:
    """What a reader of the table, of `comparison_table`, must know."""
    table = plan.test or place(plan.base["data"]["table"])
    held = "validation part" if plan.folds is None else f"{plan.folds} folds by patient, pooled"
    notes = [f"Cases: {table}{'' if plan.test else f', {held}: a place to choose, not to confirm'}."]
    if plan.test is None:
        notes.append("Temperatures may have been fitted on these very cases: figures after scaling are optimistic.")
    labelled = labelled_cases(plan)
    for name, cases in labelled.items():
        if lacking := len(cases) - len(answerable(plan, cases)):
            notes.append(
                f"{lacking} of {len(cases)} cases of {name} have no image for a row of fewer views: no row is tested "
                "on them."
            )
    if not complete:
        notes.append("Not every run is done: rows may have fewer seeds than planned, or be missing.")
    if len(made["code"]) > 1:
        notes.append(f"Runs were trained by {len(made['code'])} versions of the code: rows may differ by that, too.")
    seeds = [row["seeds"] for row in made["rows"].values()]
    if min(seeds) == 1:
        others = "; beside a row of several it is taken to differ as much" if max(seeds) > 1 else ""
        notes.append(f"Of a row with one seed the interval does not know the spread between trainings{others}.")
    return [*notes, *synthetic_note(case for cases in labelled.values() for case in cases), RESEARCH_USE]
