"""Two exported networks on the same cases: which is better, and for which diagnoses the other one was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agfnet.evaluation.answers import Answers, CaseAnswer, answers_of
from agfnet.evaluation.notes import ECE_BIAS, FEW_CASES, few_patients_note, mixes_apart
from agfnet.evaluation.summary import cell, figure_text, figure_title, table_line
from agfnet.files import write_json, write_text
from agfnet.metrics.patients import DRAWS
from agfnet.metrics.ranking import malignancy
from agfnet.metrics.scores import BIASED, HEADLINE, MALIGNANT, OVER_CLASSES, all_scores
from agfnet.metrics.significance import delong, mcnemar
from agfnet.metrics.statistics import known, paired_difference
from agfnet.prediction.output import stated_prevalence
from agfnet.prediction.predictor import Predictor
from agfnet.types import RESEARCH_USE, ConfigError, TableError

AGAINST = ("against.json", "against.md")
"""What is written into an evaluation's folder."""
RATES = {"sensitivity": "Sensitivity", "specificity": "Specificity", "auc": "AUC"}
"""Of each class, as readers see them."""
SAME_MIX = 0.02
"""Mixes of diagnoses that differ by no larger share of cases are taken for the same."""


def check_same_classes(first: Predictor, second: Predictor) -> None:
    """Refuse networks that do not tell the same diagnoses apart; their order does not matter.

    Raises:
        ConfigError: they do not.
    """
    if set(first.classes) != set(second.classes):
        raise ConfigError(
            f"--against: its classes are {', '.join(second.classes)}, and not {', '.join(first.classes)}: figures of "
            "other diagnoses do not compare. Evaluate each by itself."
        )


def against(
    first: tuple[Predictor, Sequence[CaseAnswer]],
    second: tuple[Predictor, Sequence[CaseAnswer]],
    *,
    draws: int = DRAWS,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Every figure of both networks on the labelled cases that both answered, and the paired difference.

    Args:
        first: the network that is evaluated, and its answers.
        second: the one that it is held against, of the same classes, and its answers.
        draws: of the bootstrap over patients.
        notes: what a reader must know first.

    Returns:
        See `difference`; also `bundle_sha256` of both, the `prevalence` that is stated or configured for each (or
        None), and `referred`, the share of these cases that each hands back, where both are calibrated (else None).

    Raises:
        TableError: no labelled case was answered by both.
    """
    (network, _), (rival, _) = first, second
    told = [{case.case_id: (case, answer) for case, answer in own} for _, own in (first, second)]
    both = [name for name, (case, _) in told[0].items() if name in told[1] and case.label is not None]
    if not both:
        raise TableError("no labelled case was answered by both networks.")
    kept = [[own[name] for name in both] for own in told]
    answers, others = answers_of(kept[0], network.classes), answers_of(kept[1], rival.classes)
    order = [rival.classes.index(name) for name in network.classes]
    others = replace(others, labels=answers.labels, probabilities=others.probabilities[:, order])
    malignant = network.bundle.facts["malignant"] or None
    made = difference(answers, others, network.classes, malignant=malignant, draws=draws)
    calibrated = [one.decision is not None for one in (network, rival)]
    said = list(notes)
    if calibrated[0] != calibrated[1]:
        said.append(f"Only the {'first' if calibrated[0] else 'second'} network is calibrated.")
    stated = [stated_prevalence(one) for one in (network, rival)]
    if mixes_apart(network.prior, rival.prior[order]) > SAME_MIX:
        first_mix, second_mix = (mix or "as among its own training cases" for mix in stated)
        said.append(
            f"They answer for diagnoses of another frequency (first: {first_mix}; second: {second_mix}), which by "
            "itself changes accuracy, sensitivity and NLL: state one for both with --prevalence."
        )
    if lacking := len(told[0].keys() | told[1].keys()) - len(both):
        said.append(f"{lacking} more cases have no label, or were answered by one of the two alone: left out.")
    referred = [float(np.mean([bool(answer.referred) for _, answer in own])) for own in kept]
    return made | {
        "bundle_sha256": [network.bundle.sha256, rival.bundle.sha256],
        "prevalence": stated,
        "referred": referred if all(calibrated) else None,
        "notes": [*said, *made["notes"]],
    }


def difference(
    first: Answers,
    second: Answers,
    classes: Sequence[str],
    *,
    malignant: Sequence[str] | None = None,
    draws: int = DRAWS,
) -> dict[str, Any]:
    """Every figure of two networks' answers on the same cases, and first minus second.

    Args:
        first: answers; labels and columns are by `classes`.
        second: the same cases in the same order.
        classes: names.
        malignant: names of the malignant classes, if any.
        draws: of the bootstrap over patients.

    Returns:
        `n_cases`, `n_patients`, `draws`; `metrics`: name -> {first, second, difference {value, low, high}, p};
        `per_class`: class -> name in `RATES` -> the same, without interval and p where too few patients tell of it;
        `mcnemar` of the accuracies and, with malignant classes,
        `delong` of the malignant AUCs, each None where a patient has several lesions (or there are fewer than two
        malignant or benign cases): they take cases for independent; `notes`. What is not defined is None.
    """
    chosen = None if malignant is None else [list(classes).index(name) for name in malignant]
    patients, y = first.patients, first.labels
    one, other = (partial(all_scores, y, own.probabilities, malignant=chosen) for own in (first, second))
    apart = paired_difference(one, other, patients, draws=draws, without=BIASED)
    values = one(), other()
    owners, single = np.asarray(patients), len(set(patients)) == len(patients)
    said = [own.probabilities.argmax(axis=1) for own in (first, second)]

    def entry(name: str, index: int | tuple[()] = (), *, sure: bool = True) -> dict[str, Any]:
        gap = apart[name].as_json(index)
        return {
            "first": known(values[0][name][index]),
            "second": known(values[1][name][index]),
            "difference": gap if sure else gap | {"low": None, "high": None},
            "p": known(apart[name].p[index]) if sure else None,
        }

    def enough(rate: str, k: int) -> bool:
        """Whether so many patients tell of a class that draws of them can judge the difference."""
        of, moved = y == k, (said[0] == k) != (said[1] == k)
        sides = {"sensitivity": [of & moved], "specificity": [~of & moved], "auc": [of, ~of]}
        return all(np.unique(owners[side]).size >= FEW_CASES for side in sides[rate])

    rare = any(np.unique(owners[y == k]).size < FEW_CASES for k in np.unique(y))

    return {
        "n_cases": len(first),
        "n_patients": len(set(patients)),
        "draws": draws,
        "metrics": {
            name: entry(name, sure=not (rare and name in OVER_CLASSES))
            for name in (*HEADLINE, *(MALIGNANT if chosen is not None else ()))
        },
        "per_class": {
            label: {"n_cases": int((y == k).sum())} | {rate: entry(rate, k, sure=enough(rate, k)) for rate in RATES}
            for k, label in enumerate(classes)
        },
        "mcnemar": asdict(mcnemar(_right(first), _right(second), patients)) if single else None,
        "delong": _delong(first, second, chosen) if single and chosen is not None else None,
        "notes": [
            "p is of each figure by itself: say beforehand which one decides.",
            "Intervals and p hold for these two trained networks; another training of either may come out otherwise.",
            (
                "Of a class, sensitivity and specificity have interval and p where the networks differ on it in "
                f"{FEW_CASES} patients or more, AUC where {FEW_CASES} have it and {FEW_CASES} do not; a mean over "
                f"classes where {FEW_CASES} have each. Draws of fewer look surer than they are."
            ),
            *few_patients_note(len(set(patients))),
            ECE_BIAS,
            *([] if single else ["Patients have several lesions: no McNemar's or DeLong's test."]),
        ],
    }


def _right(answers: Answers) -> NDArray[np.bool_]:
    return np.asarray(answers.probabilities.argmax(axis=1) == answers.labels)


def _delong(first: Answers, second: Answers, malignant: Sequence[int]) -> dict[str, float | None] | None:
    """DeLong's test of the malignant AUCs; None where there are too few malignant or benign cases for it."""
    (positive, one), (_, other) = (malignancy(own.labels, own.probabilities, malignant) for own in (first, second))
    if min(positive.sum(), (~positive).sum()) < 2:
        return None
    return {name: known(value) for name, value in asdict(delong(positive, one, other, first.patients)).items()}


def write_against(made: Mapping[str, Any], folder: Path) -> None:
    """Write what `against` gives as JSON, and as Markdown beside it."""
    figures, page = AGAINST
    write_json(folder / figures, {"notice": RESEARCH_USE, **made})
    write_text(folder / page, against_markdown(made))


def against_markdown(made: Mapping[str, Any]) -> str:
    """What `against` gives, as Markdown of about one screen."""
    first, second = (sha[:12] for sha in made["bundle_sha256"])
    lines = [
        "# Against another network",
        "",
        f"**{RESEARCH_USE}**",
        "",
        f"First: bundle {first}; second: bundle {second}.",
        table_line(made),
        f"{made['n_cases']} cases of {made['n_patients']} patients that both answered.",
        f"In brackets: 95 % interval, paired bootstrap over patients, {made['draws']} draws.",
        "",
        "| Figure | First | Second | First minus second | p |",
        "|---|---|---|---|---|",
        *(
            f"| {figure_title(name)} | {' | '.join(_sides(entry))} | {_number(entry['p'])} |"
            for name, entry in made["metrics"].items()
        ),
        "",
        f"| Class | Cases | {' | '.join(f'{title}: first, second, difference' for title in RATES.values())} |",
        "|---|---|" + "---|" * len(RATES),
        *(
            f"| {cell(label)} | {own['n_cases']} | {' | '.join(', '.join(_sides(own[rate])) for rate in RATES)} |"
            for label, own in made["per_class"].items()
        ),
        "",
    ]
    if test := made["mcnemar"]:
        lines.append(
            f"- Right by the first alone: {test['only_first']} cases; by the second alone: {test['only_second']}; "
            f"McNemar's test: p {_chance(test['p'])}."
        )
    if test := made["delong"]:
        apart = figure_text(test | {"value": test["difference"]}, "+.3f")
        lines.append(f"- Malignant vs benign AUC, first minus second: {apart}; DeLong's test: p {_chance(test['p'])}.")
    if made["referred"]:
        lines.append(f"- Referred: {made['referred'][0]:.1%} by the first, {made['referred'][1]:.1%} by the second.")
    return "\n".join([*lines, *(f"- {cell(note)}" for note in made["notes"])]) + "\n"


def _sides(entry: Mapping[str, Any]) -> list[str]:
    return [*(_number(entry[side]) for side in ("first", "second")), figure_text(entry["difference"], "+.3f")]


def _chance(p: float | None) -> str:
    return "< 0.001" if p is not None and p < 0.001 else f"= {_number(p)}"


def _number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"
